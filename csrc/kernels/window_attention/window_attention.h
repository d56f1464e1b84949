// Softmax attention of each pixel to those of its window (Swin transformer, Liu et al., 2021), several heads.
//
//   out[i] = sum over j of softmax_j(q[i] . k[j] / sqrt(channels of a head) + bias[i - j]) v[j]
//
// A window is up to side x side pixels: those at the image's edges may be smaller.
#pragma once
#include <cstdint>
#include <vector>

#include "base/isa.h"

namespace fr {

struct AttentionWindow {
  const float* const* in = nullptr;  // rows, from the window's first column on: queries, keys, values, each by head
  int64_t in_pitch = 0;              // floats from pixel to pixel
  float* const* out = nullptr;
  int64_t out_pitch = 0;
  int64_t rows = 0, columns = 0;  // 1 to side
  int64_t side = 0;               // of a whole window
  int64_t heads = 0, head_channels = 0;
  const float* bias = nullptr;  // as attention_bias gives it
};

// Floats from row to row of scores and biases: whole vectors of every instruction set.
inline int64_t attention_pitch(int64_t side) { return (side * side + 15) / 16 * 16; }

// [head][key pixel][query pixel, zeros up to attention_pitch] from [head][2 side - 1][2 side - 1].
std::vector<float> attention_bias(const std::vector<float>& by_distance, int64_t heads, int64_t side);

int64_t window_scratch_floats(int64_t side, int64_t head_channels);

using WindowAttentionFn = void(const AttentionWindow&, float* scratch);  // scratch: 64-byte aligned
#define FR_KERNEL(name, isa) WindowAttentionFn name;
#include "kernels/window_attention/kernels.inc"
#undef FR_KERNEL

WindowAttentionFn* get_window_attention(Isa allowed = host_isa());

}  // namespace fr
