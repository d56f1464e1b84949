#include "kernels/arithmetic/arithmetic.h"

#include <cmath>
#include <stdexcept>

namespace fr {
namespace {

constexpr const char* kFormulaNames[kFormulas] = {"divide", "minimum", "maximum", "above"};

float at(const Operand& operand, int64_t x, int64_t c) {
  const int64_t place = x * operand.pitch + (operand.single ? 0 : c);
  return operand.element == Element::f32 ? static_cast<const float*>(operand.data)[place]
                                         : bf16_to_float(static_cast<const Bf16*>(operand.data)[place]);
}

template <class F>
void each(const Result& out, int64_t channels, int64_t pixels, const F& formula) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c) {
      const float value = formula(x, c);
      if (out.element == Element::f32)
        static_cast<float*>(out.data)[x * out.pitch + c] = value;
      else
        static_cast<Bf16*>(out.data)[x * out.pitch + c] = float_to_bf16(value);
    }
}

void affine_ref(const float* scale, const float* shift, int64_t period, const Operand& in, const Result& out,
                int64_t channels, int64_t pixels) {
  each(out, channels, pixels,
       [&](int64_t x, int64_t c) { return at(in, x, c) * scale[c % period] + shift[c % period]; });
}

void multiply_ref(const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels) {
  each(out, channels, pixels, [&](int64_t x, int64_t c) { return at(a, x, c) * at(b, x, c); });
}

void add_ref(float scale_a, const Operand& a, float scale_b, const Operand& b, const Result& out, int64_t channels,
             int64_t pixels) {
  each(out, channels, pixels, [&](int64_t x, int64_t c) { return scale_a * at(a, x, c) + scale_b * at(b, x, c); });
}

void combine_ref(Formula formula, const Operand& a, const Operand& b, const Result& out, int64_t channels,
                 int64_t pixels) {
  each(out, channels, pixels, [&](int64_t x, int64_t c) {
    const float left = at(a, x, c), right = at(b, x, c);
    if (formula == Formula::divide) return left / right;
    if (formula == Formula::above) return left > right ? 1.0f : 0.0f;
    if (std::isnan(left) || std::isnan(right)) return left + right;
    return formula == Formula::minimum ? std::fmin(left, right) : std::fmax(left, right);
  });
}

}  // namespace

const ArithmeticKernels arithmetic_ref = {affine_ref, multiply_ref, add_ref, combine_ref};

const char* formula_name(Formula formula) { return kFormulaNames[static_cast<int>(formula)]; }

Formula parse_formula(const std::string& name) {
  for (int i = 0; i < kFormulas; ++i)
    if (name == kFormulaNames[i]) return static_cast<Formula>(i);
  throw std::invalid_argument("unknown formula '" + name + "'");
}

const ArithmeticKernels& get_arithmetic(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/arithmetic/kernels.inc"
#undef FR_KERNEL
  return arithmetic_ref;
}

}  // namespace fr
