#define FR_ISA baseline
#include "kernels/local_mean/simd_impl.h"
const fr::LocalMeanKernels fr::local_mean_baseline = fr::FR_ISA::kernels;
