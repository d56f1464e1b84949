#include "kernels/warp/warp.h"

namespace fr {

void warp_ref(const WarpRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x) {
    const float* flow = row.flow + (x - row.x_begin) * row.flow_pitch;
    const WarpTap across = warp_tap(static_cast<float>(x) + flow[0], row.width);
    const WarpTap down = warp_tap(static_cast<float>(row.y) + flow[1], row.height);
    for (int64_t c = 0; c < row.channels; ++c) {
      const auto between = [&](int64_t y) {
        const float a = row.in[y * row.in_row + across.first * row.in_pitch + c];
        const float b = row.in[y * row.in_row + across.second * row.in_pitch + c];
        return a + across.share * (b - a);
      };
      const float above = between(down.first), below = between(down.second);
      row.out[(x - row.x_begin) * row.out_pitch + c] = above + down.share * (below - above);
    }
  }
}

WarpFn* get_warp(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/warp/kernels.inc"
#undef FR_KERNEL
  return warp_ref;
}

}  // namespace fr
