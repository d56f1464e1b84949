// csrc/cuda/device.cu for the emulated machine: its memory is the host's, announced to the kernels, and nothing runs
// later than it is launched.
#include <cstdlib>
#include <new>

#include "cuda/memory.h"
#include "emulator.h"

namespace fr::cuda {

Device current_device() {
  const Machine& machine = Machine::get();
  return {machine.capability, machine.processors, machine.shared_limit};
}
int device_count() { return 1; }

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = static_cast<uint8_t*>(std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256)));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_, 0xff, static_cast<size_t>(bytes));  // NaN in every type
  Machine::get().buffers.push_back({data_, static_cast<size_t>(bytes), true});
}

DeviceMemory::~DeviceMemory() {
  std::vector<emulator::Buffer>& known = Machine::get().buffers;
  known.erase(std::remove_if(known.begin(), known.end(), [&](const auto& buffer) { return buffer.begin == data_; }),
              known.end());
  std::free(data_);
}

void copy_to_device(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
                    Stream) {
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(static_cast<uint8_t*>(to) + row * to_pitch, static_cast<const uint8_t*>(from) + row * from_pitch,
                static_cast<size_t>(row_bytes));
}

void copy_to_host(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
                  Stream stream) {
  copy_to_device(to, to_pitch, from, from_pitch, row_bytes, rows, stream);
}

void clear(void* to, int64_t bytes, Stream) { std::memset(to, 0, static_cast<size_t>(bytes)); }

void wait(Stream) {}

}  // namespace fr::cuda
