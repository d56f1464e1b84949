#include "kernels/conv2d_int8/conv2d_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/conv2d/layout.h"

namespace fr {
namespace {

constexpr int64_t kLargestProduct = 255 * 127;
constexpr int64_t kTileCells = 16;

// Weights of 8 bits and each output channel's scale.
struct Weights {
  std::vector<int8_t> values;  // in the order of the floats
  std::vector<float> scales;
};

Weights quantize(const ConvSpec& spec, const float* weight) {
  const int64_t products = spec.kernel_h * spec.kernel_w * spec.in_channels;
  Weights result;
  for (int64_t co = 0; co < spec.out_channels; ++co, weight += products) {
    float largest = 0.0f;
    for (int64_t i = 0; i < products; ++i) {
      if (!std::isfinite(weight[i])) throw std::invalid_argument("conv2d: int8 needs weights that are finite");
      largest = std::max(largest, std::fabs(weight[i]));
    }
    // Below the smallest normal number the quotients would be coarse; such a channel's weights count as zero.
    const float scale = largest / 127.0f < std::numeric_limits<float>::min() ? 1.0f : largest / 127.0f;
    for (int64_t i = 0; i < products; ++i)
      result.values.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(weight[i] / scale), -127.0f, 127.0f)));
    result.scales.push_back(scale);
  }
  return result;
}

}  // namespace

bool int8_sums_fit(const ConvSpec& spec) {
  int64_t products = 0;
  return !__builtin_mul_overflow(spec.kernel_h, spec.kernel_w, &products) &&
         !__builtin_mul_overflow(products, spec.in_channels, &products) &&
         products <= std::numeric_limits<int32_t>::max() / kLargestProduct;
}

void pack_int8(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
               Levels in_levels, PackedConv* packed) {
  const Weights weights = quantize(spec, weight);
  const int64_t taps = spec.kernel_h * spec.kernel_w, depth = int8_depth(spec);
  const bool reference = variant.width == 1, tiles = variant.isa == Isa::amx;
  const int64_t parts = includes(variant.isa, Isa::avx512_bf16) ? 4 : 2;  // channels in a cell
  const int64_t vectors = ceil_div(spec.out_channels, variant.width), lanes = vectors * variant.width;
  const int64_t blocks = channel_block_count(vectors, variant.block_vectors);
  const int64_t runs = int8_runs(spec), run_channels = depth * (spec.kernel_w / runs);
  const int64_t cells = tiles ? round_up(run_channels / parts, kTileCells) : run_channels / parts;
  const auto quantized = [&](int64_t co, int64_t ky, int64_t kx, int64_t ci) -> int8_t {
    if (co >= spec.out_channels || kx >= spec.kernel_w || ci >= spec.in_channels) return 0;
    return weights.values[static_cast<size_t>((co * spec.in_channels + ci) * taps + ky * spec.kernel_w + kx)];
  };
  packed->in_levels = in_levels;
  packed->weights = Buffer<float>(reference ? ceil_div(spec.out_channels * taps * depth, 4)
                                            : checked_product(lanes, spec.kernel_h, runs, cells));
  int8_t* bytes = reinterpret_cast<int8_t*>(packed->weights.data());
  int16_t* halves = reinterpret_cast<int16_t*>(packed->weights.data());
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = channel_block_begin(vectors, blocks, block) * variant.width;
    const int64_t end = channel_block_begin(vectors, blocks, block + 1) * variant.width;
    for (int64_t ky = 0; ky < spec.kernel_h; ++ky) {
      if (reference) {
        for (int64_t kx = 0; kx < spec.kernel_w; ++kx)
          for (int64_t ci = 0; ci < depth; ++ci) *bytes++ = quantized(begin, ky, kx, ci);
        continue;
      }
      for (int64_t run = 0; run < runs; ++run)
        for (int64_t cell = 0; cell < cells; ++cell)
          for (int64_t co = begin; co < end; ++co)
            for (int64_t part = 0; part < parts; ++part) {
              const int64_t place = cell * parts + part;
              const int64_t kx = runs == 1 ? place / depth : place < depth ? run : spec.kernel_w;
              const int8_t value = quantized(co, ky, kx, place % depth);
              if (parts == 4)
                *bytes++ = value;
              else
                *halves++ = value;
            }
    }
  }
  packed->bias = Buffer<float>(checked_product(2 + spec.kernel_h, lanes));
  float* values = packed->bias.data();
  std::fill_n(values, packed->bias.size(), 0.0f);
  for (int64_t co = 0; co < spec.out_channels; ++co) {
    values[co] = bias != nullptr ? bias[co] : 0.0f;
    values[lanes + co] = weights.scales[static_cast<size_t>(co)] * in_levels.scale;
    for (int64_t ky = 0; ky < spec.kernel_h; ++ky) {
      int32_t sum = 0;
      for (int64_t kx = 0; kx < spec.kernel_w; ++kx)
        for (int64_t ci = 0; ci < spec.in_channels; ++ci) sum += quantized(co, ky, kx, ci);
      sum *= -in_levels.zero;
      std::memcpy(values + (2 + ky) * lanes + co, &sum, sizeof(sum));
    }
  }
  // A row's factors and offsets, the patch with room for what tiles read beyond it, and two blocks of tiles' sums.
  const int64_t pixels = tiles ? kAmxPixels : kMaxTilePixels, pixel_cells = depth / parts;
  packed->workspace_floats = 2 * lanes + checked_product(spec.kernel_h, patch_columns(spec, pixels), pixel_cells);
  if (tiles)
    packed->workspace_floats += kAmxPixels * (4 * variant.width + spec.stride_w * pixel_cells) + 2 * kTileCells;
}

}  // namespace fr
