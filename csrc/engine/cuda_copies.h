// The parts of a picture on their way to a GPU and back, beside the work on other parts.
//
// There are two streams and, where a picture has several parts, two slots of memory, on the device and page-locked on
// the host. Part i uses slot i % 2. What waits for what, beside the order of each stream:
//
//   host    fills a slot of the host      after the copy of part i - 2 from it
//   copies  to the device                 after the work on part i - 2, which reads the slot
//   work    on part i                     after the copy of part i to the device
//   copies  to the host                   after the work on part i
//   host    takes the result              after the copy of part i to the host, and before the work on part i + 2
//
// The copy of part i + 1 to the device is enqueued before that of part i to the host, which waits for the work. A
// picture of one part is copied from and to the caller's own memory; one that lies on the device is not copied.
#pragma once
#include <array>

#include "cuda/memory.h"
#include "cuda/stream.h"
#include "engine/picture.h"

namespace fr {

// Rows and columns of a picture.
struct Box {
  Interval rows, columns;
};

class CudaCopies {
 public:
  CudaCopies();
  ~CudaCopies();

  // Bytes of the device that parts of `in` and results of `out` pixels, of the model's channels, take. The widest
  // samples are counted, so that all kinds of pictures are cut alike.
  static int64_t bytes(int64_t in, int64_t out, int64_t channels, bool several);

  // What is held once such parts have begun: memory that was taken before is kept.
  int64_t bytes_after(int64_t in, int64_t out, int64_t channels, bool several) const;
  void release();  // gives the device's memory back

  // Before the first part. Work begins after what was launched on `after` so far.
  void begin(const Picture& picture, int64_t in, int64_t out, int64_t channels, bool several, cuda::Stream after);

  // Part of the picture, or of the result, on the device.
  struct Held {
    cuda::PictureRows rows;
    void* data;
  };
  void send(int64_t part, const Box& box);    // enqueues its copy to the device
  Held arrived(int64_t part);                 // work that is enqueued from here on finds it there
  Held result(int64_t part, const Box& box);  // where the work puts this part's result
  void worked(int64_t part);                  // the work on this part has been enqueued
  void fetch(int64_t part, const Box& box);   // enqueues the copy of its result to the host
  void finish(int64_t part, const Box& box);  // waits for it; the caller has it
  void wait_for_all();                        // of both streams

  cuda::Stream work() const { return work_.get(); }

 private:
  struct Slot {
    cuda::DeviceMemory in, out;
    cuda::HostMemory host_in, host_out;
    cuda::Event sent, worked, fetched;
    Held held, result;
  };
  Slot& slot(int64_t part) { return slots_[static_cast<size_t>(part % 2)]; }
  cuda::PictureRows rows_of(const Box& box) const;

  cuda::OwnStream work_, copies_;
  cuda::Event begun_;
  std::array<Slot, 2> slots_;
  int64_t host_in_bytes_ = 0, host_out_bytes_ = 0;
  Picture picture_;
  bool in_there_ = false, out_there_ = false, several_ = false;
};

}  // namespace fr
