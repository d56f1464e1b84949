#define FR_ISA avx512
#include "kernels/resize/simd_impl.h"
void fr::resize_avx512(const ResizeRow& row) { FR_ISA::run(row); }
