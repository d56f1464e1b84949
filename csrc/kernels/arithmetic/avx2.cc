#define FR_ISA avx2
#include "kernels/arithmetic/simd_impl.h"
const fr::ArithmeticKernels fr::arithmetic_avx2 = fr::FR_ISA::kernels;
