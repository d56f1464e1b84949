// The loops of every instruction set: some channels at a time, whose running sums stay in the first-level cache. The
// compiler turns the loops over channels into vectors.
#include "kernels/local_mean/local_mean.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int64_t kBlock = 64;  // channels at a time

// `count` values as floats; room: of kBlock, used where they are narrower.
FR_INLINE const float* floats(const float* from, int64_t, float*) { return from; }
FR_INLINE const float* floats(const Bf16* from, int64_t count, float* room) {
  for (int64_t c = 0; c < count; c += kWidth)
    store(room + c, c + kWidth <= count ? load(from + c) : load_partial(from + c, count - c));
  return room;
}

// Adds what enters at a place of the row, less what leaves there, to `sums`; or takes it off them.
template <bool kLeaves, bool kOff, class T>
FR_INLINE void change(const T* enter, const T* leave, int64_t place, int64_t count, double* __restrict sums) {
  float room[2][kBlock];
  const float* in = floats(enter + place, count, room[0]);
  const float* out = kLeaves ? floats(leave + place, count, room[1]) : nullptr;
  for (int64_t c = 0; c < count; ++c) {
    double value = static_cast<double>(in[c]);
    if (kLeaves) value -= static_cast<double>(out[c]);
    sums[c] += kOff ? -value : value;
  }
}

template <class T, bool kLeaves>
void add_row(const LocalMeanRow& r) {
  const T *enter = static_cast<const T*>(r.enter), *leave = static_cast<const T*>(r.leave);
  const auto begin_of = [&](int64_t x) { return min(max(x - (r.side - 1) / 2, 0), r.width - r.side); };
  for (int64_t left = r.x_begin; left < r.x_end; left += kMeanGrid)
    for (int64_t first = 0; first < r.channels; first += kBlock) {
      const int64_t count = min(r.channels - first, kBlock);
      const auto place = [&](int64_t x) { return x * r.pitch + first; };
      double window[kBlock] = {};
      int64_t begin = begin_of(left);
      for (int64_t x = begin; x < begin + r.side; ++x) change<kLeaves, false>(enter, leave, place(x), count, window);
      for (int64_t x = left; x < min(left + kMeanGrid, r.x_end); ++x) {
        if (begin_of(x) > begin) {
          change<kLeaves, false>(enter, leave, place(begin + r.side), count, window);
          change<kLeaves, true>(enter, leave, place(begin), count, window);
          ++begin;
        }
        double* __restrict sums = r.sums + x * r.channels + first;
        for (int64_t c = 0; c < count; ++c) sums[c] += window[c];
      }
    }
}

void add(const LocalMeanRow& r) {
  if (r.element == Element::f32)
    r.leave != nullptr ? add_row<float, true>(r) : add_row<float, false>(r);
  else
    r.leave != nullptr ? add_row<Bf16, true>(r) : add_row<Bf16, false>(r);
}

template <class T>
void write_row(const LocalMeanRow& r, T* out, int64_t out_pitch, double scale) {
  for (int64_t x = r.x_begin; x < r.x_end; ++x, out += out_pitch)
    for (int64_t first = 0; first < r.channels; first += kBlock) {
      const int64_t count = min(r.channels - first, kBlock);
      const double* sums = r.sums + x * r.channels + first;
      float means[kBlock];
      for (int64_t c = 0; c < count; ++c) means[c] = static_cast<float>(sums[c] * scale);
      int64_t c = 0;
      for (; c + kWidth <= count; c += kWidth) store(out + first + c, load(means + c));
      if (c < count) store_partial(out + first + c, load_partial(means + c, count - c), count - c);
    }
}

void write(const LocalMeanRow& r, const Result& out, double scale) {
  if (out.element == Element::f32)
    write_row(r, static_cast<float*>(out.data), out.pitch, scale);
  else
    write_row(r, static_cast<Bf16*>(out.data), out.pitch, scale);
}

constexpr LocalMeanKernels kernels = {add, write};

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
