// The loops of every instruction set: vectors of channels.
#include "kernels/pool/pool.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

template <bool kMax>
void pool(const PoolRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x) {
    const int64_t left = x * row.stride - row.pad;
    int64_t first = 0, last = row.kernel_w;  // taps inside
    while (first < last && left + first * row.dilation < row.in_begin) ++first;
    while (last > first && left + (last - 1) * row.dilation >= row.in_end) --last;
    int64_t rows = 0;
    for (int64_t i = 0; i < row.kernel_h; ++i) rows += row.in[i] != nullptr;
    const Vec divisor = broadcast(static_cast<float>(row.divisor != 0 ? row.divisor : rows * (last - first)));
    float* out = row.out + (x - row.x_begin) * row.out_pitch;
    for (int64_t c = 0; c < row.channels; c += kWidth) {
      const int64_t lanes = min(row.channels - c, kWidth);
      Vec result = broadcast(kMax ? -__builtin_inff() : 0.0f);
      for (int64_t i = 0; i < row.kernel_h; ++i) {
        if (row.in[i] == nullptr) continue;
        const float* in = row.in[i] + (left - row.in_begin) * row.in_pitch + c;
        for (int64_t j = first; j < last; ++j) {
          const float* tap = in + j * row.dilation * row.in_pitch;
          const Vec value = lanes == kWidth ? load(tap) : load_partial(tap, lanes);
          if (kMax)
            result = result >= value ? result : result != result ? result : value;
          else
            result += value;
        }
      }
      if (!kMax) result = result / divisor;
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
