#define FR_ISA avx512
#include "kernels/arithmetic/simd_impl.h"
const fr::ArithmeticKernels fr::arithmetic_avx512 = fr::FR_ISA::kernels;
