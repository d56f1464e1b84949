#include "kernels/partial_sum/partial_sum.h"

namespace fr {

void partial_sum_ref(const PartialSum& s) {
  for (int64_t c = 0; c < s.channels; ++c) {
    float sum = 0.0f;
    for (int64_t i = 0; i < s.row_count; ++i)
      for (int64_t x = 0; x < s.pixels; ++x) {
        const int64_t place = x * s.pitch + c;
        sum += s.element == Element::f32 ? static_cast<const float*>(s.rows[i])[place]
                                         : bf16_to_float(static_cast<const Bf16*>(s.rows[i])[place]);
      }
    s.out[c] = sum;
  }
}

PartialSumFn* get_partial_sum(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/partial_sum/kernels.inc"
#undef FR_KERNEL
  return partial_sum_ref;
}

}  // namespace fr
