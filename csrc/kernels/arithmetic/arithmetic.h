// Sums and products over a row of pixels.
//
//   affine    out = in * scale[channel] + shift[channel]    (one rounding where the instruction set has fma)
//   multiply  out = a * b
//   add       out = scale_a * a + scale_b * b
//
// Pixels of `channels` values lie the given pitches apart. out may be an input, of the same pitch. Sizes may be 0.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace fr {

// One operand: pixels `pitch` apart. `single`: a pixel holds one value, which serves all channels.
struct Operand {
  const float* data = nullptr;
  int64_t pitch = 0;
  bool single = false;
};

struct ArithmeticKernels {
  // Value c of a pixel takes scale[c % period] and shift[c % period]; period: a multiple of 16, or the channels.
  void (*affine)(const float* scale, const float* shift, int64_t period, const Operand& in, float* out,
                 int64_t out_pitch, int64_t channels, int64_t pixels);
  void (*multiply)(const Operand& a, const Operand& b, float* out, int64_t out_pitch, int64_t channels, int64_t pixels);
  void (*add)(float scale_a, const Operand& a, float scale_b, const Operand& b, float* out, int64_t out_pitch,
              int64_t channels, int64_t pixels);  // neither operand single
};
#define FR_KERNEL(name, isa) extern const ArithmeticKernels name;
#include "kernels/arithmetic/kernels.inc"
#undef FR_KERNEL

const ArithmeticKernels& get_arithmetic(Isa allowed = host_isa());

}  // namespace fr
