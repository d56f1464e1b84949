// Sums, products and quotients over a row of pixels.
//
//   affine    out = in * scale[channel] + shift[channel]    (one rounding where the instruction set has fma)
//   multiply  out = a * b
//   add       out = scale_a * a + scale_b * b
//   combine   out = a / b; minimum or maximum of a and b, NaN where one is; above: a > b ? 1 : 0
//
// Pixels of `channels` values lie the given pitches apart. out may be an input, of the same pitch and element. Sizes
// may be 0. Sums and products of bfloat16 are computed in float and rounded to nearest even.
#pragma once
#include <cstdint>
#include <string>

#include "base/bfloat16.h"
#include "base/isa.h"

namespace fr {

// One operand: pixels `pitch` apart. `single`: a pixel holds one value, which serves all channels.
struct Operand {
  const void* data = nullptr;
  int64_t pitch = 0;
  bool single = false;
  Element element = Element::f32;  // or bf16
};

struct Result {
  void* data = nullptr;
  int64_t pitch = 0;
  Element element = Element::f32;  // or bf16
};

enum class Formula : int32_t { divide, minimum, maximum, above };
constexpr int kFormulas = 4;

const char* formula_name(Formula formula);
Formula parse_formula(const std::string& name);  // throws std::invalid_argument for an unknown name

struct ArithmeticKernels {
  // Value c of a pixel takes scale[c % period] and shift[c % period]; period: a multiple of 16, or the channels. Of
  // floats.
  void (*affine)(const float* scale, const float* shift, int64_t period, const Operand& in, const Result& out,
                 int64_t channels, int64_t pixels);
  void (*multiply)(const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels);
  void (*add)(float scale_a, const Operand& a, float scale_b, const Operand& b, const Result& out, int64_t channels,
              int64_t pixels);  // neither operand single
  void (*combine)(Formula formula, const Operand& a, const Operand& b, const Result& out, int64_t channels,
                  int64_t pixels);  // of floats
};
#define FR_KERNEL(name, isa) extern const ArithmeticKernels name;
#include "kernels/arithmetic/kernels.inc"
#undef FR_KERNEL

const ArithmeticKernels& get_arithmetic(Isa allowed = host_isa());

}  // namespace fr
