#define FR_ISA avx2
#include "kernels/local_mean/simd_impl.h"
const fr::LocalMeanKernels fr::local_mean_avx2 = fr::FR_ISA::kernels;
