// A row of an image seen through a flow field: out(x, y) = in(x + flow_x, y + flow_y), bilinear between pixels, the
// edge's pixels beyond the image. What is not finite is taken from the image's first row or column.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace fr {

struct WarpRow {
  const float* in = nullptr;         // the image's first pixel
  int64_t height = 0, width = 0;     // at least 1
  int64_t in_row = 0, in_pitch = 0;  // floats from row to row, from pixel to pixel
  const float* flow = nullptr;       // of this row's pixels: x, y
  int64_t flow_pitch = 0;
  float* out = nullptr;
  int64_t out_pitch = 0;
  int64_t y = 0, x_begin = 0, x_end = 0;
  int64_t channels = 0;
};

// Where one coordinate falls: between pixels `first` and `second`, `share` of the way.
struct WarpTap {
  int64_t first, second;
  float share;
};
constexpr WarpTap warp_tap(float place, int64_t size) {
  const float last = static_cast<float>(size - 1);
  place = place > 0.0f ? place : 0.0f;  // and NaN
  place = place < last ? place : last;
  const int64_t first = static_cast<int64_t>(place);
  return {first, first + 1 < size ? first + 1 : first, place - static_cast<float>(first)};
}

using WarpFn = void(const WarpRow&);
#define FR_KERNEL(name, isa) WarpFn name;
#include "kernels/warp/kernels.inc"
#undef FR_KERNEL

WarpFn* get_warp(Isa allowed = host_isa());

}  // namespace fr
