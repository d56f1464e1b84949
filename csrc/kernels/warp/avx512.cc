#define FR_ISA avx512
#include "kernels/warp/simd_impl.h"
void fr::warp_avx512(const WarpRow& row) { FR_ISA::warp(row); }
