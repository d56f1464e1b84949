#define FR_ISA baseline
#include "kernels/arithmetic/simd_impl.h"
const fr::ArithmeticKernels fr::arithmetic_baseline = fr::FR_ISA::kernels;
