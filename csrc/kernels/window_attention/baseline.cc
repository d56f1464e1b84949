#define FR_ISA baseline
#include "kernels/window_attention/simd_impl.h"
void fr::window_attention_baseline(const AttentionWindow& window, float* scratch) {
  FR_ISA::window_attention(window, scratch);
}
