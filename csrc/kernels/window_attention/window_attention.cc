#include "kernels/window_attention/window_attention.h"

#include <algorithm>
#include <cmath>

namespace fr {

std::vector<float> attention_bias(const std::vector<float>& by_distance, int64_t heads, int64_t side) {
  const int64_t pixels = side * side, pitch = attention_pitch(side), span = 2 * side - 1;
  std::vector<float> bias(static_cast<size_t>(heads * pixels * pitch));
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t j = 0; j < pixels; ++j)
      for (int64_t i = 0; i < pixels; ++i) {
        const int64_t dy = i / side - j / side + side - 1, dx = i % side - j % side + side - 1;
        bias[static_cast<size_t>((head * pixels + j) * pitch + i)] =
            by_distance[static_cast<size_t>((head * span + dy) * span + dx)];
      }
  return bias;
}

int64_t window_scratch_floats(int64_t side, int64_t head_channels) {
  const int64_t pixels = side * side, pitch = attention_pitch(side);
  // queries and results turned, scores, biases of a smaller window, and the addresses of pixels and results
  return 2 * head_channels * pitch + 2 * pixels * pitch + 4 * pitch;
}

void window_attention_ref(const AttentionWindow& w, float* scratch) {
  const int64_t pixels = w.rows * w.columns, pitch = attention_pitch(w.side), all = w.heads * w.head_channels;
  const float scale = 1.0f / std::sqrt(static_cast<float>(w.head_channels));
  const auto pixel = [&](int64_t i) { return w.in[i / w.columns] + i % w.columns * w.in_pitch; };
  const auto place = [&](int64_t i) { return i / w.columns * w.side + i % w.columns; };
  for (int64_t head = 0; head < w.heads; ++head)
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t first = head * w.head_channels;
      const float* bias = w.bias + head * w.side * w.side * pitch + place(i);
      float most = -INFINITY, total = 0.0f;
      for (int64_t j = 0; j < pixels; ++j) {
        float score = 0.0f;
        for (int64_t c = first; c < first + w.head_channels; ++c) score += pixel(i)[c] * pixel(j)[all + c];
        scratch[j] = score * scale + bias[place(j) * pitch];
        most = std::max(most, scratch[j]);
      }
      for (int64_t j = 0; j < pixels; ++j) total += scratch[j] = std::exp(scratch[j] - most);
      for (int64_t c = first; c < first + w.head_channels; ++c) {
        float sum = 0.0f;
        for (int64_t j = 0; j < pixels; ++j) sum += scratch[j] * pixel(j)[2 * all + c];
        w.out[i / w.columns][i % w.columns * w.out_pitch + c] = sum / total;
      }
    }
}

WindowAttentionFn* get_window_attention(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/window_attention/kernels.inc"
#undef FR_KERNEL
  return window_attention_ref;
}

}  // namespace fr
