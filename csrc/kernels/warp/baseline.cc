#define FR_ISA baseline
#include "kernels/warp/simd_impl.h"
void fr::warp_baseline(const WarpRow& row) { FR_ISA::warp(row); }
