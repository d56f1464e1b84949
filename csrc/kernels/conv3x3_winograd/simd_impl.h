// Winograd F(4x4, 3x3), shared by every instruction set.
//
// A tile is 4 x 4 outputs and the 6 x 6 inputs around them. For a block of tiles: transform the inputs (V),
// multiply by the transformed weights at each of the 36 positions, for all channels (M), transform back.
// V and M share one buffer, [chunk of 16 channels][slot][tile][16]: V of position p lies in slot p + 1 and
// M of position p is written to slot p, whose V has been used. Each tile is computed by itself in a fixed
// order, so blocks, bands and column ranges may be cut anywhere on the grid of tiles.
#pragma once
#include <utility>

#include "kernels/conv2d/epilogue.h"
#include "kernels/conv2d/layout.h"
#include "simd/vec.h"

namespace fr::FR_ISA {

constexpr int kMaxVectors = kRegisters == 32 ? 4 : 2;
constexpr int gemm_tiles(int64_t vectors) {  // as tile_pixels of the direct convolution
  if (kRegisters == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
  return vectors == 2 ? 6 : 12;
}

// The points a = 1/sqrt(2), b = sqrt(2), so that a^2 b^2 = 1.
constexpr float kA = 0.70710678118654752440f, kB = 1.41421356237309504880f;
constexpr float kASquared = 0.5f, kBSquared = 2.0f, kSquares = 2.5f;
constexpr float kACubed = 0.35355339059327376220f, kBCubed = 2.82842712474619009760f;

// The one-dimensional transforms, in parts that share their terms and that the registers can hold for a whole
// tile: input pairs 0, 1, 2 are the points 0 and infinity, a and -a, b and -b; output pairs 0, 1 are the even
// and the odd outputs.
constexpr int kInputPlaces[3][2] = {{0, 5}, {1, 2}, {3, 4}};

template <int kPair>
FR_INLINE void transform_input_pair(const Vec (&d)[6], Vec& first, Vec& second) {
  if constexpr (kPair == 0) {
    first = fma(d[2], broadcast(-kSquares), d[0] + d[4]);
    second = fma(d[3], broadcast(-kSquares), d[1] + d[5]);
  } else {
    constexpr float point = kPair == 1 ? kA : kB, other_squared = kPair == 1 ? kBSquared : kASquared;
    const Vec even = fma(d[2], broadcast(-other_squared), d[4]);
    const Vec odd = fma(d[1], broadcast(-other_squared), d[3]);
    first = fma(odd, broadcast(point), even);
    second = fma(odd, broadcast(-point), even);
  }
}

template <int kPair>
FR_INLINE void transform_output_pair(const Vec (&m)[6], Vec& first, Vec& second) {
  if constexpr (kPair == 0) {
    const Vec sum_a = m[1] + m[2], sum_b = m[3] + m[4];
    first = m[0] + (sum_a + sum_b);
    second = fma(sum_b, broadcast(kBSquared), sum_a * broadcast(kASquared));
  } else {
    const Vec difference_a = m[1] - m[2], difference_b = m[3] - m[4];
    first = fma(difference_b, broadcast(kB), difference_a * broadcast(kA));
    second = fma(difference_b, broadcast(kBCubed), fma(difference_a, broadcast(kACubed), m[5]));
  }
}

// V is what the products read: floats, or bfloat16 in pairs. kSlot: values from slot to slot.
template <int64_t kSlot, int kPair, class T, class V>
FR_INLINE void transform_input_rows(const T* const (&rows)[6], int64_t pitch, V* slot) {
  Vec half[2][6];
  FR_UNROLL
  for (int j = 0; j < 6; ++j) {
    Vec d[6];
    FR_UNROLL
    for (int i = 0; i < 6; ++i) d[i] = load(rows[i] + j * pitch);
    transform_input_pair<kPair>(d, half[0][j], half[1][j]);
  }
  FR_UNROLL
  for (int i = 0; i < 2; ++i) {
    Vec t[6];
    transform_input_pair<0>(half[i], t[0], t[5]);
    transform_input_pair<1>(half[i], t[1], t[2]);
    transform_input_pair<2>(half[i], t[3], t[4]);
    FR_UNROLL
    for (int j = 0; j < 6; ++j) store(slot + (kInputPlaces[kPair][i] * 6 + j) * kSlot, t[j]);
  }
}

// Transforms `tiles` horizontal neighbours of one chunk. rows: 6 input rows at the first tile's first column.
// A tile is read three times, once for each pair of its transformed rows, all from the first-level cache: that
// is cheaper than keeping 36 vectors where there are fewer registers, or the columns that two tiles share.
template <int64_t kSlot, class T, class V>
__attribute__((noinline)) void transform_input(const T* const (&rows)[6], int64_t pitch, int64_t tiles, V* v) {
  constexpr int64_t kTile = kChunk * sizeof(float) / sizeof(V);  // values of a tile in a slot
  for (int64_t lane = 0; lane < kChunk; lane += kWidth) {
    const T* in[6];
    FR_UNROLL
    for (int i = 0; i < 6; ++i) in[i] = rows[i] + lane;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      V* slot = v + tile * kTile + lane;
      transform_input_rows<kSlot, 0>(in, pitch, slot);
      transform_input_rows<kSlot, 1>(in, pitch, slot);
      transform_input_rows<kSlot, 2>(in, pitch, slot);
      FR_UNROLL
      for (int i = 0; i < 6; ++i) in[i] += 4 * pitch;
    }
  }
}

// M[tiles][vectors] = V[tiles][channels] * U[channels][vectors]. One long sum would make the largest part of
// the rounding error, so each chunk is summed by itself and the chunks' sums are added up in m; that halves
// the error and costs 3 % of the speed. Meanwhile one line per two channels of what will be needed next is
// brought into the second-level cache: waiting for memory in the transforms would cost a third of the speed.
template <class Math, int kTiles, int kVectors>
__attribute__((noinline)) void gemm_tile(const float* v, const float* u, float* m, int64_t chunk_stride,
                                         int64_t channels, const char* next) {
  for (bool first = true; channels > 0; channels -= kChunk, first = false) {
    Vec sum[kTiles][kVectors] = {};
    const auto step = [&](int64_t k) __attribute__((always_inline)) {
      Vec weight[kVectors];
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) weight[n] = load(u + (k * kVectors + n) * kWidth);
      FR_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const Vec value = broadcast(v[t * kChunk + k]);
        FR_UNROLL
        for (int n = 0; n < kVectors; ++n) sum[t][n] = Math::multiply_add(weight[n], value, sum[t][n]);
      }
    };
    if (channels >= kChunk)
      for (int64_t k = 0; k < kChunk; k += 2) {
        __builtin_prefetch(next + k * 32, 0, 2);
        step(k);
        step(k + 1);
      }
    else
      for (int64_t k = 0; k < channels; ++k) step(k);
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) {
      float* out = m + n * kWidth / kChunk * chunk_stride + n * kWidth % kChunk;
      if (!first) {
        FR_UNROLL
        for (int t = 0; t < kTiles; ++t) sum[t][n] = load(out + t * kChunk) + sum[t][n];
      }
      FR_UNROLL
      for (int t = 0; t < kTiles; ++t) store(out + t * kChunk, sum[t][n]);
    }
    next += kChunk * 32;
    v += chunk_stride;
    u += kChunk * kVectors * kWidth;
  }
}

using GemmTile = void(const float* v, const float* u, float* m, int64_t chunk_stride, int64_t channels,
                      const char* next);

template <class Math, int kVectors, int... kIndex>
GemmTile* gemm_tile_of(int64_t tiles, std::integer_sequence<int, kIndex...>) {
  static constexpr GemmTile* kFunctions[] = {gemm_tile<Math, kIndex + 1, kVectors>...};
  return kFunctions[tiles - 1];
}

template <class Math, int kVectors>
GemmTile* gemm_tile_of(int64_t tiles) {
  return gemm_tile_of<Math, kVectors>(tiles, std::make_integer_sequence<int, gemm_tiles(kVectors)>());
}

template <class Math>
FR_INLINE GemmTile* get_gemm_tile(int64_t tiles, int64_t vectors) {
  if constexpr (kMaxVectors == 4) {
    if (vectors == 4) return gemm_tile_of<Math, 4>(tiles);
    if (vectors == 3) return gemm_tile_of<Math, 3>(tiles);
  }
  return vectors == 2 ? gemm_tile_of<Math, 2>(tiles) : gemm_tile_of<Math, 1>(tiles);
}

// Memory that the next steps will touch, in pieces of as many lines as one call of gemm_tile prefetches.
class Upcoming {
 public:
  explicit Upcoming(int64_t piece_bytes) : piece_bytes_(piece_bytes) {}
  void add(const char* begin, int64_t bytes) {
    for (int64_t i = 0; i < bytes && count_ < kMost; i += piece_bytes_) pieces_[count_++] = begin + i;
  }
  const char* take(const void* otherwise) {
    return taken_ < count_ ? pieces_[taken_++] : static_cast<const char*>(otherwise);
  }

 private:
  static constexpr int64_t kMost = 256;
  int64_t piece_bytes_;
  int64_t count_ = 0, taken_ = 0;
  const char* pieces_[kMost];
};

// Output rows kPair and kPair + 2 of a tile, one vector of channels.
template <int64_t kSlot, int kPair>
FR_INLINE void transform_output_rows(const ConvSpec& spec, const ConvBand& band, const float* m, Vec bias, int64_t row,
                                     int64_t x, int64_t channel, int64_t lanes) {
  Vec half[2][6];
  FR_UNROLL
  for (int j = 0; j < 6; ++j) {
    Vec d[6];
    FR_UNROLL
    for (int i = 0; i < 6; ++i) d[i] = load(m + (i * 6 + j) * kSlot);
    transform_output_pair<kPair>(d, half[0][j], half[1][j]);
  }
  const int64_t pixels = min(4, band.x_end - x);
  FR_UNROLL
  for (int i = 0; i < 2; ++i, row += 2) {
    if (row >= band.rows) break;
    if (band.out[row] == nullptr) continue;
    Vec y[4];
    transform_output_pair<0>(half[i], y[0], y[2]);
    transform_output_pair<1>(half[i], y[1], y[3]);
    Vec sum[4][1];
    FR_UNROLL
    for (int j = 0; j < 4; ++j) sum[j][0] = y[j] + bias;
    Target target = target_at(spec, band, row, x, channel, lanes);
    if (pixels == 4) {
      finish(sum, spec, target);
    } else {
      for (int64_t j = 0; j < pixels; ++j) {
        Vec one[1][1] = {{sum[j][0]}};
        finish(one, spec, target);
        target.out += target.out_step;
        target.residual += target.residual_step;
      }
    }
  }
}

template <int64_t kSlot>
__attribute__((noinline)) void transform_output(const ConvSpec& spec, const ConvBand& band, const float* m,
                                                const float* bias, int64_t tile_row, int64_t x, int64_t tiles,
                                                int64_t channel) {
  const int64_t lanes = min(kWidth, spec.out_channels - channel);
  const Vec bias_vector = load(bias + channel);
  for (int64_t tile = 0; tile < tiles; ++tile, x += 4, m += kChunk) {
    transform_output_rows<kSlot, 0>(spec, band, m, bias_vector, 4 * tile_row, x, channel, lanes);
    transform_output_rows<kSlot, 1>(spec, band, m, bias_vector, 4 * tile_row + 1, x, channel, lanes);
  }
}

// One call's work: tiles are numbered row by row over the band.
template <class Math, class V, int64_t kBlock>
class Winograd4 {
 public:
  Winograd4(const PackedConv& packed, const ConvBand& band, float* workspace)
      : spec_(packed.spec),
        band_(band),
        weights_(packed_weights(packed)),
        bias_(packed_bias(packed)),
        patch_(workspace),
        buffer_(workspace + kPatchFloats),
        tile_columns_((band.x_end - band.x_begin + 3) / 4),
        depth_(sizeof(V) == 4 ? packed.spec.in_channels : (packed.spec.in_channels + kChunk - 1) / kChunk * kChunk / 2),
        readable_(band.in_pitch >= (packed.spec.in_channels + kChunk - 1) / kChunk * kChunk) {}

  void run() {
    const int64_t total = tile_columns_ * ((band_.rows + 3) / 4);
    if (total <= 0) return;
    // Blocks of equal size, a multiple of 6 so that most register tiles are full.
    const int64_t blocks = (total + kBlock - 1) / kBlock;
    const int64_t block = min(kBlock, ((total + blocks - 1) / blocks + 5) / 6 * 6);
    for (int64_t first = 0; first < total; first += block) {
      const int64_t tiles = min(block, total - first);
      for_each_segment(first, tiles, [&](int64_t row, int64_t column, int64_t count, int64_t tile) {
        if (band_.in_element == Element::f32)
          input<float>(row, column, count, tile);
        else
          input<Bf16>(row, column, count, tile);
      });
      multiply(first, tiles, min(block, total - first - tiles));
      for_each_segment(first, tiles, [&](int64_t row, int64_t column, int64_t count, int64_t tile) {
        for (int64_t c = 0; c < spec_.out_channels; c += kWidth)
          transform_output<kSlot>(spec_, band_, slot(c, 0, tile), bias_, row, band_.x_begin + 4 * column, count, c);
      });
    }
  }

 private:
  static constexpr int64_t kSlot = slot_floats(kBlock);
  static constexpr int64_t kInSlot = kSlot * sizeof(float) / sizeof(V);
  static constexpr int64_t kChunkStride = chunk_floats(kBlock);

  // Where the products read input channel `channel` (the first of a chunk) of a tile.
  V* input_slot(int64_t channel, int64_t index, int64_t tile) const {
    constexpr int64_t kInChunk = kChunk * sizeof(float) / sizeof(V);
    float* chunk = slot(channel / kInChunk * kChunk, index, tile);
    return reinterpret_cast<V*>(chunk) + channel % kInChunk;
  }

  float* slot(int64_t channel, int64_t index, int64_t tile) const {
    return buffer_ + channel / kChunk * kChunkStride + index * kSlot + tile * kChunk + channel % kChunk;
  }

  // body(tile row, tile column, count, index in the block) for each part of a block within one tile row.
  template <class Body>
  void for_each_segment(int64_t first, int64_t tiles, const Body& body) const {
    for (int64_t tile = 0; tile < tiles;) {
      const int64_t row = (first + tile) / tile_columns_, column = (first + tile) % tile_columns_;
      const int64_t count = min(tiles - tile, tile_columns_ - column);
      body(row, column, count, tile);
      tile += count;
    }
  }

  template <class T>
  void input(int64_t row, int64_t column, int64_t count, int64_t tile) const {
    const T* rows[6];
    for (int i = 0; i < 6; ++i) rows[i] = static_cast<const T*>(band_.in[4 * row + i]);
    bool in_place = readable_;
    for (int i = 0; i < 6; ++i) in_place = in_place && rows[i] != nullptr;
    while (count > 0) {
      const int64_t x = band_.x_begin + 4 * column - 1;  // the first input column
      const int64_t fitting = x < band_.in_begin ? 0 : max(0, (band_.in_end - x - 2) / 4);
      int64_t done = min(count, fitting);
      if (in_place && done > 0) {
        for (int64_t c = 0; c < spec_.in_channels; c += kChunk) {
          const T* start[6];
          for (int i = 0; i < 6; ++i) start[i] = rows[i] + (x - band_.in_begin) * band_.in_pitch + c;
          transform_input<kInSlot>(start, band_.in_pitch, done, input_slot(c, 1, tile));
        }
      } else {
        done = min(count, in_place ? 1 : kPatchTiles);
        for (int64_t c = 0; c < spec_.in_channels; c += kChunk) {
          const float* start[6];
          for (int i = 0; i < 6; ++i) {
            float* line = patch_ + i * (4 * done + 2) * kChunk;
            fill_line(rows[i], x, 4 * done + 2, c, line);
            start[i] = line;
          }
          transform_input<kInSlot>(start, kChunk, done, input_slot(c, 1, tile));
        }
      }
      column += done;
      tile += done;
      count -= done;
    }
  }

  template <class T>
  void fill_line(const T* row, int64_t x, int64_t columns, int64_t channel, float* line) const {
    const int64_t channels = min(kChunk, spec_.in_channels - channel);
    for (int64_t i = 0; i < columns; ++i, ++x, line += kChunk) {
      const bool inside = row != nullptr && x >= band_.in_begin && x < band_.in_end;
      const T* pixel = inside ? row + (x - band_.in_begin) * band_.in_pitch + channel : nullptr;
      for (int64_t c = 0; c < kChunk; c += kWidth) {
        const int64_t lanes = inside ? max(0, min(kWidth, channels - c)) : 0;
        store(line + c, lanes > 0 ? load_partial(pixel + c, lanes) : Vec{});
      }
    }
  }

  void multiply(int64_t first, int64_t tiles, int64_t next_tiles) const {
    Upcoming upcoming(max(1, depth_ / kChunk) * 512);
    for_each_segment(first, tiles, [&](int64_t row, int64_t column, int64_t count, int64_t) {
      const int64_t x = band_.x_begin + 4 * column;
      for (int64_t y = 4 * row; y < min(4 * row + 4, band_.rows); ++y)
        if (band_.out[y] != nullptr)
          upcoming.add(offset_by(band_.out[y], (x - band_.out_begin) * band_.out_pitch, band_.out_element),
                       min(4 * count, band_.x_end - x) * band_.out_pitch * element_bytes(band_.out_element));
    });
    for_each_segment(first + tiles, next_tiles, [&](int64_t row, int64_t column, int64_t count, int64_t) {
      const int64_t begin = max(band_.in_begin, band_.x_begin + 4 * column);
      const int64_t end = min(band_.in_end, band_.x_begin + 4 * (column + count) + 1);
      for (int i = 0; i < 6; ++i)
        if (const void* in = band_.in[4 * row + i]; in != nullptr && begin < end)
          upcoming.add(offset_by(in, (begin - band_.in_begin) * band_.in_pitch, band_.in_element),
                       (end - begin) * band_.in_pitch * element_bytes(band_.in_element));
    });
    const int64_t vectors = (spec_.out_channels + kWidth - 1) / kWidth;
    const int64_t blocks = channel_block_count(vectors, kMaxVectors);
    const float* u = weights_;
    for (int64_t position = 0; position < kPositions; ++position)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = channel_block_begin(vectors, blocks, block);
        const int64_t size = channel_block_begin(vectors, blocks, block + 1) - begin;
        const int64_t most = gemm_tiles(size);
        GemmTile* const whole = get_gemm_tile<Math>(most, size);
        for (int64_t tile = 0; tile < tiles; tile += most) {
          const int64_t count = min(most, tiles - tile);
          GemmTile* const gemm = count == most ? whole : get_gemm_tile<Math>(count, size);
          gemm(slot(0, position + 1, tile), u, slot(begin * kWidth, position, tile), kChunkStride, depth_,
               upcoming.take(u));
        }
        u += depth_ * size * kWidth;
      }
  }

  const ConvSpec& spec_;
  const ConvBand& band_;
  const float* weights_;
  const float* bias_;
  float* patch_;
  float* buffer_;
  int64_t tile_columns_;
  int64_t depth_;  // multiplications of vectors that make up one sum: input channels, or pairs of them
  bool readable_;  // whole chunks may be read at every pixel
};

template <class Math, class V>
void convolve_winograd4(const PackedConv& packed, const ConvBand& band, float* workspace) {
  switch (winograd_block_tiles(packed.spec)) {
    case 12:
      Winograd4<Math, V, 12>(packed, band, workspace).run();
      break;
    case 24:
      Winograd4<Math, V, 24>(packed, band, workspace).run();
      break;
    case 48:
      Winograd4<Math, V, 48>(packed, band, workspace).run();
      break;
    default:
      Winograd4<Math, V, 96>(packed, band, workspace).run();
      break;
  }
}

}  // namespace fr::FR_ISA
