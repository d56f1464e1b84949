#define FR_ISA avx2
#include "kernels/warp/simd_impl.h"
void fr::warp_avx2(const WarpRow& row) { FR_ISA::warp(row); }
