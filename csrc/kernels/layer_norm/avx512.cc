#define FR_ISA avx512
#include "kernels/layer_norm/simd_impl.h"
void fr::layer_norm_avx512(const LayerNormRow& row) { FR_ISA::layer_norm(row); }
