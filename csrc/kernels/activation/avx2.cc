#define FR_ISA avx2
#include "kernels/activation/simd_impl.h"
void fr::activation_avx2(const CurveSpec& spec, const float* slope, int64_t period, const float* in, int64_t in_pitch,
                         float* out, int64_t out_pitch, int64_t channels, int64_t pixels) {
  FR_ISA::run(spec, {slope, period, in, in_pitch, out, out_pitch, channels, pixels});
}
