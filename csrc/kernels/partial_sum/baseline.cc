#define FR_ISA baseline
#include "kernels/partial_sum/simd_impl.h"
void fr::partial_sum_baseline(const PartialSum& sum) { FR_ISA::partial_sum(sum); }
