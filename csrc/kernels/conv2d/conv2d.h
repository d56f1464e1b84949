// Convolution of one band of rows of an NHWC image, with a fused epilogue:
//
//   y = act(conv(x, w) + bias [+ r]) * scale [+ r]
//
// Everything outside the columns and rows given is zero (zero padding), so memory holds no padding. A pixel's
// channels are contiguous. Each output pixel is computed in the same order of operations wherever the band or
// the column range begins, so a result does not depend on how the image was cut.
#pragma once
#include <cstdint>
#include <vector>

#include "base/bfloat16.h"
#include "base/buffer.h"
#include "base/isa.h"
#include "base/levels.h"

namespace fr {

enum class Activation : int32_t { none, relu, leaky_relu, gelu };  // NaN stays NaN; gelu: by erf
enum class Residual : int32_t { none, before_activation, after_scale };
// Those that begin with bf16 read bfloat16 images only, whose pixels are padded to whole tiles of 32 channels;
// int8_direct reads images of 8 bits only (kernels/conv2d_int8).
enum class ConvAlgorithm : int32_t { reference, direct, winograd4, grouped, bf16_direct, bf16_winograd4, int8_direct };
constexpr bool reads_bf16(ConvAlgorithm a) {
  return a == ConvAlgorithm::bf16_direct || a == ConvAlgorithm::bf16_winograd4;
}

struct ConvSpec {
  int64_t in_channels = 0, out_channels = 0;  // of the whole convolution, all groups together
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;
  Activation activation = Activation::none;
  float slope = 0.0f;  // leaky_relu: negative values are multiplied by it
  float scale = 1.0f;
  Residual residual = Residual::none;
};

// One call's work: output rows [0, rows) and output columns [x_begin, x_end) of a band. Pitches are in values.
struct ConvBand {
  // in[i] is input row (first output row) * stride_h - pad_top + i; null: a row of zeros. It holds the input
  // columns [in_begin, in_end); columns outside are zero. in[i] points at column in_begin.
  // Entries: (rows - 1) * stride_h + (kernel_h - 1) * dilation_h + 1; for winograd4 round_up(rows, 4) + 2.
  const void* const* in = nullptr;
  int64_t in_begin = 0, in_end = 0;
  int64_t in_pitch = 0;  // from pixel to pixel, >= in_channels
  // out[j] points at column out_begin of output row j; only columns [x_begin, x_end) are written. winograd4: null where
  // the row is not wanted.
  void* const* out = nullptr;
  int64_t out_begin = 0;
  int64_t out_pitch = 0;  // >= out_channels; what lies behind them in a written pixel may become anything finite
  // The residual has the output's rows, columns and channels; unused when spec.residual is none. May be out itself.
  const void* const* residual = nullptr;
  int64_t residual_begin = 0;
  int64_t residual_pitch = 0;
  Element in_element = Element::f32, out_element = Element::f32, residual_element = Element::f32;
  Levels out_levels, residual_levels;  // where an element is u8; the input's are packed with the weights
  int64_t rows = 0;
  int64_t x_begin = 0, x_end = 0;  // winograd4: x_begin is a multiple of 4 (the tile grid is anchored at column 0)
};

// A convolution made ready for one instruction set. Immutable once packed; threads share it.
struct PackedConv {
  ConvSpec spec;
  ConvAlgorithm algorithm = ConvAlgorithm::reference;
  const char* variant = "";  // the kernel's name, e.g. "conv2d_direct_avx512"
  Buffer<float> weights;
  Buffer<float> bias;            // zero-filled up to whole vectors
  Levels in_levels;              // int8_direct: of the images that it reads
  int64_t workspace_floats = 0;  // scratch that one run needs, 64-byte aligned, per thread
  void (*run)(const PackedConv&, const ConvBand&, float* workspace) = nullptr;
};

// One implementation of an algorithm: a line of a kernels.inc.
struct ConvVariant {
  const char* name;
  ConvAlgorithm algorithm;
  Isa isa;
  int width;          // floats in its vectors
  int block_vectors;  // output channels are computed in blocks of at most this many vectors
  void (*run)(const PackedConv&, const ConvBand&, float* workspace);
};

// All of this build, for each algorithm the fastest first, the reference last.
const std::vector<ConvVariant>& conv_variants();

// Whether the algorithm can do this convolution at all.
bool conv_supports(const ConvSpec& spec, ConvAlgorithm algorithm);

// The algorithm the product takes for this convolution (the rule stands in conv2d.cc).
ConvAlgorithm choose_conv_algorithm(const ConvSpec& spec, Isa isa, Element input = Element::f32);

// weight: [out_channels][in_channels / groups][kernel_h][kernel_w]; bias: [out_channels] or null.
// Throws std::invalid_argument if the algorithm cannot do this convolution.
// in_levels: of the input's images, for int8_direct.
PackedConv pack_conv(const ConvSpec& spec, ConvAlgorithm algorithm, Isa isa, const float* weight, const float* bias,
                     Levels in_levels = {});
PackedConv pack_conv(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
                     Levels in_levels = {});

}  // namespace fr
