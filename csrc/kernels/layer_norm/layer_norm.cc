#include "kernels/layer_norm/layer_norm.h"

#include <cmath>

namespace fr {

void layer_norm_ref(const LayerNormRow& row) {
  const float count = static_cast<float>(row.channels);
  for (int64_t x = 0; x < row.pixels; ++x) {
    const float* in = row.in + x * row.in_pitch;
    float* out = row.out + x * row.out_pitch;
    float sum = 0.0f, squares = 0.0f;
    for (int64_t c = 0; c < row.channels; ++c) sum += in[c];
    const float mean = sum / count;
    for (int64_t c = 0; c < row.channels; ++c) squares += (in[c] - mean) * (in[c] - mean);
    const float gain = 1.0f / std::sqrt(squares / count + row.epsilon), taken_off = row.centred ? mean : 0.0f;
    for (int64_t c = 0; c < row.channels; ++c) out[c] = (in[c] - taken_off) * gain * row.scale[c] + row.shift[c];
  }
}

LayerNormFn* get_layer_norm(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/layer_norm/kernels.inc"
#undef FR_KERNEL
  return layer_norm_ref;
}

}  // namespace fr
