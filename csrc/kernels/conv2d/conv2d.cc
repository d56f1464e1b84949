#include "kernels/conv2d/conv2d.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/conv2d/layout.h"
#include "kernels/conv2d_int8/conv2d_int8.h"
#include "kernels/conv3x3_winograd/winograd4.h"

namespace fr {
namespace {

void check_spec(const ConvSpec& s) {
  const auto positive = [](int64_t value, const char* name) {
    if (value < 1)
      throw std::invalid_argument(std::string("conv2d: ") + name + " must be at least 1, got " + std::to_string(value));
  };
  positive(s.in_channels, "in_channels");
  positive(s.out_channels, "out_channels");
  positive(s.kernel_h, "kernel_h");
  positive(s.kernel_w, "kernel_w");
  positive(s.stride_h, "stride_h");
  positive(s.stride_w, "stride_w");
  positive(s.dilation_h, "dilation_h");
  positive(s.dilation_w, "dilation_w");
  positive(s.groups, "groups");
  if (s.pad_top < 0 || s.pad_left < 0) throw std::invalid_argument("conv2d: padding must not be negative");
  if (s.in_channels % s.groups != 0 || s.out_channels % s.groups != 0)
    throw std::invalid_argument("conv2d: groups (" + std::to_string(s.groups) + ") must divide in_channels (" +
                                std::to_string(s.in_channels) + ") and out_channels (" +
                                std::to_string(s.out_channels) + ")");
}

// [group][block][ky][kx][in channel][the block's vectors], zeros beyond a group's output channels. With
// width 1 and blocks of 1 vector, as the reference has it: [out channel][ky][kx][in channel].
void pack_direct(const ConvSpec& s, const ConvVariant& variant, const float* weight, const float* bias,
                 PackedConv* packed) {
  const int64_t in_channels = s.in_channels / s.groups, out_channels = s.out_channels / s.groups;
  const int64_t taps = checked_product(s.kernel_h, s.kernel_w);
  const int64_t vectors = ceil_div(out_channels, variant.width);
  const int64_t blocks = channel_block_count(vectors, variant.block_vectors);
  packed->weights = Buffer<float>(checked_product(s.groups, vectors, variant.width, in_channels, taps));
  packed->bias = Buffer<float>(checked_product(s.groups, vectors, variant.width));
  float* w = packed->weights.data();
  float* b = packed->bias.data();
  for (int64_t group = 0; group < s.groups; ++group)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = channel_block_begin(vectors, blocks, block) * variant.width;
      const int64_t end = channel_block_begin(vectors, blocks, block + 1) * variant.width;
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t ci = 0; ci < in_channels; ++ci)
          for (int64_t co = begin; co < end; ++co) {
            const int64_t out = group * out_channels + co;
            *w++ = co < out_channels ? weight[(out * in_channels + ci) * taps + tap] : 0.0f;
          }
      for (int64_t co = begin; co < end; ++co)
        *b++ = bias != nullptr && co < out_channels ? bias[group * out_channels + co] : 0.0f;
    }
}

// [ky][kx][vector of input channels][out channel][the vector's lanes].
void pack_dot_products(const ConvSpec& s, const ConvVariant& variant, const float* weight, const float* bias,
                       PackedConv* packed) {
  const int64_t taps = checked_product(s.kernel_h, s.kernel_w), width = variant.width;
  packed->weights = Buffer<float>(checked_product(s.out_channels, s.in_channels, taps));
  packed->bias = Buffer<float>(s.out_channels);
  float* w = packed->weights.data();
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t first = 0; first < s.in_channels; first += width)
      for (int64_t co = 0; co < s.out_channels; ++co)
        for (int64_t ci = first; ci < first + width; ++ci) *w++ = weight[(co * s.in_channels + ci) * taps + tap];
  for (int64_t co = 0; co < s.out_channels; ++co) packed->bias[co] = bias != nullptr ? bias[co] : 0.0f;
}

// As pack_direct and pack_dot_products, with pairs of bfloat16 in the places of floats.
void pack_bf16_direct(const ConvSpec& s, const ConvVariant& variant, const float* weight, const float* bias,
                      PackedConv* packed) {
  const bool tiles = variant.isa == Isa::amx;
  const int64_t pairs = tiles ? amx_pairs(s) : channel_pairs(s), taps = checked_product(s.kernel_h, s.kernel_w);
  ConvSpec halves = s;  // the same convolution of pairs, for one half of each pair
  halves.in_channels = pairs;
  std::vector<float> half(static_cast<size_t>(checked_product(s.out_channels, pairs, taps)));
  for (int64_t which = 0; which < 2; ++which) {
    for (int64_t co = 0; co < s.out_channels; ++co)
      for (int64_t pair = 0; pair < pairs; ++pair)
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t ci = 2 * pair + which;
          half[static_cast<size_t>((co * pairs + pair) * taps + tap)] =
              ci < s.in_channels ? weight[(co * s.in_channels + ci) * taps + tap] : 0.0f;
        }
    PackedConv one;
    if (!tiles && uses_dot_products(halves, variant.width))
      pack_dot_products(halves, variant, half.data(), bias, &one);
    else
      pack_direct(halves, variant, half.data(), bias, &one);
    if (which == 0) {
      packed->weights = Buffer<float>(one.weights.size());
      packed->bias = std::move(one.bias);
    }
    Bf16* to = reinterpret_cast<Bf16*>(packed->weights.data());
    for (int64_t i = 0; i < one.weights.size(); ++i) to[2 * i + which] = float_to_bf16(one.weights[i]);
  }
  packed->workspace_floats = tiles ? amx_workspace_floats(variant.width)
                                   : checked_product(s.kernel_h, patch_columns(s, kMaxTilePixels), pairs);
}

// [ky][kx][channel], zeros up to a whole vector.
void pack_depthwise(const ConvSpec& s, const ConvVariant& variant, const float* weight, const float* bias,
                    PackedConv* packed) {
  const int64_t channels = round_up(s.in_channels, variant.width);
  const int64_t taps = checked_product(s.kernel_h, s.kernel_w);
  packed->weights = Buffer<float>(checked_product(taps, channels));
  packed->bias = Buffer<float>(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const bool real = c < s.in_channels;
    for (int64_t tap = 0; tap < taps; ++tap) packed->weights[tap * channels + c] = real ? weight[c * taps + tap] : 0.0f;
    packed->bias[c] = real && bias != nullptr ? bias[c] : 0.0f;
  }
}

float value_at(const void* row, int64_t place, Element element, Levels levels = {}) {
  if (element == Element::u8) return level_to_float(static_cast<const uint8_t*>(row)[place], levels);
  return element == Element::f32 ? static_cast<const float*>(row)[place]
                                 : bf16_to_float(static_cast<const Bf16*>(row)[place]);
}

// The end of a convolution for one output value.
void finish_value(const ConvSpec& s, const ConvBand& band, int64_t row, int64_t x, int64_t co, float sum) {
  const float residual = s.residual == Residual::none
                             ? 0.0f
                             : value_at(band.residual[row], (x - band.residual_begin) * band.residual_pitch + co,
                                        band.residual_element, band.residual_levels);
  if (s.residual == Residual::before_activation) sum += residual;
  if (s.activation == Activation::relu && sum < 0.0f) sum = 0.0f;
  if (s.activation == Activation::leaky_relu && sum < 0.0f) sum *= s.slope;
  if (s.activation == Activation::gelu) sum *= 0.5f + 0.5f * std::erf(sum * 0.707106781f);
  sum *= s.scale;
  if (s.residual == Residual::after_scale) sum += residual;
  const int64_t place = (x - band.out_begin) * band.out_pitch + co;
  if (band.out_element == Element::f32)
    static_cast<float*>(band.out[row])[place] = sum;
  else if (band.out_element == Element::bf16)
    static_cast<Bf16*>(band.out[row])[place] = float_to_bf16(sum);
  else
    static_cast<uint8_t*>(band.out[row])[place] =
        nearest_level(sum / band.out_levels.scale + static_cast<float>(band.out_levels.zero));
}

}  // namespace

const float* packed_weights(const PackedConv& packed) { return packed.weights.data(); }
const float* packed_bias(const PackedConv& packed) { return packed.bias.data(); }

// Sums in float32: first the bias, then kernel row, kernel column, input channel. What lies outside the
// input is left out, which differs from adding a zero only when a weight is not finite.
void conv2d_reference(const PackedConv& packed, const ConvBand& band, float*) {
  const ConvSpec& s = packed.spec;
  const int64_t in_channels = s.in_channels / s.groups, out_channels = s.out_channels / s.groups;
  for (int64_t row = 0; row < band.rows; ++row)
    for (int64_t x = band.x_begin; x < band.x_end; ++x)
      for (int64_t co = 0; co < s.out_channels; ++co) {
        const float* weights = packed.weights.data() + co * s.kernel_h * s.kernel_w * in_channels;
        float sum = packed.bias[co];
        for (int64_t ky = 0; ky < s.kernel_h; ++ky)
          for (int64_t kx = 0; kx < s.kernel_w; ++kx, weights += in_channels) {
            const void* in = band.in[row * s.stride_h + ky * s.dilation_h];
            const int64_t column = x * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (in == nullptr || column < band.in_begin || column >= band.in_end) continue;
            const int64_t first = (column - band.in_begin) * band.in_pitch + co / out_channels * in_channels;
            for (int64_t ci = 0; ci < in_channels; ++ci) sum += weights[ci] * value_at(in, first + ci, band.in_element);
          }
        finish_value(s, band, row, x, co, sum);
      }
}

// Whole sums in int32, then as for float: of levels less their zero and of weights in 127ths of the channel's largest.
void conv2d_int8_reference(const PackedConv& packed, const ConvBand& band, float*) {
  const ConvSpec& s = packed.spec;
  for (int64_t row = 0; row < band.rows; ++row)
    for (int64_t x = band.x_begin; x < band.x_end; ++x)
      for (int64_t co = 0; co < s.out_channels; ++co) {
        const int8_t* weights =
            reinterpret_cast<const int8_t*>(packed.weights.data()) + co * s.kernel_h * s.kernel_w * int8_depth(s);
        int32_t sum = 0;
        for (int64_t ky = 0; ky < s.kernel_h; ++ky)
          for (int64_t kx = 0; kx < s.kernel_w; ++kx, weights += int8_depth(s)) {
            const uint8_t* in = static_cast<const uint8_t*>(band.in[row * s.stride_h + ky * s.dilation_h]);
            const int64_t column = x * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (in == nullptr || column < band.in_begin || column >= band.in_end) continue;
            in += (column - band.in_begin) * band.in_pitch;
            for (int64_t ci = 0; ci < s.in_channels; ++ci) sum += weights[ci] * (in[ci] - packed.in_levels.zero);
          }
        const float scale = packed.bias[s.out_channels + co];
        finish_value(s, band, row, x, co, static_cast<float>(sum) * scale + packed.bias[co]);
      }
}

const std::vector<ConvVariant>& conv_variants() {
  static const std::vector<ConvVariant> variants = {
#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  {#name, ConvAlgorithm::algorithm, Isa::isa, width, block_vectors, name},
#include "kernels/conv3x3_winograd/kernels.inc"
#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  {#name, ConvAlgorithm::algorithm, Isa::isa, width, block_vectors, name},
#include "kernels/conv2d_int8/kernels.inc"
#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  {#name, ConvAlgorithm::algorithm, Isa::isa, width, block_vectors, name},
#include "kernels/conv2d/kernels.inc"
  };
  return variants;
}

bool conv_supports(const ConvSpec& s, ConvAlgorithm algorithm) {
  switch (algorithm) {
    case ConvAlgorithm::direct:
    case ConvAlgorithm::bf16_direct:
      return s.groups == 1;
    case ConvAlgorithm::winograd4:
    case ConvAlgorithm::bf16_winograd4:
      return s.groups == 1 && s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 &&
             s.dilation_h == 1 && s.dilation_w == 1 && s.pad_top == 1 && s.pad_left == 1;
    case ConvAlgorithm::int8_direct:
      return s.groups == 1 && int8_sums_fit(s);
    case ConvAlgorithm::grouped:
    case ConvAlgorithm::reference:
      break;
  }
  return true;
}

// Measured (benchmarks/kernels/conv_peak.cc) with AVX2 and AVX-512. Below 16 inputs a chunk of the transformed
// input is mostly empty: 13->64 takes 34 ms, direct 30. Up to 4 outputs direct uses dot products: 64->4 takes
// 21 ms, Winograd 27; with 5 and more Winograd is ahead (16->5: 6.2 and 10.4 ms). The rule may look at nothing
// but the convolution: an image cut in another way must give the same bits.
ConvAlgorithm choose_conv_algorithm(const ConvSpec& s, Isa isa, Element input) {
  if (input == Element::u8) return ConvAlgorithm::int8_direct;
  if (s.groups != 1) return ConvAlgorithm::grouped;
  const bool dot_products = s.out_channels <= 4 && s.in_channels % 16 == 0;
  const bool winograd = conv_supports(s, ConvAlgorithm::winograd4) && s.in_channels >= 16 && !dot_products;
  if (input == Element::bf16 && includes(isa, Isa::avx512_bf16))
    return winograd && !includes(isa, Isa::amx) ? ConvAlgorithm::bf16_winograd4 : ConvAlgorithm::bf16_direct;
  return winograd ? ConvAlgorithm::winograd4 : ConvAlgorithm::direct;
}

PackedConv pack_conv(const ConvSpec& spec, ConvAlgorithm algorithm, Isa isa, const float* weight, const float* bias,
                     Levels in_levels) {
  for (const ConvVariant& variant : conv_variants())
    if (variant.algorithm == algorithm && includes(isa, variant.isa))
      return pack_conv(spec, variant, weight, bias, in_levels);
  throw std::invalid_argument("conv2d: unknown algorithm");
}

PackedConv pack_conv(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
                     Levels in_levels) {
  check_spec(spec);
  if (!conv_supports(spec, variant.algorithm))
    throw std::invalid_argument(std::string("conv2d: ") + variant.name + " cannot do this convolution");
  PackedConv packed;
  packed.spec = spec;
  packed.algorithm = variant.algorithm;
  packed.variant = variant.name;
  packed.run = variant.run;
  switch (variant.algorithm) {
    case ConvAlgorithm::winograd4:
    case ConvAlgorithm::bf16_winograd4:
      pack_winograd4(spec, variant, weight, bias, &packed);
      break;
    case ConvAlgorithm::int8_direct:
      pack_int8(spec, variant, weight, bias, in_levels, &packed);
      break;
    case ConvAlgorithm::bf16_direct:
      pack_bf16_direct(spec, variant, weight, bias, &packed);
      break;
    case ConvAlgorithm::grouped:
      if (is_depthwise(spec))
        pack_depthwise(spec, variant, weight, bias, &packed);
      else
        pack_direct(spec, variant, weight, bias, &packed);
      break;
    case ConvAlgorithm::direct:
      if (uses_dot_products(spec, variant.width)) {
        pack_dot_products(spec, variant, weight, bias, &packed);
        break;
      }
      [[fallthrough]];
    case ConvAlgorithm::reference:
      pack_direct(spec, variant, weight, bias, &packed);
      break;
  }
  if (variant.algorithm == ConvAlgorithm::direct || variant.algorithm == ConvAlgorithm::grouped) {
    const int64_t patch_channels = is_depthwise(spec) ? spec.in_channels : spec.in_channels / spec.groups;
    packed.workspace_floats = checked_product(spec.kernel_h, patch_columns(spec, kMaxTilePixels), patch_channels);
  }
  return packed;
}

}  // namespace fr
