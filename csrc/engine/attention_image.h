// Window attention over whole images, for the torch operator.
#pragma once
#include <cstdint>

namespace fr {

struct AttentionImages {
  const float* in = nullptr;  // [images][height][width][3 * heads * head_channels]
  float* out = nullptr;       // [images][height][width][heads * head_channels]
  int64_t images = 0, height = 0, width = 0;
  int64_t heads = 0, head_channels = 0;
  int64_t side = 0, shift = 0;  // of a window; where the first whole one begins, 0 <= shift < side
  const float* bias = nullptr;  // [heads][2 side - 1][2 side - 1]
};

void window_attention_images(const AttentionImages& images, int threads);

}  // namespace fr
