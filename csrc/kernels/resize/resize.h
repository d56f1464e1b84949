// Resizing by a whole factor, up or down, one output row at a time, NHWC, as torch's interpolate does it without
// align_corners and antialias: output o stands at input (o + 1/2) / scale - 1/2. Each axis is a short weighted sum:
//
//   out[y][x] = sum over i, j of weight_y[i] * (weight_x[j] * in[row i][column j])
//
// and coordinates outside of the image are those of its border. Only the taps whose weight is not 0 are read.
#pragma once
#include <cstdint>
#include <string>

#include "base/isa.h"

namespace fr {

// nearest takes input floor(o / scale), nearest_exact the one nearest to the formula above.
enum class Resize : int32_t { nearest, nearest_exact, bilinear, bicubic };
constexpr int kResizes = 4;

const char* resize_name(Resize mode);
Resize parse_resize(const std::string& name);  // throws std::invalid_argument for an unknown name

// Enlarging by f: output f * q + phase reads inputs q + first + [0, count). Shrinking: output q, inputs f * q + ...
struct ResizeTaps {
  int64_t first = 0, count = 1;
  float weight[4] = {1.0f, 0.0f, 0.0f, 0.0f};
};
ResizeTaps resize_taps(Resize mode, bool enlarge, int64_t factor, int64_t phase);

constexpr int64_t kMaxResize = 16;  // the greatest factor

struct ResizeRow {
  const float* in[4] = {};  // the row's taps along y, each pointing at column in_begin
  int64_t taps_y = 0;
  float weight_y[4] = {};
  const ResizeTaps* taps_x = nullptr;  // by phase; one when shrinking
  bool enlarge = true;
  int64_t factor = 1;
  int64_t in_begin = 0, in_end = 0;  // columns held; those outside are the nearest of these
  int64_t in_pitch = 0;
  float* out = nullptr;  // points at pixel x_begin
  int64_t out_pitch = 0;
  int64_t x_begin = 0, x_end = 0;
  int64_t channels = 0;
};

using ResizeFn = void(const ResizeRow& row);
#define FR_KERNEL(name, isa) ResizeFn name;
#include "kernels/resize/kernels.inc"
#undef FR_KERNEL

ResizeFn* get_resize(Isa allowed = host_isa());

}  // namespace fr
