#define FR_ISA baseline
#include "kernels/resize/simd_impl.h"
void fr::resize_baseline(const ResizeRow& row) { FR_ISA::run(row); }
