// Packing for Winograd F(4x4, 3x3): 36 products per 16 outputs instead of 144.
#pragma once
#include "kernels/conv2d/conv2d.h"

namespace fr {

// Fills weights, bias and workspace_floats.
// Weights: [position][block][in channel][the block's vectors], transformed in double.
void pack_winograd4(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
                    PackedConv* packed);

}  // namespace fr
