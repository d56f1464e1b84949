// Memory of the current device, and copies to and from it.
#pragma once
#include <cstdint>
#include <utility>

#include "cuda/kernels.h"

namespace fr::cuda {

// Owned bytes on a device, aligned to 256. Throws std::bad_alloc where the device has no more.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(int64_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceMemory();

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(DeviceMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Rows of row_bytes from and to memory of the host or the device; pitches from row to row. Ordinary memory on the host
// is free again when this returns; page-locked memory, once the stream has come that far.
void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
          Stream stream);
void clear(void* to, int64_t bytes, Stream stream);
void wait(Stream stream);  // until all that was launched is done; throws what went wrong

}  // namespace fr::cuda
