#define FR_ISA avx2
#include "kernels/conv3x3_winograd/simd_impl.h"

void fr::conv3x3_winograd4_avx2(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx2::convolve_winograd4<avx2::Floats, float>(packed, band, workspace);
}
