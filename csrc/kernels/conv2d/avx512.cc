#define FR_ISA avx512
#include "kernels/conv2d/simd_impl.h"

void fr::conv2d_direct_avx512(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512::convolve_direct(packed, band, workspace);
}

void fr::conv2d_grouped_avx512(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512::convolve_grouped(packed, band, workspace);
}
