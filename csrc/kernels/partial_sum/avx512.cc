#define FR_ISA avx512
#include "kernels/partial_sum/simd_impl.h"
void fr::partial_sum_avx512(const PartialSum& sum) { FR_ISA::partial_sum(sum); }
