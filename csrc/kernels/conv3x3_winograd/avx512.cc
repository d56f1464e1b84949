#define FR_ISA avx512
#include "kernels/conv3x3_winograd/simd_impl.h"

void fr::conv3x3_winograd4_avx512(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512::convolve_winograd4<avx512::Floats, float>(packed, band, workspace);
}
