// The loops of every instruction set: vectors of channels, some pixels at a time so that their sums overlap.
#include "kernels/layer_norm/layer_norm.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int kPixels = 4;
constexpr int64_t kWidened = 1024;  // the most values of a pixel that are kept as floats, a multiple of 16

template <class T>
FR_INLINE Vec read(const T* data, int64_t count) {
  return count == kWidth ? load(data) : load_partial(data, count);
}

// Pixels x to x + kCount - 1 of the row, whose values begin at in.
template <int kCount, class In, class Out>
FR_INLINE void normalise(const LayerNormRow& row, int64_t x, const In* const (&in)[kCount]) {
  Vec total[kCount] = {};
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
    for (int m = 0; m < kCount; ++m) {  // idle lanes would add the mean's square
      const Vec off = first_lanes(load_partial(in[m] + whole, rest) - mean[m], rest);
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
      Out* out = static_cast<Out*>(row.out) + (x + m) * row.out_pitch + c;
      if (lanes == kWidth)
        store(out, result);
      else
        store_partial(out, result, lanes);
    }
  }
}

// Pixels of bfloat16 are widened once for the three times that they are read.
template <int kCount, class In, class Out>
FR_INLINE void normalise(const LayerNormRow& row, int64_t x) {
  const In* in[kCount];
  for (int m = 0; m < kCount; ++m) in[m] = static_cast<const In*>(row.in) + (x + m) * row.in_pitch;
  if (sizeof(In) == sizeof(float) || row.channels > kWidened) return normalise<kCount, In, Out>(row, x, in);
  alignas(64) float values[kCount][kWidened];
  const float* widened[kCount];
  for (int m = 0; m < kCount; ++m) {
    widened[m] = values[m];
    int64_t c = 0;
    for (; c + kWidth <= row.channels; c += kWidth) store(values[m] + c, load(in[m] + c));
    if (c < row.channels) store(values[m] + c, load_partial(in[m] + c, row.channels - c));
  }
  normalise<kCount, float, Out>(row, x, widened);
}

template <class In, class Out>
void normalise_row(const LayerNormRow& row) {
  int64_t x = 0;
  for (; x + kPixels <= row.pixels; x += kPixels) normalise<kPixels, In, Out>(row, x);
  for (; x < row.pixels; ++x) normalise<1, In, Out>(row, x);
}

void layer_norm(const LayerNormRow& row) {
  const bool narrow = row.out_element == Element::bf16;
  if (row.in_element == Element::bf16)
    narrow ? normalise_row<Bf16, Bf16>(row) : normalise_row<Bf16, float>(row);
  else
    narrow ? normalise_row<float, Bf16>(row) : normalise_row<float, float>(row);
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
