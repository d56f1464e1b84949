#define FR_ISA avx2
#include "kernels/layer_norm/simd_impl.h"
void fr::layer_norm_avx2(const LayerNormRow& row) { FR_ISA::layer_norm(row); }
