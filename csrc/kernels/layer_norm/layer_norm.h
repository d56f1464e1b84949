// Layer normalisation over the channels of each pixel (Ba et al., 2016).
//
//   centred    out = (in - mean) / sqrt(variance + epsilon) * scale[channel] + shift[channel]
//   otherwise  out = in / sqrt(variance + epsilon) * scale[channel] + shift[channel]
//
// The variance is the mean square of what differs from the mean, in a second pass over the pixel. out may be in, of the
// same pitch and element. The number of pixels may be 0.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"
#include "base/isa.h"

namespace fr {

struct LayerNormRow {
  const void* in = nullptr;
  int64_t in_pitch = 0;  // values from pixel to pixel
  void* out = nullptr;
  int64_t out_pitch = 0;
  Element in_element = Element::f32, out_element = Element::f32;  // or bf16
  int64_t pixels = 0, channels = 0;
  const float* scale = nullptr;  // [channels]
  const float* shift = nullptr;
  float epsilon = 0.0f;
  bool centred = true;
};

using LayerNormFn = void(const LayerNormRow&);
#define FR_KERNEL(name, isa) LayerNormFn name;
#include "kernels/layer_norm/kernels.inc"
#undef FR_KERNEL

LayerNormFn* get_layer_norm(Isa allowed = host_isa());

}  // namespace fr
