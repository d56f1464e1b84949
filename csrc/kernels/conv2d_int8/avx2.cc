#define FR_ISA avx2
#include "kernels/conv2d_int8/simd_impl.h"

void fr::conv2d_int8_avx2(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx2::convolve_int8<avx2::Int16Pairs>(packed, band, workspace);
}
