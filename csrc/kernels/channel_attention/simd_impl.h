// Both products are those of small matrices: register tiles of some rows x some vectors of channels. For the Gram
// matrix pixels are copied by chunks, queries and keys apart and as floats, so that a chunk stays in the first-level
// cache while all tiles pass over it.
#include "kernels/channel_attention/channel_attention.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int64_t kChunk = 64;  // pixels
constexpr int kVectors = kRegisters == 32 ? 3 : 2;
constexpr int kRows = kRegisters == 32 ? 8 : 4;

template <class T>
FR_INLINE void copy_chunk(const T* in, int64_t pitch, int64_t pixels, int64_t channels, int64_t to_pitch, float* to) {
  for (int64_t x = 0; x < pixels; ++x, in += pitch, to += to_pitch) {
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) store(to + c, load(in + c));
    if (c < channels) store(to + c, load_partial(in + c, channels - c));
  }
}

// products[m][vectors] += queries[m] * keys, over a chunk.
template <int kCount, int kColumns>
FR_INLINE void gram_tile(const float* queries, const float* keys, int64_t pitch, int64_t pixels, int64_t lanes,
                         float* products, int64_t product_pitch) {
  Vec sum[kCount][kColumns];
  FR_UNROLL
  for (int m = 0; m < kCount; ++m) {
    const float* row = products + m * product_pitch;
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) sum[m][n] = load(row + n * kWidth);
    sum[m][kColumns - 1] = load_partial(row + (kColumns - 1) * kWidth, lanes);
  }
  for (int64_t x = 0; x < pixels; ++x) {
    Vec key[kColumns];
    FR_UNROLL
    for (int n = 0; n < kColumns; ++n) key[n] = load(keys + x * pitch + n * kWidth);
    FR_UNROLL
    for (int m = 0; m < kCount; ++m) {
      const Vec query = broadcast(queries[x * pitch + m]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[m][n] = fma(query, key[n], sum[m][n]);
    }
  }
  FR_UNROLL
  for (int m = 0; m < kCount; ++m) {
    float* row = products + m * product_pitch;
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) store(row + n * kWidth, sum[m][n]);
    store_partial(row + (kColumns - 1) * kWidth, sum[m][kColumns - 1], lanes);
  }
}

template <int kColumns>
void gram_columns(const float* queries, const float* keys, int64_t pitch, int64_t pixels, int64_t channels,
                  int64_t lanes, float* products) {
  int64_t i = 0;
  for (; i + kRows <= channels; i += kRows)
    gram_tile<kRows, kColumns>(queries + i, keys, pitch, pixels, lanes, products + i * channels, channels);
  for (; i < channels; ++i)
    gram_tile<1, kColumns>(queries + i, keys, pitch, pixels, lanes, products + i * channels, channels);
}

FR_INLINE void add_squares(const float* values, int64_t pitch, int64_t pixels, int64_t channels, float* out) {
  for (int64_t c = 0; c < channels; c += kWidth) {
    const int64_t lanes = min(channels - c, kWidth);
    Vec total = load_partial(out + c, lanes);
    for (int64_t x = 0; x < pixels; ++x) {
      const Vec value = load(values + x * pitch + c);
      total = fma(value, value, total);
    }
    store_partial(out + c, total, lanes);
  }
}

template <class T>
void gram_of(const GramRows& g, float* scratch) {
  const int64_t n = g.channels, pitch = (n + 15) / 16 * 16;
  float* queries = scratch;
  float* keys = scratch + kChunk * pitch;
  for (int64_t i = 0; i < n * (n + 2); ++i) g.out[i] = 0.0f;
  for (int64_t row = 0; row < g.row_count; ++row)
    for (int64_t x = 0; x < g.pixels; x += kChunk) {
      const T* in = static_cast<const T*>(g.queries[row]) + x * g.pitch;
      const int64_t pixels = min(kChunk, g.pixels - x);
      copy_chunk(in, g.pitch, pixels, n, pitch, queries);
      copy_chunk(in + g.keys, g.pitch, pixels, n, pitch, keys);
      for (int64_t c = 0; c < n; c += kVectors * kWidth) {
        const int64_t vectors = min((n - c + kWidth - 1) / kWidth, kVectors);
        const int64_t lanes = min(n - c - (vectors - 1) * kWidth, kWidth);
        if (vectors == 1)
          gram_columns<1>(queries, keys + c, pitch, pixels, n, lanes, g.out + c);
        else if (vectors == 2)
          gram_columns<2>(queries, keys + c, pitch, pixels, n, lanes, g.out + c);
        else if constexpr (kVectors == 3)
          gram_columns<3>(queries, keys + c, pitch, pixels, n, lanes, g.out + c);
      }
      add_squares(queries, pitch, pixels, n, g.out + n * n);
      add_squares(keys, pitch, pixels, n, g.out + n * (n + 1));
    }
}

void gram(const GramRows& g, float* scratch) {
  g.element == Element::f32 ? gram_of<float>(g, scratch) : gram_of<Bf16>(g, scratch);
}

template <int kCount, int kColumns>
FR_INLINE void mix_tile(const MixRow& m, int64_t x, int64_t first, const float* weights, int64_t lanes, int64_t c) {
  Vec sum[kCount][kColumns] = {};
  const float* in = m.in + x * m.in_pitch + first;
  for (int64_t j = 0; j < m.channels; ++j) {
    const float* row = weights + j * m.channels + c;
    Vec weight[kColumns];
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) weight[n] = load(row + n * kWidth);
    weight[kColumns - 1] =
        lanes == kWidth ? load(row + (kColumns - 1) * kWidth) : load_partial(row + (kColumns - 1) * kWidth, lanes);
    FR_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const Vec value = broadcast(in[i * m.in_pitch + j]);
      FR_UNROLL
      for (int n = 0; n < kColumns; ++n) sum[i][n] = fma(value, weight[n], sum[i][n]);
    }
  }
  FR_UNROLL
  for (int i = 0; i < kCount; ++i) {
    float* out = m.out + (x + i) * m.out_pitch + first + c;
    FR_UNROLL
    for (int n = 0; n + 1 < kColumns; ++n) store(out + n * kWidth, sum[i][n]);
    store_partial(out + (kColumns - 1) * kWidth, sum[i][kColumns - 1], lanes);
  }
}

template <int kColumns>
void mix_columns(const MixRow& m, int64_t head, int64_t c, int64_t lanes) {
  const float* weights = m.weights + head * m.channels * m.channels;
  int64_t x = 0;
  for (; x + kRows <= m.pixels; x += kRows) mix_tile<kRows, kColumns>(m, x, head * m.channels, weights, lanes, c);
  for (; x < m.pixels; ++x) mix_tile<1, kColumns>(m, x, head * m.channels, weights, lanes, c);
}

void mix(const MixRow& m) {
  for (int64_t head = 0; head < m.heads; ++head)
    for (int64_t c = 0; c < m.channels; c += kVectors * kWidth) {
      const int64_t vectors = min((m.channels - c + kWidth - 1) / kWidth, kVectors);
      const int64_t lanes = min(m.channels - c - (vectors - 1) * kWidth, kWidth);
      if (vectors == 1)
        mix_columns<1>(m, head, c, lanes);
      else if (vectors == 2)
        mix_columns<2>(m, head, c, lanes);
      else if constexpr (kVectors == 3)
        mix_columns<3>(m, head, c, lanes);
    }
}

constexpr ChannelAttentionKernels kernels = {gram, mix};

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
