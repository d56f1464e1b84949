// Cache-line aligned memory with checked sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

namespace fr {

// Product of sizes, or std::length_error when it leaves 63 bits or a factor is negative.
template <class... Sizes>
int64_t checked_product(Sizes... sizes) {
  int64_t product = 1;
  for (int64_t size : {static_cast<int64_t>(sizes)...})
    if (size < 0 || __builtin_mul_overflow(product, size, &product))
      throw std::length_error("a size is negative or its product exceeds 63 bits");
  return product;
}

// An owned array of T, 64-byte aligned, uninitialised. T must be trivial.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : count_(count) {
    const int64_t bytes = (checked_product(count, sizeof(T)) + 63) / 64 * 64;
    if (bytes == 0) return;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, static_cast<size_t>(bytes))));
    if (!data_) throw std::bad_alloc();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t count_ = 0;
};

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t ceil_div(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace fr
