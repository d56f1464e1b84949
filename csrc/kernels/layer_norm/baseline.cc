#define FR_ISA baseline
#include "kernels/layer_norm/simd_impl.h"
void fr::layer_norm_baseline(const LayerNormRow& row) { FR_ISA::layer_norm(row); }
