// Convolution of images of 8 bits (base/levels.h) with weights of 8 bits: whole sums in int32, the rest in float.
//
// A weight is q * s, q within -127 to 127 and s a 127th of the largest of its output channel; a sum is that of
// q * (level - zero) over the products, which fits 31 bits. What lies outside the input counts as `zero`. Pixels are
// padded to int8_depth channels, whose levels do not matter.
#pragma once
#include "kernels/conv2d/conv2d.h"

namespace fr {

static inline int64_t int8_depth(const ConvSpec& spec) { return (spec.in_channels + 15) / 16 * 16; }

// Whether no sum can leave 31 bits.
bool int8_sums_fit(const ConvSpec& spec);

// Neighbouring taps and their channels that are one run of bytes in the input: a kernel row's, unless it is dilated.
static inline int64_t int8_runs(const ConvSpec& spec) { return spec.dilation_w == 1 ? 1 : spec.kernel_w; }

// Fills all but spec, algorithm, variant and run. Weights are cells of 4 bytes: 4 neighbouring channels' weights of 8
// bits for instruction sets with products of bytes, 2 of 16 bits for others; [block][ky][run][cell][the block's lanes],
// for AMX with a run's cells filled up to whole tiles of 16. The reference's are [out channel][ky][kx][channel]. Bias:
// the bias, then the scale of each channel's sums, then for each ky -zero times the sum of its weights, in int32; each
// zero-filled up to whole vectors. Throws std::invalid_argument for weights that are not finite.
void pack_int8(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
               Levels in_levels, PackedConv* packed);

}  // namespace fr
