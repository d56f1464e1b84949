#define FR_ISA avx512_bf16
#include "kernels/arithmetic/simd_impl.h"
const fr::ArithmeticKernels fr::arithmetic_avx512_bf16 = fr::FR_ISA::kernels;
