#include "kernels/arithmetic/arithmetic.h"

namespace fr {
namespace {

float at(const Operand& operand, int64_t x, int64_t c) {
  return operand.data[x * operand.pitch + (operand.single ? 0 : c)];
}

void affine_ref(const float* scale, const float* shift, int64_t period, const Operand& in, float* out,
                int64_t out_pitch, int64_t channels, int64_t pixels) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c)
      out[x * out_pitch + c] = at(in, x, c) * scale[c % period] + shift[c % period];
}

void multiply_ref(const Operand& a, const Operand& b, float* out, int64_t out_pitch, int64_t channels, int64_t pixels) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c) out[x * out_pitch + c] = at(a, x, c) * at(b, x, c);
}

void add_ref(float scale_a, const Operand& a, float scale_b, const Operand& b, float* out, int64_t out_pitch,
             int64_t channels, int64_t pixels) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c) out[x * out_pitch + c] = scale_a * at(a, x, c) + scale_b * at(b, x, c);
}

}  // namespace

const ArithmeticKernels arithmetic_ref = {affine_ref, multiply_ref, add_ref};

const ArithmeticKernels& get_arithmetic(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/arithmetic/kernels.inc"
#undef FR_KERNEL
  return arithmetic_ref;
}

}  // namespace fr
