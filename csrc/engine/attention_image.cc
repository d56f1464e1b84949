#include "engine/attention_image.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/parallel.h"
#include "graph/graph.h"
#include "kernels/window_attention/window_attention.h"

namespace fr {

void window_attention_images(const AttentionImages& a, int threads) {
  Node grid;
  grid.window = a.side;
  grid.shift = a.shift;
  const int64_t top = window_at(grid, 0).begin, channels = a.heads * a.head_channels;
  const int64_t window_rows = ceil_div(a.height - top, a.side);
  const std::vector<float> by_distance(a.bias, a.bias + a.heads * (2 * a.side - 1) * (2 * a.side - 1));
  const std::vector<float> bias = attention_bias(by_distance, a.heads, a.side);
  const int64_t scratch_floats = round_up(window_scratch_floats(a.side, a.head_channels), 16);
  Buffer<float> scratch(checked_product(scratch_floats, threads));
  WindowAttentionFn* attend = get_window_attention();
  parallel_for(a.images * window_rows, threads, [&](int64_t i, int thread) {
    const int64_t image = i / window_rows, y = top + i % window_rows * a.side;
    const int64_t first = std::max<int64_t>(y, 0), last = std::min(y + a.side, a.height);
    const float* in[kMostWindow];
    float* out[kMostWindow];
    AttentionWindow window{in, 3 * channels, out,     channels,        last - first,
                           0,  a.side,       a.heads, a.head_channels, bias.data()};
    for (int64_t x = 0; x < a.width; x += window.columns) {
      window.columns = std::min(window_at(grid, x).end, a.width) - x;
      for (int64_t row = first; row < last; ++row) {
        const int64_t pixel = (image * a.height + row) * a.width + x;
        in[row - first] = a.in + pixel * 3 * channels;
        out[row - first] = a.out + pixel * channels;
      }
      attend(window, scratch.data() + thread * scratch_floats);
    }
  });
}

}  // namespace fr
