#include "engine/cuda_copies.h"

#include <algorithm>
#include <cstring>

#include "base/buffer.h"

namespace fr {
namespace {

constexpr int64_t kWidestSample = 4;

void copy_rows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows) {
  for (int64_t y = 0; y < rows; ++y)
    std::memcpy(static_cast<char*>(to) + y * to_pitch, static_cast<const char*>(from) + y * from_pitch,
                static_cast<size_t>(row_bytes));
}

void grow(cuda::DeviceMemory& memory, int64_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = cuda::DeviceMemory();
  memory = cuda::DeviceMemory(bytes);
}

}  // namespace

CudaCopies::CudaCopies() : work_(cuda::make_stream()), copies_(cuda::make_stream()), begun_(cuda::make_event()) {
  for (Slot& slot : slots_) {
    slot.sent = cuda::make_event();
    slot.worked = cuda::make_event();
    slot.fetched = cuda::make_event();
  }
}

// Nothing may run on memory that is given back.
CudaCopies::~CudaCopies() {
  try {
    wait_for_all();
  } catch (const std::exception&) {  // the device is lost: nothing runs
  }
}

int64_t CudaCopies::bytes(int64_t in, int64_t out, int64_t channels, bool several) {
  return checked_product(in + out, channels, kWidestSample, several ? 2 : 1);
}

int64_t CudaCopies::bytes_after(int64_t in, int64_t out, int64_t channels, bool several) const {
  int64_t bytes = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int64_t pixel = i == 0 || several ? channels * kWidestSample : 0;
    bytes += std::max(slots_[i].in.bytes(), in * pixel) + std::max(slots_[i].out.bytes(), out * pixel);
  }
  return bytes;
}

void CudaCopies::release() {
  for (Slot& slot : slots_) {
    slot.in = cuda::DeviceMemory();
    slot.out = cuda::DeviceMemory();
  }
}

void CudaCopies::begin(const Picture& picture, int64_t in, int64_t out, int64_t channels, bool several,
                       cuda::Stream after) {
  picture_ = picture;
  several_ = several;
  in_there_ = cuda::on_device(picture.in);
  out_there_ = cuda::on_device(picture.out);
  const int64_t in_bytes = in * channels * kWidestSample, out_bytes = out * channels * kWidestSample;
  const bool host_grows = several && (in_bytes > host_in_bytes_ || out_bytes > host_out_bytes_);
  for (size_t i = 0; i < (several ? 2 : 1); ++i) {
    Slot& slot = slots_[i];
    if (!in_there_) grow(slot.in, in_bytes);
    if (!out_there_) grow(slot.out, out_bytes);
    if (host_grows) {
      slot.host_in = cuda::make_host_memory(in_bytes);
      slot.host_out = cuda::make_host_memory(out_bytes);
    }
  }
  if (host_grows) {
    host_in_bytes_ = in_bytes;
    host_out_bytes_ = out_bytes;
  }
  cuda::record(begun_, after);
  cuda::wait_for(work_.get(), begun_);
}

// A part alone, without a gap between its rows.
cuda::PictureRows CudaCopies::rows_of(const Box& box) const {
  const int64_t pixel = picture_.channels * pixel_bytes(picture_.type);
  return {picture_.type,  picture_.height,  picture_.width, picture_.channels, box.columns.size() * pixel,
          box.rows.begin, box.columns.begin};
}

void CudaCopies::send(int64_t part, const Box& box) {
  Slot& slot = this->slot(part);
  if (in_there_) {
    slot.held.rows = {picture_.type, picture_.height, picture_.width, picture_.channels, picture_.in_row_bytes};
    slot.held.data = const_cast<void*>(picture_.in);
    return;
  }
  slot.held = {rows_of(box), slot.in.data()};
  const int64_t row_bytes = slot.held.rows.row_bytes, rows = box.rows.size();
  const void* from = static_cast<const char*>(picture_.in) + box.rows.begin * picture_.in_row_bytes +
                     box.columns.begin * picture_.channels * pixel_bytes(picture_.type);
  int64_t pitch = picture_.in_row_bytes;
  if (several_) {
    cuda::wait(slot.sent);
    copy_rows(slot.host_in.get(), row_bytes, from, pitch, row_bytes, rows);
    from = slot.host_in.get();
    pitch = row_bytes;
  }
  cuda::wait_for(copies_.get(), slot.worked);
  cuda::copy(slot.in.data(), row_bytes, from, pitch, row_bytes, rows, copies_.get());
  cuda::record(slot.sent, copies_.get());
}

CudaCopies::Held CudaCopies::arrived(int64_t part) {
  Slot& slot = this->slot(part);
  if (!in_there_) cuda::wait_for(work_.get(), slot.sent);
  return slot.held;
}

CudaCopies::Held CudaCopies::result(int64_t part, const Box& box) {
  Slot& slot = this->slot(part);
  slot.result = {rows_of(box), slot.out.data()};
  if (out_there_) {
    slot.result.rows = {picture_.type, picture_.height, picture_.width, picture_.channels, picture_.out_row_bytes};
    slot.result.data = picture_.out;
  }
  return slot.result;
}

void CudaCopies::worked(int64_t part) { cuda::record(slot(part).worked, work_.get()); }

void CudaCopies::fetch(int64_t part, const Box& box) {
  if (out_there_) return;
  Slot& slot = this->slot(part);
  const int64_t row_bytes = slot.result.rows.row_bytes;
  void* to = static_cast<char*>(picture_.out) + box.rows.begin * picture_.out_row_bytes +
             box.columns.begin * picture_.channels * pixel_bytes(picture_.type);
  cuda::wait_for(copies_.get(), slot.worked);
  cuda::copy(several_ ? slot.host_out.get() : to, several_ ? row_bytes : picture_.out_row_bytes, slot.out.data(),
             row_bytes, row_bytes, box.rows.size(), copies_.get());
  cuda::record(slot.fetched, copies_.get());
}

void CudaCopies::finish(int64_t part, const Box& box) {
  if (out_there_) return;
  Slot& slot = this->slot(part);
  cuda::wait(slot.fetched);
  if (!several_) return;
  const int64_t row_bytes = slot.result.rows.row_bytes;
  copy_rows(static_cast<char*>(picture_.out) + box.rows.begin * picture_.out_row_bytes +
                box.columns.begin * picture_.channels * pixel_bytes(picture_.type),
            picture_.out_row_bytes, slot.host_out.get(), row_bytes, row_bytes, box.rows.size());
}

void CudaCopies::wait_for_all() {
  cuda::wait(copies_.get());
  cuda::wait(work_.get());
}

}  // namespace fr
