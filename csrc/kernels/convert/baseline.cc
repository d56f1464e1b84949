#define FR_ISA baseline
#include "kernels/convert/simd_impl.h"
const fr::ConvertKernels fr::convert_baseline = fr::FR_ISA::kernels;
