// Attention between channels (Restormer, Zamir et al., 2022, equation 1) in three parts: the products of queries and
// keys over some rows, the softmax of their sum over the image, and its weights applied to the values.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"
#include "base/isa.h"

namespace fr {

// Of one head: products[i][j] = sum of q[i] k[j], then the sums of q[i]^2 and of k[j]^2; over rows, pixel by pixel.
struct GramRows {
  const void* const* queries = nullptr;  // rows of `element`, from the head's first query on
  int64_t row_count = 0;
  Element element = Element::f32;
  int64_t keys = 0;  // values from a pixel's first query to its first key
  int64_t pixels = 0, pitch = 0, channels = 0;
  float* out = nullptr;  // [channels][channels], [channels], [channels]
};

// out[i] = sum over j of weights[j][i] in[j] for each head, pixel by pixel.
struct MixRow {
  const float* in = nullptr;
  int64_t in_pitch = 0;
  float* out = nullptr;
  int64_t out_pitch = 0;
  int64_t pixels = 0;
  int64_t heads = 0, channels = 0;  // channels of one head
  const float* weights = nullptr;   // [head][channels][channels]
};

struct ChannelAttentionKernels {
  void (*gram)(const GramRows&, float* scratch);  // gram_scratch_floats(channels) floats
  void (*mix)(const MixRow&);
};
#define FR_KERNEL(name, isa) extern const ChannelAttentionKernels name;
#include "kernels/channel_attention/kernels.inc"
#undef FR_KERNEL

int64_t gram_scratch_floats(int64_t channels);

const ChannelAttentionKernels& get_channel_attention(Isa allowed = host_isa());

// The weights that mix takes, from `rows` sums `pitch` floats apart, each as GramRows has them for one head after the
// other: softmax over j of temperature[head] * q[i] . k[j] / (|q[i]| |k[j]|).
// scratch: heads * channels * (channels + 2) doubles.
void channel_softmax(const float* partial, int64_t rows, int64_t pitch, int64_t heads, int64_t channels,
                     const float* temperature, double* scratch, float* weights);

}  // namespace fr
