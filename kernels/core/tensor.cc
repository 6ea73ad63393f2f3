#include "kernels/core/tensor.h"

namespace mneme {

struct Tensor::Storage {
  Allocator& allocator;
  void* block;
  int64_t bytes;
  MemoryTag tag;
  bool of_side;
  Storage(Stream& stream, int64_t n, MemoryTag t)
      : allocator(stream.allocator()),
        block(allocator.Allocate(n, t)),
        bytes(n),
        tag(t),
        of_side(stream.is_side()) {}
  ~Storage() { allocator.Free(block, bytes, tag, of_side); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

std::string Shape::ToString() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) out += (i ? ", " : "") + std::to_string((*this)[i]);
  return out + "]";
}

Tensor Tensor::Empty(Stream& stream, DType dtype, Shape shape, MemoryTag tag) {
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = shape;
  t.device_ = stream.device();
  t.storage_ = std::make_shared<Storage>(stream, t.bytes(), tag);
  t.data_ = t.storage_->block;
  return t;
}

Tensor Tensor::Zeros(Stream& stream, DType dtype, Shape shape, MemoryTag tag) {
  Tensor t = Empty(stream, dtype, shape, tag);
  Zero(stream, t);
  return t;
}

Tensor Tensor::Wrap(void* data, DType dtype, Shape shape, Device device) {
  Tensor t;
  t.data_ = data;
  t.dtype_ = dtype;
  t.shape_ = shape;
  t.device_ = device;
  return t;
}

Tensor Tensor::Reshape(Shape shape) const {
  CHECK_EQ(shape.elements(), elements());
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::Rows(int64_t begin, int64_t end) const {
  CHECK_LE(0, begin);
  CHECK_LE(begin, end);
  CHECK_LE(end, dim(0));
  Tensor t = *this;
  int64_t inner = 1;
  for (int i = 1; i < shape_.rank(); ++i) inner *= dim(i);
  t.data_ = static_cast<char*>(data_) + begin * inner * SizeOf(dtype_);
  switch (shape_.rank()) {
    case 1:
      t.shape_ = {end - begin};
      break;
    case 2:
      t.shape_ = {end - begin, dim(1)};
      break;
    case 3:
      t.shape_ = {end - begin, dim(1), dim(2)};
      break;
    default:
      t.shape_ = {end - begin, dim(1), dim(2), dim(3)};
  }
  return t;
}

Tensor Tensor::Flat(int64_t begin, int64_t end) const {
  return Reshape({elements()}).Rows(begin, end);
}

void Zero(Stream& stream, Tensor& x) {
  if (x.bytes() > 0) stream.driver().zero(stream.queue(), x.raw(), x.bytes());
}

void Upload(Stream& stream, const void* host, int64_t bytes, Tensor& to) {
  CHECK_EQ(bytes, to.bytes());
  if (bytes > 0) stream.driver().upload(stream.queue(), host, to.raw(), bytes);
}

void Download(Stream& stream, const Tensor& from, void* host, int64_t bytes) {
  CHECK_EQ(bytes, from.bytes());
  if (bytes > 0) stream.driver().download(stream.queue(), from.raw(), host, bytes);
}

}  // namespace mneme
