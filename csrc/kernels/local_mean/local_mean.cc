#include "kernels/local_mean/local_mean.h"

#include <algorithm>

namespace fr {
namespace {

double at(const void* row, Element element, int64_t place) {
  return element == Element::f32 ? static_cast<const float*>(row)[place]
                                 : bf16_to_float(static_cast<const Bf16*>(row)[place]);
}

void add_ref(const LocalMeanRow& r) {
  for (int64_t x = r.x_begin; x < r.x_end; ++x) {
    const int64_t begin = std::clamp<int64_t>(x - (r.side - 1) / 2, 0, r.width - r.side);
    for (int64_t c = 0; c < r.channels; ++c) {
      double sum = 0;
      for (int64_t i = begin; i < begin + r.side; ++i) {
        sum += at(r.enter, r.element, i * r.pitch + c);
        if (r.leave != nullptr) sum -= at(r.leave, r.element, i * r.pitch + c);
      }
      r.sums[x * r.channels + c] += sum;
    }
  }
}

void write_ref(const LocalMeanRow& r, const Result& out, double scale) {
  for (int64_t x = r.x_begin; x < r.x_end; ++x)
    for (int64_t c = 0; c < r.channels; ++c) {
      const float mean = static_cast<float>(r.sums[x * r.channels + c] * scale);
      const int64_t place = (x - r.x_begin) * out.pitch + c;
      if (out.element == Element::f32)
        static_cast<float*>(out.data)[place] = mean;
      else
        static_cast<Bf16*>(out.data)[place] = float_to_bf16(mean);
    }
}

}  // namespace

const LocalMeanKernels local_mean_ref = {add_ref, write_ref};

const LocalMeanKernels& get_local_mean(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/local_mean/kernels.inc"
#undef FR_KERNEL
  return local_mean_ref;
}

}  // namespace fr
