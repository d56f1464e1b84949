#define FR_ISA avx2
#include "kernels/conv2d/simd_impl.h"

void fr::conv2d_direct_avx2(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx2::convolve_direct(packed, band, workspace);
}

void fr::conv2d_grouped_avx2(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx2::convolve_grouped(packed, band, workspace);
}
