#define FR_ISA avx512_bf16
#include "kernels/conv2d_int8/simd_impl.h"

void fr::conv2d_int8_avx512_vnni(const PackedConv& packed, const ConvBand& band, float* workspace) {
  avx512_bf16::convolve_int8<avx512_bf16::Int8Quads>(packed, band, workspace);
}
