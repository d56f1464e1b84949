#define FR_ISA avx512
#include "kernels/window_attention/simd_impl.h"
void fr::window_attention_avx512(const AttentionWindow& window, float* scratch) {
  FR_ISA::window_attention(window, scratch);
}
