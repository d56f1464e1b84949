#define FR_ISA avx2
#include "kernels/window_attention/simd_impl.h"
void fr::window_attention_avx2(const AttentionWindow& window, float* scratch) {
  FR_ISA::window_attention(window, scratch);
}
