#define FR_ISA avx2
#include "kernels/resize/simd_impl.h"
void fr::resize_avx2(const ResizeRow& row) { FR_ISA::run(row); }
