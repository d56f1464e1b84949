// Sums of some rows of an image, by channel: row after row, pixel after pixel.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"
#include "base/isa.h"

namespace fr {

struct PartialSum {
  const void* const* rows = nullptr;  // pointers to rows of `element`
  int64_t row_count = 0;
  Element element = Element::f32;
  int64_t pixels = 0, pitch = 0, channels = 0;  // of a row; pitch: values from pixel to pixel
  float* out = nullptr;                         // [channels]
};

using PartialSumFn = void(const PartialSum&);
#define FR_KERNEL(name, isa) PartialSumFn name;
#include "kernels/partial_sum/kernels.inc"
#undef FR_KERNEL

PartialSumFn* get_partial_sum(Isa allowed = host_isa());

}  // namespace fr
