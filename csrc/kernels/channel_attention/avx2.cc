#define FR_ISA avx2
#include "kernels/channel_attention/simd_impl.h"
const fr::ChannelAttentionKernels fr::channel_attention_avx2 = fr::FR_ISA::kernels;
