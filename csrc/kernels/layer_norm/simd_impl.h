// The loops of every instruction set: vectors of channels, some pixels at a time so that their sums overlap.
#include "kernels/layer_norm/layer_norm.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int kPixels = 4;

FR_INLINE Vec read(const float* data, int64_t count) {
  return count == kWidth ? load(data) : load_partial(data, count);
}

template <int kCount>
FR_INLINE void normalise(const LayerNormRow& row, int64_t x) {
  const float* in[kCount];
  Vec total[kCount] = {};
  for (int m = 0; m < kCount; ++m) in[m] = row.in + (x + m) * row.in_pitch;
  const int64_t whole = row.channels / kWidth * kWidth, rest = row.channels - whole;
  for (int64_t c = 0; c < row.channels; c += kWidth)
    for (int m = 0; m < kCount; ++m) total[m] += read(in[m] + c, c < whole ? kWidth : rest);
  const float count = static_cast<float>(row.channels);
  Vec mean[kCount], squares[kCount] = {}, gain[kCount];
  for (int m = 0; m < kCount; ++m) mean[m] = broadcast(sum(total[m]) / count);
  for (int64_t c = 0; c < whole; c += kWidth)
    for (int m = 0; m < kCount; ++m) {
      const Vec off = load(in[m] + c) - mean[m];
      squares[m] = fma(off, off, squares[m]);
    }
  if (rest > 0)
    for (int m = 0; m < kCount; ++m) {
      float lanes[kWidth] = {};  // idle lanes would add the mean's square
      store_partial(lanes, load_partial(in[m] + whole, rest) - mean[m], rest);
      const Vec off = load(lanes);
      squares[m] = fma(off, off, squares[m]);
    }
  for (int m = 0; m < kCount; ++m) {
    gain[m] = broadcast(1.0f / __builtin_sqrtf(sum(squares[m]) / count + row.epsilon));
    if (!row.centred) mean[m] = broadcast(0.0f);
  }
  for (int64_t c = 0; c < row.channels; c += kWidth) {
    const int64_t lanes = c < whole ? kWidth : rest;
    const Vec scale = read(row.scale + c, lanes), shift = read(row.shift + c, lanes);
    for (int m = 0; m < kCount; ++m) {
      const Vec result = fma((read(in[m] + c, lanes) - mean[m]) * gain[m], scale, shift);
      float* out = row.out + (x + m) * row.out_pitch + c;
      if (lanes == kWidth)
        store(out, result);
      else
        store_partial(out, result, lanes);
    }
  }
}

void layer_norm(const LayerNormRow& row) {
  int64_t x = 0;
  for (; x + kPixels <= row.pixels; x += kPixels) normalise<kPixels>(row, x);
  for (; x < row.pixels; ++x) normalise<1>(row, x);
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
