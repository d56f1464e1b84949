#define FR_ISA avx512
#include "kernels/channel_attention/simd_impl.h"
const fr::ChannelAttentionKernels fr::channel_attention_avx512 = fr::FR_ISA::kernels;
