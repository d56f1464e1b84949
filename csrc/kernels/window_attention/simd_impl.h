// One head of one window at a time, all of it in the first-level cache: keys are turned so that a vector holds one
// channel of neighbouring keys; scores are made by tiles of queries x keys that begin at the bias; softmax; values are
// summed by tiles of queries x channels.
#include "kernels/window_attention/window_attention.h"
#include "simd/math.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int kQueries = 6;                         // of a tile
constexpr int kVectors = kRegisters == 32 ? 4 : 2;  // of keys, or of channels

// [channel][key], zeros for keys that there are not.
void turn_keys(const float* const* pixels, int64_t count, int64_t first, int64_t channels, float scale, int64_t pitch,
               float* keys) {
  for (int64_t j = 0; j < pitch; j += kWidth)
    for (int64_t c = 0; c < channels; ++c) {
      Vec turned = {};
      const int64_t lanes = min(count - j, kWidth);
      if (lanes == kWidth) {
        FR_UNROLL
        for (int lane = 0; lane < kWidth; ++lane) turned[lane] = pixels[j + lane][first + c];
      } else {
        float values[kWidth] = {};
        for (int64_t lane = 0; lane < lanes; ++lane) values[lane] = pixels[j + lane][first + c];
        turned = load(values);
      }
      store(keys + c * pitch + j, turned * broadcast(scale));
    }
}

template <int kRows, int kColumns>
FR_INLINE void score_tile(const float* const* queries, int64_t first, int64_t channels, const float* keys,
                          const float* bias, int64_t pitch, float* scores) {
  Vec sum[kRows][kColumns];
  FR_UNROLL
  for (int m = 0; m < kRows; ++m) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) sum[m][n] = load(bias + m * pitch + n * kWidth);
  }
  const float* query[kRows];
  FR_UNROLL
  for (int m = 0; m < kRows; ++m) query[m] = queries[m] + first;
  for (int64_t c = 0; c < channels; ++c) {
    Vec key[kColumns];
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) key[n] = load(keys + c * pitch + n * kWidth);
    FR_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const Vec value = broadcast(query[m][c]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[m][n] = fma(value, key[n], sum[m][n]);
    }
  }
  FR_UNROLL
  for (int m = 0; m < kRows; ++m) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) store(scores + m * pitch + n * kWidth, sum[m][n]);
  }
}

template <int kRows>
void score_rows(const float* const* queries, int64_t first, int64_t channels, const float* keys, const float* bias,
                int64_t pitch, float* scores) {
  int64_t j = 0;
  for (; j + kVectors * kWidth <= pitch; j += kVectors * kWidth)
    score_tile<kRows, kVectors>(queries, first, channels, keys + j, bias + j, pitch, scores + j);
  for (; j < pitch; j += kWidth) score_tile<kRows, 1>(queries, first, channels, keys + j, bias + j, pitch, scores + j);
}

// The softmax's numerators in place; returns one over their sum.
FR_INLINE float exponentials(float* scores, int64_t pitch) {
  Vec most = load(scores);
  for (int64_t j = kWidth; j < pitch; j += kWidth) {
    const Vec score = load(scores + j);
    most = score > most ? score : most;  // a NaN stays in its own place, and in the sum
  }
  float lanes[kWidth], highest = most[0];
  store(lanes, most);
  for (int lane = 1; lane < kWidth; ++lane) highest = lanes[lane] > highest ? lanes[lane] : highest;
  const Vec top = broadcast(highest);
  Vec total = {};
  for (int64_t j = 0; j < pitch; j += kWidth) {
    const Vec weight = exp(load(scores + j) - top);
    store(scores + j, weight);
    total += weight;
  }
  return 1.0f / sum(total);
}

template <int kRows, int kColumns>
FR_INLINE void value_tile(const float* weights, int64_t pitch, const float* const* values, int64_t count, int64_t first,
                          int64_t lanes, const float* gain, float* const* out) {
  Vec sum[kRows][kColumns] = {};
  for (int64_t j = 0; j < count; ++j) {
    const float* pixel = values[j] + first;
    Vec value[kColumns];
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) value[n] = load(pixel + n * kWidth);
    value[kColumns - 1] =
        lanes == kWidth ? load(pixel + (kColumns - 1) * kWidth) : load_partial(pixel + (kColumns - 1) * kWidth, lanes);
    FR_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const Vec weight = broadcast(weights[m * pitch + j]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[m][n] = fma(weight, value[n], sum[m][n]);
    }
  }
  FR_UNROLL
  for (int m = 0; m < kRows; ++m) {
    const Vec scale = broadcast(gain[m]);
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) store(out[m] + n * kWidth, sum[m][n] * scale);
    float* last = out[m] + (kColumns - 1) * kWidth;
    if (lanes == kWidth)
      store(last, sum[m][kColumns - 1] * scale);
    else
      store_partial(last, sum[m][kColumns - 1] * scale, lanes);
  }
}

template <int kRows>
void value_rows(const float* weights, int64_t pitch, const float* const* values, int64_t count, int64_t first,
                int64_t channels, const float* gain, float* const* out) {
  float* to[kRows];
  for (int m = 0; m < kRows; ++m) to[m] = out[m];
  for (int64_t c = 0; c < channels;) {
    const int64_t left = channels - c;
    int64_t step = kWidth;
    if (left > kWidth) {
      step = min(left, 2 * kWidth);
      value_tile<kRows, 2>(weights, pitch, values, count, first + c, step - kWidth, gain, to);
    } else {
      value_tile<kRows, 1>(weights, pitch, values, count, first + c, left, gain, to);
    }
    for (int m = 0; m < kRows; ++m) to[m] += step;
    c += step;
  }
}

template <int kRows>
FR_INLINE void attend(const AttentionWindow& w, const float* const* pixels, int64_t i, int64_t count, int64_t head,
                      const float* keys, const float* bias, int64_t pitch, float* scores) {
  const int64_t first = head * w.head_channels, all = w.heads * w.head_channels;
  score_rows<kRows>(pixels + i, first, w.head_channels, keys, bias + i * pitch, pitch, scores);
  float gain[kRows];
  float* out[kRows];
  for (int m = 0; m < kRows; ++m) {
    gain[m] = exponentials(scores + m * pitch, pitch);
    out[m] = w.out[(i + m) / w.columns] + (i + m) % w.columns * w.out_pitch + first;
  }
  value_rows<kRows>(scores, pitch, pixels, count, 2 * all + first, w.head_channels, gain, out);
}

void window_attention(const AttentionWindow& w, float* scratch) {
  const int64_t count = w.rows * w.columns, whole = w.side * w.side, all = w.heads * w.head_channels;
  const int64_t pitch = (whole + 15) / 16 * 16;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(w.head_channels));
  float* keys = scratch;
  float* scores = keys + w.head_channels * pitch;
  float* own_bias = scores + whole * pitch;
  const float** pixels = reinterpret_cast<const float**>(own_bias + whole * pitch);
  for (int64_t i = 0; i < count; ++i) pixels[i] = w.in[i / w.columns] + i % w.columns * w.in_pitch;
  for (int64_t head = 0; head < w.heads; ++head) {
    const float* bias = w.bias + head * whole * pitch;
    if (count != whole) {  // the same distances among fewer pixels
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < pitch; ++j)
          own_bias[i * pitch + j] =
              j < count
                  ? bias[(i / w.columns * w.side + i % w.columns) * pitch + j / w.columns * w.side + j % w.columns]
                  : -__builtin_inff();
      bias = own_bias;
    }
    turn_keys(pixels, count, all + head * w.head_channels, w.head_channels, scale, pitch, keys);
    int64_t i = 0;
    for (; i + kQueries <= count; i += kQueries) attend<kQueries>(w, pixels, i, count, head, keys, bias, pitch, scores);
    for (; i < count; ++i) attend<1>(w, pixels, i, count, head, keys, bias, pitch, scores);
  }
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
