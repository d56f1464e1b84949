#define FR_ISA baseline
#include "kernels/conv2d_int8/simd_impl.h"

void fr::conv2d_int8_baseline(const PackedConv& packed, const ConvBand& band, float* workspace) {
  baseline::convolve_int8<baseline::Int16Pairs>(packed, band, workspace);
}
