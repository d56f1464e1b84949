// csrc/cuda/device.cu for the emulated machine: its memory is the host's, announced to the kernels; its streams are
// driver.h's.
#include <cstdlib>
#include <new>

#include "cuda/memory.h"
#include "cuda/stream.h"
#include "driver.h"
#include "emulator.h"

namespace fr::cuda {

using emulator::Driver;

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
  Driver& driver = Driver::get();
  driver.device_bytes += bytes;
  driver.most_device_bytes = std::max(driver.most_device_bytes, driver.device_bytes);
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  try {
    Driver::get().drain();           // as cudaFree does
  } catch (const std::exception&) {  // a kernel's fault, which was told where it was waited for
  }
  std::vector<emulator::Buffer>& known = Machine::get().buffers;
  known.erase(std::remove_if(known.begin(), known.end(), [&](const auto& buffer) { return buffer.begin == data_; }),
              known.end());
  std::free(data_);
  Driver::get().device_bytes -= bytes_;
}

void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
          Stream stream) {
  Driver::get().enqueue(stream, "copy", row_bytes * rows, [=] {
    for (int64_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<uint8_t*>(to) + row * to_pitch, static_cast<const uint8_t*>(from) + row * from_pitch,
                  static_cast<size_t>(row_bytes));
  });
}

void clear(void* to, int64_t bytes, Stream stream) {
  Driver::get().enqueue(stream, "clear", bytes, [=] { std::memset(to, 0, static_cast<size_t>(bytes)); });
}

void wait(Stream stream) { Driver::get().wait_stream(stream); }

void release_stream(void*) {}
void release_event(void*) {}
void release_launches(void*) {}
void release_host_memory(void* data) { std::free(data); }

OwnStream make_stream() { return OwnStream(Driver::get().make()); }
Event make_event() { return Event(Driver::get().make()); }
HostMemory make_host_memory(int64_t bytes) {
  void* data = std::malloc(static_cast<size_t>(bytes));
  if (data == nullptr) throw std::bad_alloc();
  std::memset(data, 0xff, static_cast<size_t>(bytes));
  return HostMemory(data);
}

void record(const Event& event, Stream stream) { Driver::get().mark(event.get(), stream); }
void wait_for(Stream stream, const Event& event) { Driver::get().hold(stream, event.get()); }
void wait(const Event& event) { Driver::get().wait_event(event.get()); }

Launches record_launches(Stream stream, const std::function<void()>& launch) {
  Driver& driver = Driver::get();
  Launches launches(driver.begin_recording(stream));
  try {
    launch();
  } catch (...) {
    driver.end_recording();
    throw;
  }
  driver.end_recording();
  return launches;
}
void launch(const Launches& launches, Stream stream) { Driver::get().replay(launches.get(), stream); }

bool on_device(const void* data) {
  const auto address = static_cast<const uint8_t*>(data);
  for (const emulator::Buffer& buffer : Machine::get().buffers)
    if (address >= buffer.begin && address < buffer.begin + buffer.bytes) return true;
  return false;
}

}  // namespace fr::cuda
