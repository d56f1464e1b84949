#include "kernels/layer_norm/layer_norm.h"

#include <cmath>

namespace fr {

namespace {

template <class In, class Out>
void normalise(const LayerNormRow& row) {
  const float count = static_cast<float>(row.channels);
  for (int64_t x = 0; x < row.pixels; ++x) {
    const In* in = static_cast<const In*>(row.in) + x * row.in_pitch;
    Out* out = static_cast<Out*>(row.out) + x * row.out_pitch;
    float sum = 0.0f, squares = 0.0f;
    for (int64_t c = 0; c < row.channels; ++c) sum += to_float(in[c]);
    const float mean = sum / count;
    for (int64_t c = 0; c < row.channels; ++c) squares += (to_float(in[c]) - mean) * (to_float(in[c]) - mean);
    const float gain = 1.0f / std::sqrt(squares / count + row.epsilon), taken_off = row.centred ? mean : 0.0f;
    for (int64_t c = 0; c < row.channels; ++c)
      put((to_float(in[c]) - taken_off) * gain * row.scale[c] + row.shift[c], out + c);
  }
}

}  // namespace

void layer_norm_ref(const LayerNormRow& row) {
  const bool narrow = row.out_element == Element::bf16;
  if (row.in_element == Element::bf16)
    narrow ? normalise<Bf16, Bf16>(row) : normalise<Bf16, float>(row);
  else
    narrow ? normalise<float, Bf16>(row) : normalise<float, float>(row);
}

LayerNormFn* get_layer_norm(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/layer_norm/kernels.inc"
#undef FR_KERNEL
  return layer_norm_ref;
}

}  // namespace fr
