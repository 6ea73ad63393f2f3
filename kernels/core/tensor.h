// A dense, row-major array on a device: a counted handle to pooled memory, a dtype and a shape.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <string>

#include "kernels/core/dtype.h"
#include "kernels/core/memory.h"
#include "kernels/core/stream.h"

namespace mneme {

// Up to four dims, outermost first.
class Shape {
 public:
  Shape() = default;  // of rank 0: one element
  Shape(std::initializer_list<int64_t> dims) {
    CHECK_LE(dims.size(), size_t{4});
    for (int64_t d : dims) dims_[static_cast<size_t>(rank_++)] = d;
  }
  int rank() const { return rank_; }
  // 0 for dims from rank() to 3. REQUIRES: 0 <= i < 4.
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= (*this)[i];
    return n;
  }
  friend bool operator==(const Shape& a, const Shape& b) = default;
  std::string ToString() const;  // "[4, 128]"
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) { return out << s.ToString(); }

 private:
  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};

// Copying a Tensor copies the handle, not the data; with the last handle the memory goes back to
// its pool, which outlives all tensors. An empty handle (defined() is false) stands for "no
// tensor". Const says that the handle stays, and that its memory is only read.
class Tensor {
 public:
  Tensor() = default;

  // Uninitialised memory from the stream's pool.
  static Tensor Empty(Stream& stream, DType dtype, Shape shape,
                      MemoryTag tag = MemoryTag::kActivations);
  // Set to 0 in the order of the stream.
  static Tensor Zeros(Stream& stream, DType dtype, Shape shape,
                      MemoryTag tag = MemoryTag::kActivations);
  // A view of memory that the caller owns and keeps alive.
  static Tensor Wrap(void* data, DType dtype, Shape shape, Device device = {});

  bool defined() const { return data_ != nullptr || shape_.rank() > 0; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t elements() const { return shape_.elements(); }
  int64_t bytes() const { return elements() * SizeOf(dtype_); }
  const Device& device() const { return device_; }

  void* raw() { return data_; }
  const void* raw() const { return data_; }
  // REQUIRES: T is the tensor's dtype.
  template <class T>
  T* data() {
    CHECK_EQ(Name(dtype_), Name(DTypeOf<T>));
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* data() const {
    CHECK_EQ(Name(dtype_), Name(DTypeOf<T>));
    return static_cast<const T*>(data_);
  }

  // The same memory under another shape. REQUIRES: equal element counts.
  Tensor Reshape(Shape shape) const;
  // Rows [begin, end) of the outermost dim; shares the memory. REQUIRES: 0 <= begin <= end <=
  // dim(0).
  Tensor Rows(int64_t begin, int64_t end) const;
  // A flat view [end - begin] of elements [begin, end).
  Tensor Flat(int64_t begin, int64_t end) const;

 private:
  struct Storage;
  std::shared_ptr<Storage> storage_;  // null: memory of the caller (Wrap)
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
  Device device_;
};

// All bytes 0.
void Zero(Stream& stream, Tensor& x);
// Host to device and back. Upload: `host` may be reused on return; Download: the bytes are there on
// return. REQUIRES: `bytes` equals the tensor's bytes.
void Upload(Stream& stream, const void* host, int64_t bytes, Tensor& to);
void Download(Stream& stream, const Tensor& from, void* host, int64_t bytes);

}  // namespace mneme
