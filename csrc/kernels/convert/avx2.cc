#define FR_ISA avx2
#include "kernels/convert/simd_impl.h"
const fr::ConvertKernels fr::convert_avx2 = fr::FR_ISA::kernels;
