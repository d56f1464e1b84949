#include "kernels/pool/pool.h"

#include <cmath>

namespace fr {

void pool_ref(Pool pool, const PoolRow& row) {
  for (int64_t x = row.x_begin; x < row.x_end; ++x)
    for (int64_t c = 0; c < row.channels; ++c) {
      float most = -INFINITY, sum = 0.0f;
      int64_t count = 0;
      for (int64_t i = 0; i < row.kernel_h; ++i)
        for (int64_t j = 0; j < row.kernel_w; ++j) {
          const int64_t column = x * row.stride - row.pad + j * row.dilation;
          if (row.in[i] == nullptr || column < row.in_begin || column >= row.in_end) continue;
          const float value = row.in[i][(column - row.in_begin) * row.in_pitch + c];
          if (value > most || std::isnan(value)) most = value;
          sum += value;
          ++count;
        }
      row.out[(x - row.x_begin) * row.out_pitch + c] =
          pool == Pool::max ? most : sum / static_cast<float>(row.divisor != 0 ? row.divisor : count);
    }
}

PoolFn* get_pool(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/pool/kernels.inc"
#undef FR_KERNEL
  return pool_ref;
}

}  // namespace fr
