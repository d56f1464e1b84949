// Pooling over windows, one output row at a time, NHWC:
//
//   max       the greatest value of the window that lies inside the image; NaN if one of them is NaN
//   average   sum of these values / divisor; divisor 0: how many pixels of the window lie inside
//
// Pixel x of the row looks at columns x * stride - pad + i * dilation, i in [0, kernel_w). Values are added row by
// row, from left to right. A window that lies outside altogether gives -inf or 0 / divisor.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace fr {

enum class Pool : int32_t { max, average };

struct PoolRow {
  const float* const* in = nullptr;  // rows of the window, each pointing at column in_begin; null: outside
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t in_begin = 0, in_end = 0;  // columns held; all others count as outside of the image
  int64_t in_pitch = 0;
  float* out = nullptr;  // points at pixel x_begin
  int64_t out_pitch = 0;
  int64_t x_begin = 0, x_end = 0;
  int64_t channels = 0;
  int64_t stride = 1, pad = 0, dilation = 1;
  int64_t divisor = 0;
};

using PoolFn = void(Pool pool, const PoolRow& row);
#define FR_KERNEL(name, isa) PoolFn name;
#include "kernels/pool/kernels.inc"
#undef FR_KERNEL

PoolFn* get_pool(Isa allowed = host_isa());

}  // namespace fr
