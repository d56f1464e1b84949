#include "kernels/resize/resize.h"

#include <cmath>
#include <stdexcept>

namespace fr {
namespace {

constexpr const char* kNames[kResizes] = {"nearest", "nearest_exact", "bilinear", "bicubic"};

double cubic(double distance) {  // Keys' kernel with a = -3/4
  const double a = -0.75, x = std::fabs(distance);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

}  // namespace

const char* resize_name(Resize mode) { return kNames[static_cast<int>(mode)]; }

Resize parse_resize(const std::string& name) {
  for (int i = 0; i < kResizes; ++i)
    if (name == kNames[i]) return static_cast<Resize>(i);
  throw std::invalid_argument("unknown way to resize '" + name + "'");
}

ResizeTaps resize_taps(Resize mode, bool enlarge, int64_t factor, int64_t phase) {
  ResizeTaps taps;
  if (mode == Resize::nearest || (mode == Resize::nearest_exact && enlarge)) return taps;
  if (mode == Resize::nearest_exact) {
    taps.first = factor / 2;
    return taps;
  }
  // The position is a fraction of whole numbers, so that a weight of 0 is recognised as such.
  const int64_t above = enlarge ? 2 * phase + 1 - factor : factor - 1, below = enlarge ? 2 * factor : 2;
  const int64_t whole = above >= 0 ? above / below : -1;  // above > -below
  const double rest = static_cast<double>(above - whole * below) / static_cast<double>(below);
  taps.first = whole;
  if (rest == 0) return taps;
  if (mode == Resize::bilinear) {
    taps.count = 2;
    taps.weight[0] = static_cast<float>(1 - rest);
    taps.weight[1] = static_cast<float>(rest);
    return taps;
  }
  taps.first = whole - 1;
  taps.count = 4;
  for (int i = 0; i < 4; ++i) taps.weight[i] = static_cast<float>(cubic(i - 1 - rest));
  return taps;
}

void resize_ref(const ResizeRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x) {
    const ResizeTaps& taps = row.taps_x[row.enlarge ? x % row.factor : 0];
    const int64_t first = (row.enlarge ? x / row.factor : x * row.factor) + taps.first;
    for (int64_t c = 0; c < row.channels; ++c) {
      float sum = 0.0f;
      for (int64_t i = 0; i < row.taps_y; ++i) {
        float along = 0.0f;
        for (int64_t j = 0; j < taps.count; ++j) {
          int64_t column = first + j;
          column = column < row.in_begin ? row.in_begin : column >= row.in_end ? row.in_end - 1 : column;
          along += taps.weight[j] * row.in[i][(column - row.in_begin) * row.in_pitch + c];
        }
        sum += row.weight_y[i] * along;
      }
      row.out[(x - row.x_begin) * row.out_pitch + c] = sum;
    }
  }
}

ResizeFn* get_resize(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/resize/kernels.inc"
#undef FR_KERNEL
  return resize_ref;
}

}  // namespace fr
