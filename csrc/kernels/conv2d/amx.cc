// Convolution of bfloat16 images by the AMX matrix unit. A tile of products holds 16 neighbouring pixels x 16 output
// channels; of the input it takes 16 pixels x 32 channels as they lie in memory, of the weights 16 pairs of channels
// x 16 outputs. Each pixel's sum runs over kernel row, kernel column and channel pair, wherever its tile begins.
#define FR_ISA amx
#include "kernels/conv2d/simd_impl.h"

namespace fr::amx {
namespace {

constexpr int64_t kTilePixels = 16;
constexpr int64_t kTileFloats = 16 * kWidth;  // of a tile, or a tile's worth of pairs

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// 2 tiles of pixels x kOutputs tiles of output channels, from zero: tiles 0 and 1 belong to the first pixels, 4 and 5
// hold inputs, 6 and 7 weights. weights_step: floats between the weights of one tile of outputs and the next.
template <int kOutputs>
FR_INLINE void multiply(const Window& window, const float* weights, int64_t weights_step, float* sums) {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kOutputs == 2) {
    _tile_zero(1);
    _tile_zero(3);
  }
  const int64_t stride = window.pixel_stride * static_cast<int64_t>(sizeof(float));
  const int64_t second = kTilePixels * window.pixel_stride;
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row == nullptr) {
      weights += window.runs * window.run_length * kWidth;
      continue;
    }
    for (int64_t run = 0; run < window.runs; ++run) {
      const float* in = row + run * window.run_step;
      for (int64_t k = 0; k < window.run_length; k += kWidth, weights += kTileFloats) {
        _tile_loadd(6, weights, 64);
        _tile_loadd(4, in + k, stride);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (kOutputs == 2) {
          _tile_loadd(7, weights + weights_step, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        _tile_loadd(5, in + k + second, stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kOutputs == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  constexpr int64_t kStride = kOutputs * 64;
  _tile_stored(0, sums, kStride);
  _tile_stored(2, sums + kTilePixels * kOutputs * kWidth, kStride);
  if constexpr (kOutputs == 2) {
    _tile_stored(1, sums + kWidth, kStride);
    _tile_stored(3, sums + kTilePixels * kOutputs * kWidth + kWidth, kStride);
  }
}

// Adds the bias and finishes `pixels` pixels of sums, four at a time.
template <int kOutputs>
FR_INLINE void finish_block(const ConvSpec& spec, const float* sums, const float* bias, int64_t pixels, Target target) {
  constexpr int kPixels = 4;
  Vec offset[kOutputs];
  FR_UNROLL
  for (int n = 0; n < kOutputs; ++n) offset[n] = load(bias + n * kWidth);
  for (; pixels >= kPixels; pixels -= kPixels) {
    Vec sum[kPixels][kOutputs];
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kOutputs; ++n) sum[m][n] = load(sums + (m * kOutputs + n) * kWidth) + offset[n];
    }
    finish(sum, spec, target);
    sums += kPixels * kOutputs * kWidth;
    target.out += kPixels * target.out_step;
    target.residual += kPixels * target.residual_step;
  }
  for (; pixels > 0; --pixels, sums += kOutputs * kWidth) {
    Vec sum[1][kOutputs];
    FR_UNROLL
    for (int n = 0; n < kOutputs; ++n) sum[0][n] = load(sums + n * kWidth) + offset[n];
    finish(sum, spec, target);
    target.out += target.out_step;
    target.residual += target.residual_step;
  }
}

void convolve(const PackedConv& packed, const ConvBand& band, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const float* weights = packed_weights(packed);
  const float* bias = packed_bias(packed);
  ConvBand pairs = band;
  pairs.in_pitch /= 2;
  pairs.in_element = Element::f32;
  const int64_t depth = amx_pairs(spec), weights_step = spec.kernel_h * spec.kernel_w * depth * kWidth;
  const int64_t vectors = (spec.out_channels + kWidth - 1) / kWidth;
  float* sums = workspace;
  float* patch = workspace + 2 * kAmxPixels * kWidth;
  const TileConfig config;
  _tile_loadconfig(&config);
  for (int64_t row = 0; row < band.rows; ++row)
    for_each_block<true>(
        spec, pairs, row, kAmxPixels, 0, depth, patch, [&](int64_t x, int64_t pixels, const Window& window) {
          int64_t n = 0;
          for (; n + 2 <= vectors; n += 2) {
            multiply<2>(window, weights + n * weights_step, weights_step, sums);
            const int64_t lanes = min(kWidth, spec.out_channels - (n + 1) * kWidth);
            finish_block<2>(spec, sums, bias + n * kWidth, pixels, target_at(spec, band, row, x, n * kWidth, lanes));
          }
          if (n < vectors) {
            multiply<1>(window, weights + n * weights_step, weights_step, sums);
            const int64_t lanes = min(kWidth, spec.out_channels - n * kWidth);
            finish_block<1>(spec, sums, bias + n * kWidth, pixels, target_at(spec, band, row, x, n * kWidth, lanes));
          }
        });
  _tile_release();
}

}  // namespace
}  // namespace fr::amx

void fr::conv2d_bf16_direct_amx(const PackedConv& packed, const ConvBand& band, float* workspace) {
  amx::convolve(packed, band, workspace);
}
