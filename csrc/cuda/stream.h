// What runs beside what: streams, events between them, page-locked memory that copies pass through, and recorded
// launches. None of these waits for the device but the functions named wait.
#pragma once
#include <cstdint>
#include <functional>
#include <utility>

#include "cuda/kernels.h"

namespace fr::cuda {

// A number that the runtime gave, and takes back at the end.
template <void (*kRelease)(void*)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(void* handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) kRelease(handle_);
  }

  void* get() const { return handle_; }

 private:
  void* handle_ = nullptr;
};

void release_stream(void* stream);
void release_event(void* event);
void release_launches(void* launches);
void release_host_memory(void* data);

using OwnStream = Owned<release_stream>;
using Event = Owned<release_event>;
using Launches = Owned<release_launches>;  // a CUDA graph, ready to be launched
using HostMemory = Owned<release_host_memory>;

OwnStream make_stream();  // of its own: it does not wait for the default stream
Event make_event();
// Page-locked. Throws std::bad_alloc where the machine has no more.
HostMemory make_host_memory(int64_t bytes);

// Marks what was launched on the stream so far. An event that was never recorded holds nobody up.
void record(const Event& event, Stream stream);
void wait_for(Stream stream, const Event& event);  // what comes later on the stream begins after the event's last mark
void wait(const Event& event);                     // the same for the calling thread

// What `launch` launches on the stream is recorded instead of run.
Launches record_launches(Stream stream, const std::function<void()>& launch);
void launch(const Launches& launches, Stream stream);

// Whether an address is the device's own: kernels read it as it is.
bool on_device(const void* data);

}  // namespace fr::cuda
