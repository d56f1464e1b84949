// One head of one window at a time, all of it in the first-level cache. A vector holds neighbouring queries: so the
// softmax runs over vectors instead of within them, and heads of few channels leave no lane idle. Queries are turned;
// scores are made by tiles of keys x queries that begin at the bias; values are summed by tiles of channels x queries,
// and turned back.
#include "kernels/window_attention/window_attention.h"
#include "simd/math.h"
#include "simd/turn.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int kRows = 6;                            // keys, or channels, of a tile
constexpr int kVectors = kRegisters == 32 ? 4 : 2;  // of queries

// One head of one window. pitch: as attention_pitch's, also of queries and sums.
struct Head {
  const float* const* pixels;  // queries, keys and values of each
  float* const* out;
  int64_t count;            // of pixels
  int64_t channels, pitch;  // of the head; floats from row to row of what follows
  int64_t query, key, value;
  const float* bias;  // [key][query]
  float* queries;     // [channel][query]
  float* scores;      // [key][query]
  float* sums;        // [channel][query]
};

FR_INLINE Vec load_first(const float* p, int64_t lanes) { return lanes == kWidth ? load(p) : load_partial(p, lanes); }
FR_INLINE void store_first(float* p, Vec v, int64_t lanes) {
  if (lanes == kWidth)
    store(p, v);
  else
    store_partial(p, v, lanes);
}

// [channel][query] from pixels, times `scale`; zeros for queries that there are not.
void turn_queries(const Head& head, float scale) {
  const Vec factor = broadcast(scale);
  for (int64_t i = 0; i < head.pitch; i += kWidth)
    for (int64_t c = 0; c < head.channels; c += kWidth) {
      const int64_t lanes = min(head.channels - c, kWidth), queries = min(head.count - i, kWidth);
      Vec rows[kWidth];
      FR_UNROLL
      for (int n = 0; n < kWidth; ++n)
        rows[n] = n < queries ? load_first(head.pixels[i + n] + head.query + c, lanes) : Vec{};
      turn(rows);
      FR_UNROLL
      for (int n = 0; n < kWidth; ++n)
        if (n < lanes) store(head.queries + (c + n) * head.pitch + i, rows[n] * factor);
    }
}

// To the pixels of the result from [channel][query].
void turn_back(const Head& head) {
  for (int64_t i = 0; i < head.count; i += kWidth)
    for (int64_t c = 0; c < head.channels; c += kWidth) {
      const int64_t lanes = min(head.channels - c, kWidth), queries = min(head.count - i, kWidth);
      Vec rows[kWidth];
      FR_UNROLL
      for (int n = 0; n < kWidth; ++n) rows[n] = n < lanes ? load(head.sums + (c + n) * head.pitch + i) : Vec{};
      turn(rows);
      FR_UNROLL
      for (int n = 0; n < kWidth; ++n)
        if (n < queries) store_first(head.out[i + n] + head.query + c, rows[n], lanes);
    }
}

// Scores of keys from j and queries from i on.
template <int kKeys, int kColumns>
FR_INLINE void score_tile(const Head& head, int64_t j, int64_t i) {
  const float* bias = head.bias + j * head.pitch + i;
  const float* key[kKeys];
  Vec sum[kKeys][kColumns];
  FR_UNROLL
  for (int m = 0; m < kKeys; ++m) {
    key[m] = head.pixels[j + m] + head.key;
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) sum[m][n] = load(bias + m * head.pitch + n * kWidth);
  }
  for (int64_t c = 0; c < head.channels; ++c) {
    Vec query[kColumns];
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) query[n] = load(head.queries + c * head.pitch + i + n * kWidth);
    FR_UNROLL
    for (int m = 0; m < kKeys; ++m) {
      const Vec value = broadcast(key[m][c]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[m][n] = fma(value, query[n], sum[m][n]);
    }
  }
  FR_UNROLL
  for (int m = 0; m < kKeys; ++m) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) store(head.scores + (j + m) * head.pitch + i + n * kWidth, sum[m][n]);
  }
}

// The softmax's numerators in place of the scores of queries from i on with all keys; one over their sums in `gain`.
template <int kColumns>
FR_INLINE void exponentials(const Head& head, int64_t i, Vec (&gain)[kColumns]) {
  float* scores = head.scores + i;
  const int64_t count = head.count, pitch = head.pitch;
  Vec most[kColumns], total[kColumns] = {};
  FR_UNROLL
  for (int n = 0; n < kColumns; ++n) most[n] = load(scores + n * kWidth);
  for (int64_t j = 1; j < count; ++j) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      most[n] = larger(load(scores + j * pitch + n * kWidth), most[n]);  // a NaN stays in its place, and in the sum
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) {
      float* score = scores + j * pitch + n * kWidth;
      const Vec weight = exp_of_negative(load(score) - most[n]);
      store(score, weight);
      total[n] += weight;
    }
  }
  FR_UNROLL
  for (int n = 0; n < kColumns; ++n) gain[n] = broadcast(1.0f) / total[n];
}

// Channels from c on of the results of queries from i on.
template <int kChannels, int kColumns>
FR_INLINE void value_tile(const Head& head, int64_t c, int64_t i, const Vec (&gain)[kColumns]) {
  Vec sum[kChannels][kColumns] = {};
  for (int64_t j = 0; j < head.count; ++j) {
    const float* value = head.pixels[j] + head.value + c;
    Vec weight[kColumns];
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) weight[n] = load(head.scores + j * head.pitch + i + n * kWidth);
    FR_UNROLL
    for (int m = 0; m < kChannels; ++m) {
      const Vec channel = broadcast(value[m]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[m][n] = fma(channel, weight[n], sum[m][n]);
    }
  }
  FR_UNROLL
  for (int m = 0; m < kChannels; ++m) {
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) store(head.sums + (c + m) * head.pitch + i + n * kWidth, sum[m][n] * gain[n]);
  }
}

// Queries from i on.
template <int kColumns>
void attend(const Head& head, int64_t i) {
  int64_t j = 0;
  for (; j + kRows <= head.count; j += kRows) score_tile<kRows, kColumns>(head, j, i);
  for (; j + 2 <= head.count; j += 2) score_tile<2, kColumns>(head, j, i);
  for (; j < head.count; ++j) score_tile<1, kColumns>(head, j, i);
  Vec gain[kColumns];
  exponentials<kColumns>(head, i, gain);
  int64_t c = 0;
  for (; c + kRows <= head.channels; c += kRows) value_tile<kRows, kColumns>(head, c, i, gain);
  for (; c + 2 <= head.channels; c += 2) value_tile<2, kColumns>(head, c, i, gain);
  for (; c < head.channels; ++c) value_tile<1, kColumns>(head, c, i, gain);
}

// The same distances among fewer pixels.
void choose_bias(const AttentionWindow& w, const float* bias, int64_t pitch, float* chosen) {
  const int64_t count = w.rows * w.columns;
  const auto place = [&](int64_t pixel) { return pixel / w.columns * w.side + pixel % w.columns; };
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < pitch; ++i) chosen[j * pitch + i] = i < count ? bias[place(j) * pitch + place(i)] : 0.0f;
}

void window_attention(const AttentionWindow& w, float* scratch) {
  const int64_t count = w.rows * w.columns, whole = w.side * w.side, all = w.heads * w.head_channels;
  const int64_t pitch = (whole + 15) / 16 * 16;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(w.head_channels));
  float* queries = scratch;
  float* sums = queries + w.head_channels * pitch;
  float* scores = sums + w.head_channels * pitch;
  float* own_bias = scores + whole * pitch;
  const float** pixels = reinterpret_cast<const float**>(own_bias + whole * pitch);
  float** out = reinterpret_cast<float**>(own_bias + whole * pitch) + pitch;
  for (int64_t i = 0; i < count; ++i) {
    pixels[i] = w.in[i / w.columns] + i % w.columns * w.in_pitch;
    out[i] = w.out[i / w.columns] + i % w.columns * w.out_pitch;
  }
  for (int64_t number = 0; number < w.heads; ++number) {
    const int64_t first = number * w.head_channels;
    const float* bias = w.bias + number * whole * pitch;
    if (count != whole) {
      choose_bias(w, bias, pitch, own_bias);
      bias = own_bias;
    }
    const Head head = {pixels,          out,  count,   w.head_channels, pitch, first, all + first,
                       2 * all + first, bias, queries, scores,          sums};
    turn_queries(head, scale);
    for (int64_t i = 0; i < count;) {
      if (i + kVectors * kWidth <= pitch) {
        attend<kVectors>(head, i);
        i += kVectors * kWidth;
      } else {
        attend<1>(head, i);
        i += kWidth;
      }
    }
    turn_back(head);
  }
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
