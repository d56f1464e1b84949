// The loops of every instruction set: vectors of channels.
#include "kernels/resize/resize.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

template <int kTapsY, int kTapsX>
FR_INLINE void pixel(const ResizeRow& row, const ResizeTaps& taps, const int64_t (&offset)[4], float* out) {
  for (int64_t c = 0; c < row.channels; c += kWidth) {
    const int64_t lanes = min(row.channels - c, kWidth);
    Vec sum = {};
    FR_UNROLL
    for (int i = 0; i < kTapsY; ++i) {
      Vec along = {};
      FR_UNROLL
      for (int j = 0; j < kTapsX; ++j) {
        const float* tap = row.in[i] + offset[j] + c;
        const Vec value = lanes == kWidth ? load(tap) : load_partial(tap, lanes);
        along = j == 0 ? value * broadcast(taps.weight[0]) : fma(value, broadcast(taps.weight[j]), along);
      }
      sum = i == 0 ? along * broadcast(row.weight_y[0]) : fma(along, broadcast(row.weight_y[i]), sum);
    }
    if (lanes == kWidth)
      store(out + c, sum);
    else
      store_partial(out + c, sum, lanes);
  }
}

template <int kTapsY>
void resize(const ResizeRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x) {
    const ResizeTaps& taps = row.taps_x[row.enlarge ? x % row.factor : 0];
    const int64_t first = (row.enlarge ? x / row.factor : x * row.factor) + taps.first;
    int64_t offset[4];
    for (int64_t j = 0; j < taps.count; ++j)
      offset[j] = (min(max(first + j, row.in_begin), row.in_end - 1) - row.in_begin) * row.in_pitch;
    float* out = row.out + (x - row.x_begin) * row.out_pitch;
    if (taps.count == 1)
      pixel<kTapsY, 1>(row, taps, offset, out);
    else if (taps.count == 2)
      pixel<kTapsY, 2>(row, taps, offset, out);
    else
      pixel<kTapsY, 4>(row, taps, offset, out);
  }
}

void run(const ResizeRow& row) {
  if (row.taps_y == 1)
    resize<1>(row);
  else if (row.taps_y == 2)
    resize<2>(row);
  else
    resize<4>(row);
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
