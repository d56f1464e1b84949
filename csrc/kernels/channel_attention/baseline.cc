#define FR_ISA baseline
#include "kernels/channel_attention/simd_impl.h"
const fr::ChannelAttentionKernels fr::channel_attention_baseline = fr::FR_ISA::kernels;
