// The ways to compute a convolution, for conv.cc, which chooses among them. Each takes a checked, non-empty
// convolution that it supports.
#pragma once
#include "cuda/kernels.h"

namespace fr::cuda {

bool conv3x3_supports(const Convolution& conv, const Device& device);
void conv3x3(const Convolution& conv, const Device& device, Stream stream);

bool conv3x3_tma_supports(const Convolution& conv, const Device& device);
void conv3x3_tma(const Convolution& conv, const Device& device, Stream stream);

void conv_implicit(const Convolution& conv, Stream stream);
void conv_depthwise(const Convolution& conv, Stream stream);
void conv_plain(const Convolution& conv, Stream stream);

}  // namespace fr::cuda
