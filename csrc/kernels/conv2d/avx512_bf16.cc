#define FR_ISA avx512_bf16
#include "kernels/conv2d/simd_impl.h"

void fr::conv2d_bf16_direct_avx512_bf16(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512_bf16::convolve_bf16_direct(packed, band, workspace);
}
