// A long array of rows that grows without being copied: pages of its own, moved by the kernel.
#pragma once

#include <cstdint>

namespace mneme {

// Owned by one store, used by its thread. Pages that were never written take no memory; rows read
// before they are written are zero. Addresses change when it grows.
class GrowingArray {
 public:
  explicit GrowingArray(int64_t row_bytes) : row_bytes_(row_bytes) {}
  ~GrowingArray();
  GrowingArray(const GrowingArray&) = delete;
  GrowingArray& operator=(const GrowingArray&) = delete;

  // Room for `rows` rows, and half as many again where it must grow. No room for addresses ends the
  // run ("the machine is wrong").
  void Reserve(int64_t rows);
  // Exactly `rows` rows, all zero.
  void Reset(int64_t rows);

  // REQUIRES: 0 <= i < rows(). Valid until it grows.
  char* row(int64_t i) { return data_ + i * row_bytes_; }
  const char* row(int64_t i) const { return data_ + i * row_bytes_; }
  // All rows, one after another.
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  int64_t row_bytes() const { return row_bytes_; }
  int64_t rows() const { return rows_; }  // that there is room for

 private:
  void Map(int64_t rows);

  int64_t row_bytes_;
  int64_t rows_ = 0;
  int64_t mapped_ = 0;  // bytes
  char* data_ = nullptr;
};

}  // namespace mneme
