#define FR_ISA avx512_bf16
#include "kernels/conv3x3_winograd/simd_impl.h"

void fr::conv3x3_bf16_winograd4_avx512_bf16(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512_bf16::convolve_winograd4<avx512_bf16::Bf16Pairs, Bf16>(packed, band, workspace);
}
