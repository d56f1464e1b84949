#define FR_ISA avx512
#include "kernels/conv2d_int8/simd_impl.h"

void fr::conv2d_int8_avx512(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512::convolve_int8<avx512::Int16Pairs>(packed, band, workspace);
}
