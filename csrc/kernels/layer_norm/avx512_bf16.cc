#define FR_ISA avx512_bf16
#include "kernels/layer_norm/simd_impl.h"
void fr::layer_norm_avx512_bf16(const LayerNormRow& row) { FR_ISA::layer_norm(row); }
