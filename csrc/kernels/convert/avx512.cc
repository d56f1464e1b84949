#define FR_ISA avx512
#include "kernels/convert/simd_impl.h"
const fr::ConvertKernels fr::convert_avx512 = fr::FR_ISA::kernels;
