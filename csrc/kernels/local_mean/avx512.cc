#define FR_ISA avx512
#include "kernels/local_mean/simd_impl.h"
const fr::LocalMeanKernels fr::local_mean_avx512 = fr::FR_ISA::kernels;
