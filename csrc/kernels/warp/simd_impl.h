// The loops of every instruction set: vectors of channels.
#include "kernels/warp/warp.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

FR_INLINE Vec read(const float* data, int64_t count) {
  return count == kWidth ? load(data) : load_partial(data, count);
}

void warp(const WarpRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x) {
    const float* flow = row.flow + (x - row.x_begin) * row.flow_pitch;
    const WarpTap across = warp_tap(static_cast<float>(x) + flow[0], row.width);
    const WarpTap down = warp_tap(static_cast<float>(row.y) + flow[1], row.height);
    const int64_t left = across.first * row.in_pitch, right = across.second * row.in_pitch;
    const float* above = row.in + down.first * row.in_row;
    const float* below = row.in + down.second * row.in_row;
    const Vec share_x = broadcast(across.share), share_y = broadcast(down.share);
    float* out = row.out + (x - row.x_begin) * row.out_pitch;
    for (int64_t c = 0; c < row.channels; c += kWidth) {
      const int64_t lanes = min(row.channels - c, kWidth);
      const auto between = [&](const float* at) __attribute__((always_inline)) {
        const Vec a = read(at + left + c, lanes);
        return fma(share_x, read(at + right + c, lanes) - a, a);
      };
      const Vec top = between(above), result = fma(share_y, between(below) - top, top);
      if (lanes == kWidth)
        store(out + c, result);
      else
        store_partial(out + c, result, lanes);
    }
  }
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
