// Convolution of levels by the AMX matrix unit: as conv2d/amx.cc, with 64 channels or neighbouring channels' bytes in a
// row of a tile. A kernel row's taps are one run, which tiles divide wherever pixels begin; what a run's last tile
// reads beyond it, within the line that follows each row of an image, meets weights of zero.
#define FR_ISA amx
#include "kernels/conv2d/amx_tiles.h"
#include "kernels/conv2d_int8/simd_impl.h"

namespace fr::amx {
namespace {

struct ApplyFactors {
  Factors factors;

  template <int kPixels, int kOutputs>
  __attribute__((always_inline)) void operator()(Vec (&sum)[kPixels][kOutputs], const ConvSpec& spec,
                                                 const Target& target) const {
    finish_sums(sum, spec, factors, target);
  }
};

// 2 tiles of pixels x kOutputs tiles of output channels, from zero: tiles 0 to 3 are sums, 4 and 5 inputs, 6 and 7
// weights. weights_step: cells between the weights of one tile of outputs and the next.
template <int kOutputs>
FR_INLINE void multiply(const ConvSpec& spec, const Window& window, const float* weights, int64_t weights_step,
                        float* sums, Pending<ApplyFactors>& pending) {
  asm volatile("" ::: "memory");  // the patch is written: GCC 12 does not know that loading a tile reads memory
  clear_sums<kOutputs>();
  const int64_t stride = window.pixel_stride * static_cast<int64_t>(sizeof(float));
  const int64_t second = kTilePixels * window.pixel_stride;
  const int64_t run_weights = (window.run_length + kWidth - 1) / kWidth * kTileFloats;
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row == nullptr) {
      weights += window.runs * run_weights;
      continue;
    }
    for (int64_t run = 0; run < window.runs; ++run) {
      const float* in = row + run * window.run_step;
      for (int64_t k = 0; k < window.run_length; k += kWidth, weights += kTileFloats) {
        _tile_loadd(6, weights, 64);
        _tile_loadd(4, in + k, stride);
        _tile_dpbusd(0, 4, 6);
        if constexpr (kOutputs == 2) {
          _tile_loadd(7, weights + weights_step, 64);
          _tile_dpbusd(1, 4, 7);
        }
        _tile_loadd(5, in + k + second, stride);
        _tile_dpbusd(2, 5, 6);
        if constexpr (kOutputs == 2) _tile_dpbusd(3, 5, 7);
        finish_some(spec, pending);
      }
    }
  }
  finish_all(spec, pending);
  store_sums<kOutputs>(sums);
}

void convolve(const PackedConv& packed, const ConvBand& band, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const float* weights = packed_weights(packed);
  const ConvBand cells = band_of_cells<Int8Quads>(spec, band);
  const int64_t pixel_cells = int8_depth(spec) / 4, runs = int8_runs(spec);
  const int64_t run_tiles = (pixel_cells * (spec.kernel_w / runs) + kWidth - 1) / kWidth;
  const int64_t weights_step = spec.kernel_h * runs * run_tiles * kTileFloats;
  const int64_t vectors = (spec.out_channels + kWidth - 1) / kWidth;
  const uint8_t zero = static_cast<uint8_t>(packed.in_levels.zero);
  constexpr int64_t kSums = 2 * kAmxPixels * kWidth;
  float *const sums = workspace, *next = sums;  // those pending, and those being computed
  float* values = workspace + 2 * kSums;        // of each pair of vectors its factors and offsets
  float* patch = values + 2 * vectors * kWidth;
  Pending<ApplyFactors> pending;
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
  for (int64_t row = 0; row < band.rows; ++row) {
    for (int64_t n = 0; n < vectors; n += 2)
      make_factors(packed, band, row, n, min(2, vectors - n), values + 2 * n * kWidth);
    Factors factors = make_factors(packed, band, row, 0, 0, values);
    for_each_block<true>(
        spec, cells, row, kAmxPixels, 0, pixel_cells, patch,
        [&](int64_t x, int64_t pixels, const Window& window) {
          for (int64_t n = 0; n < vectors; n += 2) {
            next = next == sums ? sums + kSums : sums;
            const int64_t outputs = min(2, vectors - n);
            if (outputs == 2)
              multiply<2>(spec, window, weights + n * weights_step, weights_step, next, pending);
            else
              multiply<1>(spec, window, weights + n * weights_step, weights_step, next, pending);
            const int64_t lanes = min(kWidth, spec.out_channels - (n + outputs - 1) * kWidth);
            factors.values = values + 2 * n * kWidth;
            pending = {next, pixels, outputs, {factors}, target_at(spec, band, row, x, n * kWidth, lanes)};
          }
        },
        [&](int64_t x, int64_t pixels) { fill_levels<uint8_t>(spec, band, row, x, pixels, zero, patch); });
    finish_all(spec, pending);  // the next row may have other offsets
  }
  _tile_release();
}

}  // namespace
}  // namespace fr::amx

void fr::conv2d_int8_amx(const PackedConv& packed, const ConvBand& band, float* workspace) {
  amx::convolve(packed, band, workspace);
}
