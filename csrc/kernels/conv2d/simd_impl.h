// Direct and depthwise convolution, shared by every instruction set.
//
// A register tile computes some neighbouring pixels x some vectors of output channels, starting from the
// bias and adding products in the order kernel row, kernel column, input channel. Every tile size keeps
// that order, so where tiles begin does not matter to the result. In NHWC the columns and channels of one
// kernel row are consecutive in memory (if pixels have no gaps), which makes them a single run.
#pragma once
#include "kernels/conv2d/epilogue.h"
#include "kernels/conv2d/layout.h"
#include "simd/vec.h"

namespace fr::FR_ISA {

// Pixels of a register tile by its vectors: accumulators, one row of weights and a broadcast value must
// fit the registers, and at least 8 accumulators are needed to hide the latency of two FMA units.
constexpr int kMaxVectors = kRegisters == 32 ? 4 : 2;
constexpr int tile_pixels(int64_t vectors) {
  if (kRegisters == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 14;
  return vectors == 2 ? 6 : 12;
}

constexpr int kUnroll = 2;  // steps of the inner loop between two advances of its addresses

// Where a block of output pixels finds its input.
struct Window {
  const void* const* rows;  // kernel row ky is rows[ky * row_step], null: zeros
  int64_t row_step;
  int64_t kernel_h;
  const float* patch;  // not null: a zero-padded copy, kernel row ky at patch + ky * patch_row
  int64_t patch_row;
  int64_t offset;        // from the row's first float to the first pixel's first product
  int64_t pixel_stride;  // floats from one output pixel's first product to the next pixel's
  int64_t runs, run_step, run_length;
};

FR_INLINE const float* window_row(const Window& window, int64_t ky) {
  const float* row = static_cast<const float*>(window.rows[ky * window.row_step]);
  if (row == nullptr) return nullptr;
  return window.patch != nullptr ? window.patch + ky * window.patch_row : row + window.offset;
}

// One base address serves three pixels (x86 addresses base + stride * 1 or 2); the empty asm keeps the compiler
// from making a pointer of its own for each pixel, which would need more registers than there are.
template <class Math, int kPixels, int kVectors>
FR_INLINE void accumulate(Vec (&sum)[kPixels][kVectors], const float* in, int64_t pixel_stride, const float* weights,
                          int64_t length) {
  constexpr int kBases = (kPixels + 2) / 3;
  const float* base[kBases];
  FR_UNROLL
  for (int i = 0; i < kBases; ++i) base[i] = in + 3 * i * pixel_stride;
  const auto step = [&](int k) __attribute__((always_inline)) {
    Vec weight[kVectors];
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) weight[n] = load(weights + (k * kVectors + n) * kWidth);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      const Vec value = broadcast(base[m / 3][m % 3 * pixel_stride + k]);
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) sum[m][n] = Math::multiply_add(weight[n], value, sum[m][n]);
    }
  };
  const auto advance = [&](int count) __attribute__((always_inline)) {
    FR_UNROLL
    for (int i = 0; i < kBases; ++i) {
      base[i] += count;
      asm("" : "+r"(base[i]));
    }
    weights += count * kVectors * kWidth;
  };
  for (; length >= kUnroll; length -= kUnroll) {
    FR_UNROLL
    for (int k = 0; k < kUnroll; ++k) step(k);
    advance(kUnroll);
  }
  for (; length > 0; --length) {
    step(0);
    advance(1);
  }
}

template <class Math, int kPixels, int kVectors>
__attribute__((noinline)) void direct_tile(const ConvSpec& spec, const Window& window, const float* weights,
                                           const float* bias, const Target& target) {
  Vec sum[kPixels][kVectors];
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) sum[m][n] = load(bias + n * kWidth);
  }
  const int64_t run_weights = window.run_length * kVectors * kWidth;
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row != nullptr)
      for (int64_t run = 0; run < window.runs; ++run)
        accumulate<Math>(sum, row + run * window.run_step, window.pixel_stride, weights + run * run_weights,
                         window.run_length);
    weights += window.runs * run_weights;
  }
  finish(sum, spec, target);
}

// Blocks are as large as a register tile can be, or of 8, 4, 2 or 1 pixels where a row ends: code for every number
// would be half a megabyte more.
FR_INLINE int64_t block_pixels(int64_t pixels, int64_t most) {
  return pixels >= most ? most : pixels >= 8 ? 8 : pixels >= 4 ? 4 : pixels >= 2 ? 2 : 1;
}

template <int kPixels>
struct Pixels {
  static constexpr int kCount = kPixels;
};

// body(Pixels<pixels>()), for those that block_pixels gives.
template <int kMost, class Body>
FR_INLINE void with_pixels(int64_t pixels, const Body& body) {
  if (pixels == kMost) return body(Pixels<kMost>());
  if constexpr (kMost > 8)
    if (pixels == 8) return body(Pixels<8>());
  if constexpr (kMost > 4)
    if (pixels == 4) return body(Pixels<4>());
  if constexpr (kMost > 2)
    if (pixels == 2) return body(Pixels<2>());
  body(Pixels<1>());
}

template <class Math, int kVectors>
FR_INLINE void run_direct_tile(int64_t pixels, const ConvSpec& spec, const Window& window, const float* weights,
                               const float* bias, const Target& target) {
  with_pixels<tile_pixels(kVectors)>(pixels, [&](auto count) __attribute__((always_inline)) {
    direct_tile<Math, decltype(count)::kCount, kVectors>(spec, window, weights, bias, target);
  });
}

template <class Math>
FR_INLINE void run_direct_tile(int64_t pixels, int64_t vectors, const ConvSpec& spec, const Window& window,
                               const float* weights, const float* bias, const Target& target) {
  if constexpr (kMaxVectors == 4) {
    if (vectors == 4) return run_direct_tile<Math, 4>(pixels, spec, window, weights, bias, target);
    if (vectors == 3) return run_direct_tile<Math, 3>(pixels, spec, window, weights, bias, target);
  }
  if (vectors == 2) return run_direct_tile<Math, 2>(pixels, spec, window, weights, bias, target);
  run_direct_tile<Math, 1>(pixels, spec, window, weights, bias, target);
}

// Copies the input columns of `pixels` outputs from output column x on, zeros where there is no input.
template <class T>
void fill_patch_from(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t x, int64_t pixels,
                     int64_t channel, int64_t channels, float* patch) {
  const int64_t columns = patch_columns(spec, pixels);
  const int64_t first = x * spec.stride_w - spec.pad_left;
  for (int64_t ky = 0; ky < spec.kernel_h; ++ky) {
    const T* in = static_cast<const T*>(band.in[row * spec.stride_h + ky * spec.dilation_h]);
    if (in != nullptr)
      for (int64_t i = 0; i < columns; ++i) {
        const int64_t column = first + i;
        const bool inside = column >= band.in_begin && column < band.in_end;
        float* to = patch + i * channels;
        if (!inside) {
          for (int64_t c = 0; c < channels; ++c) to[c] = 0.0f;
          continue;
        }
        const T* pixel = in + (column - band.in_begin) * band.in_pitch + channel;
        int64_t c = 0;
        for (; c + kWidth <= channels; c += kWidth) store(to + c, load(pixel + c));
        if (c < channels) store_partial(to + c, load_partial(pixel + c, channels - c), channels - c);
      }
    patch += columns * channels;
  }
}

static void fill_patch(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t x, int64_t pixels,
                       int64_t channel, int64_t channels, float* patch) {
  if (band.in_element == Element::f32)
    fill_patch_from<float>(spec, band, row, x, pixels, channel, channels, patch);
  else
    fill_patch_from<Bf16>(spec, band, row, x, pixels, channel, channels, patch);
}

// The output columns whose whole window lies inside the input: [begin, end), possibly empty.
struct Interior {
  int64_t begin, end;
};

FR_INLINE int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

static Interior find_interior(const ConvSpec& spec, const ConvBand& band) {
  const int64_t first = band.in_begin + spec.pad_left;
  const int64_t last = band.in_end - 1 + spec.pad_left - (spec.kernel_w - 1) * spec.dilation_w;
  return {-floor_divide(-first, spec.stride_w), floor_divide(last, spec.stride_w) + 1};
}

// Calls body(x, pixels, window) for blocks of at most most_pixels that cover the band's columns in one row;
// each block reads the input in place, or the patch when it touches an edge or the input is not of floats; fill(x,
// pixels) fills that. kWhole: only blocks of most_pixels are read in place.
template <bool kWhole = false, class Body, class Fill>
FR_INLINE void for_each_block(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t most_pixels,
                              int64_t channel, int64_t channels, float* patch, const Body& body, const Fill& fill) {
  const Interior interior = find_interior(spec, band);
  Window window{};
  window.rows = band.in + row * spec.stride_h;
  window.row_step = spec.dilation_h;
  window.kernel_h = spec.kernel_h;
  for (int64_t x = band.x_begin; x < band.x_end;) {
    int64_t pixels = min(most_pixels, band.x_end - x);
    bool inside = band.in_element == Element::f32 && x >= interior.begin && x < interior.end;
    if (kWhole)
      inside = inside && x + most_pixels <= min(interior.end, band.x_end);
    else if (inside)
      pixels = min(pixels, interior.end - x);
    if (!kWhole) pixels = block_pixels(pixels, most_pixels);
    const int64_t pitch = inside ? band.in_pitch : channels;
    if (inside) {
      window.patch = nullptr;
      window.offset = (x * spec.stride_w - spec.pad_left - band.in_begin) * pitch + channel;
    } else {
      fill(x, pixels);
      window.patch = patch;
      window.patch_row = patch_columns(spec, pixels) * channels;
    }
    window.pixel_stride = spec.stride_w * pitch;
    const bool one_run = spec.dilation_w == 1 && pitch == channels;
    window.runs = one_run ? 1 : spec.kernel_w;
    window.run_step = spec.dilation_w * pitch;
    window.run_length = one_run ? spec.kernel_w * channels : channels;
    body(x, pixels, window);
    x += pixels;
  }
}

template <bool kWhole = false, class Body>
FR_INLINE void for_each_block(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t most_pixels,
                              int64_t channel, int64_t channels, float* patch, const Body& body) {
  for_each_block<kWhole>(spec, band, row, most_pixels, channel, channels, patch, body, [&](int64_t x, int64_t pixels) {
    fill_patch(spec, band, row, x, pixels, channel, channels, patch);
  });
}

// Weights: [group][block][ky][kx][in channel][the block's vectors]. A block's weights are used for all rows
// before the next block's, because they are what must stay in the second-level cache.
template <class Math>
void convolve_blocks(const ConvSpec& spec, const float* weights, const float* bias, const ConvBand& band,
                     float* workspace) {
  const int64_t in_channels = spec.in_channels / spec.groups, out_channels = spec.out_channels / spec.groups;
  const int64_t products = spec.kernel_h * spec.kernel_w * in_channels;
  const int64_t vectors = (out_channels + kWidth - 1) / kWidth;
  const int64_t blocks = channel_block_count(vectors, kMaxVectors);
  for (int64_t group = 0; group < spec.groups; ++group)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = channel_block_begin(vectors, blocks, block);
      const int64_t size = channel_block_begin(vectors, blocks, block + 1) - first;
      const int64_t channel = group * out_channels + first * kWidth;
      const int64_t last_lanes = min(kWidth, out_channels - (first + size - 1) * kWidth);
      const int64_t most_pixels = tile_pixels(size);
      for (int64_t row = 0; row < band.rows; ++row)
        for_each_block(spec, band, row, most_pixels, group * in_channels, in_channels, workspace,
                       [&](int64_t x, int64_t pixels, const Window& window) {
                         run_direct_tile<Math>(pixels, size, spec, window, weights, bias,
                                               target_at(spec, band, row, x, channel, last_lanes));
                       });
      weights += products * size * kWidth;
      bias += size * kWidth;
    }
}

constexpr int dot_pixels(int64_t outputs) {
  if (kRegisters == 32) return outputs >= 3 ? 6 : 10;
  return outputs == 4 ? 2 : outputs == 3 ? 3 : outputs == 2 ? 5 : 8;
}

template <class Math, int kPixels, int kOutputs>
__attribute__((noinline)) void dot_tile(const ConvSpec& spec, const Window& window, const float* weights,
                                        const float* bias, const Target& target) {
  Vec sums[kPixels][kOutputs] = {};
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row == nullptr) {
      weights += window.runs * window.run_length * kOutputs;
      continue;
    }
    for (int64_t run = 0; run < window.runs; ++run) {
      const float* in = row + run * window.run_step;
      for (int64_t k = 0; k < window.run_length; k += kWidth) {
        Vec weight[kOutputs];
        FR_UNROLL
        for (int n = 0; n < kOutputs; ++n) weight[n] = load(weights + n * kWidth);
        FR_UNROLL
        for (int m = 0; m < kPixels; ++m) {
          const Vec value = load(in + m * window.pixel_stride + k);
          FR_UNROLL
          for (int n = 0; n < kOutputs; ++n) sums[m][n] = Math::multiply_add(weight[n], value, sums[m][n]);
        }
        weights += kOutputs * kWidth;
      }
    }
  }
  Vec result[kPixels][1] = {};
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    FR_UNROLL
    for (int n = 0; n < kOutputs; ++n) result[m][0][n] = sum(sums[m][n]) + bias[n];
  }
  finish(result, spec, target);
}

template <class Math, int kOutputs>
void convolve_dot_products(const ConvSpec& spec, const float* weights, const float* bias, const ConvBand& band,
                           float* workspace) {
  constexpr int kMost = dot_pixels(kOutputs);
  for (int64_t row = 0; row < band.rows; ++row)
    for_each_block(spec, band, row, kMost, 0, spec.in_channels, workspace,
                   [&](int64_t x, int64_t pixels, const Window& window) {
                     with_pixels<kMost>(pixels, [&](auto count) __attribute__((always_inline)) {
                       dot_tile<Math, decltype(count)::kCount, kOutputs>(spec, window, weights, bias,
                                                                         target_at(spec, band, row, x, 0, kOutputs));
                     });
                   });
}

template <class Math>
void convolve_direct(const ConvSpec& spec, const float* weights, const float* bias, const ConvBand& band,
                     float* workspace) {
  if (!uses_dot_products(spec, kWidth)) return convolve_blocks<Math>(spec, weights, bias, band, workspace);
  switch (spec.out_channels) {
    case 1:
      return convolve_dot_products<Math, 1>(spec, weights, bias, band, workspace);
    case 2:
      return convolve_dot_products<Math, 2>(spec, weights, bias, band, workspace);
    case 3:
      return convolve_dot_products<Math, 3>(spec, weights, bias, band, workspace);
    default:
      return convolve_dot_products<Math, 4>(spec, weights, bias, band, workspace);
  }
}

[[maybe_unused]] static void convolve_direct(const PackedConv& packed, const ConvBand& band, float* workspace) {
  convolve_direct<Floats>(packed.spec, packed_weights(packed), packed_bias(packed), band, workspace);
}

constexpr int kDepthwisePixels = 8;

template <int kPixels>
__attribute__((noinline)) void depthwise_tile(const ConvSpec& spec, const Window& window, const float* weights,
                                              const float* bias, const Target& target) {
  Vec sum[kPixels][1];
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) sum[m][0] = load(bias);
  const int64_t weight_step = (spec.in_channels + kWidth - 1) / kWidth * kWidth;
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row != nullptr)
      for (int64_t kx = 0; kx < spec.kernel_w; ++kx) {
        const Vec weight = load(weights + kx * weight_step);
        const float* in = row + kx * window.run_step;
        FR_UNROLL
        for (int m = 0; m < kPixels; ++m) {
          const float* pixel = in + m * window.pixel_stride;
          const Vec value = target.last_lanes == kWidth ? load(pixel) : load_partial(pixel, target.last_lanes);
          sum[m][0] = fma(weight, value, sum[m][0]);
        }
      }
    weights += spec.kernel_w * weight_step;
  }
  finish(sum, spec, target);
}

// Weights: [ky][kx][channel]; vectors run over channels.
static void convolve_depthwise_tiles(const PackedConv& packed, const ConvBand& band, int64_t row, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const float* weights = packed_weights(packed);
  const float* bias = packed_bias(packed);
  const int64_t channels = spec.in_channels;
  for_each_block(
      spec, band, row, kDepthwisePixels, 0, channels, workspace, [&](int64_t x, int64_t pixels, const Window& window) {
        Window shifted = window;
        for (int64_t c = 0; c < channels; c += kWidth) {
          with_pixels<kDepthwisePixels>(pixels, [&](auto count) __attribute__((always_inline)) {
            depthwise_tile<decltype(count)::kCount>(spec, shifted, weights + c, bias + c,
                                                    target_at(spec, band, row, x, c, min(kWidth, channels - c)));
          });
          if (shifted.patch != nullptr) shifted.patch += kWidth;
          shifted.offset += kWidth;
        }
      });
}

// 3x3 without stride, away from the columns' edges, on whole vectors: each value is loaded once for the three outputs
// of its row that it serves, in either element. 1.3 to 1.8 times as fast as the tiles above, which do the same sums.
template <class T, int kPixels>
FR_INLINE void depthwise3_tile(const ConvSpec& spec, const T* const* rows, int64_t offset, int64_t pitch,
                               const float* weights, int64_t weight_step, const float* bias, const Target& target) {
  Vec sum[kPixels][1];
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) sum[m][0] = load(bias);
  for (int ky = 0; ky < 3; ++ky) {
    if (rows[ky] == nullptr) continue;
    const T* in = rows[ky] + offset;
    const float* row_weights = weights + 3 * ky * weight_step;
    const Vec left = load(row_weights), middle = load(row_weights + weight_step);
    const Vec right = load(row_weights + 2 * weight_step);
    Vec before = load(in), here = load(in + pitch);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      const Vec after = load(in + (m + 2) * pitch);
      sum[m][0] = fma(left, before, sum[m][0]);
      sum[m][0] = fma(middle, here, sum[m][0]);
      sum[m][0] = fma(right, after, sum[m][0]);
      before = here;
      here = after;
    }
  }
  finish(sum, spec, target);
}

template <class T>
void convolve_depthwise3(const PackedConv& packed, const ConvBand& band, int64_t row) {
  const ConvSpec& spec = packed.spec;
  const float* weights = packed_weights(packed);
  const float* bias = packed_bias(packed);
  const int64_t channels = spec.in_channels, weight_step = (channels + kWidth - 1) / kWidth * kWidth;
  const T* rows[3];
  for (int ky = 0; ky < 3; ++ky) rows[ky] = static_cast<const T*>(band.in[row + ky]);
  for (int64_t x = band.x_begin; x < band.x_end;) {
    const int64_t pixels = block_pixels(band.x_end - x, kDepthwisePixels);
    const int64_t offset = (x - spec.pad_left - band.in_begin) * band.in_pitch;
    for (int64_t c = 0; c < channels; c += kWidth)
      with_pixels<kDepthwisePixels>(pixels, [&](auto count) __attribute__((always_inline)) {
        depthwise3_tile<T, decltype(count)::kCount>(spec, rows, offset + c, band.in_pitch, weights + c, weight_step,
                                                    bias + c,
                                                    target_at(spec, band, row, x, c, min(kWidth, channels - c)));
      });
    x += pixels;
  }
}

static void convolve_depthwise(const PackedConv& packed, const ConvBand& band, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const bool three = spec.kernel_h == 3 && spec.kernel_w == 3 && spec.stride_h == 1 && spec.stride_w == 1 &&
                     spec.dilation_h == 1 && spec.dilation_w == 1;
  const bool vectors = band.in_pitch >= (spec.in_channels + kWidth - 1) / kWidth * kWidth;
  const Interior interior = find_interior(spec, band);
  const int64_t begin = max(band.x_begin, interior.begin), end = min(band.x_end, interior.end);
  for (int64_t row = 0; row < band.rows; ++row) {
    if (!three || !vectors || end <= begin) {
      convolve_depthwise_tiles(packed, band, row, workspace);
      continue;
    }
    ConvBand part = band;
    part.x_end = begin;
    convolve_depthwise_tiles(packed, part, row, workspace);
    part.x_begin = begin;
    part.x_end = end;
    if (band.in_element == Element::f32)
      convolve_depthwise3<float>(packed, part, row);
    else
      convolve_depthwise3<Bf16>(packed, part, row);
    part.x_begin = end;
    part.x_end = band.x_end;
    convolve_depthwise_tiles(packed, part, row, workspace);
  }
}

[[maybe_unused]] static void convolve_grouped(const PackedConv& packed, const ConvBand& band, float* workspace) {
  if (is_depthwise(packed.spec))
    convolve_depthwise(packed, band, workspace);
  else
    convolve_blocks<Floats>(packed.spec, packed_weights(packed), packed_bias(packed), band, workspace);
}

#if defined(__AVX512BF16__)
// An image of bfloat16 is one of half as many channels, each a pair; weights are packed in pairs alike.
[[maybe_unused]] static void convolve_bf16_direct(const PackedConv& packed, const ConvBand& band, float* workspace) {
  ConvSpec spec = packed.spec;
  spec.in_channels = channel_pairs(spec);
  ConvBand pairs = band;
  pairs.in_pitch /= 2;
  pairs.in_element = Element::f32;
  convolve_direct<Bf16Pairs>(spec, packed_weights(packed), packed_bias(packed), pairs, workspace);
}
#endif

}  // namespace fr::FR_ISA
