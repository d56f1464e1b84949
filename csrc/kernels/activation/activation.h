// A function of each value by itself, over a row of pixels.
//
//   relu          max(x, 0)                          leaky_relu   x < 0 ? a x : x
//   prelu         x < 0 ? slope[channel] x : x       clamp        min(max(x, a), b)
//   elu           x > 0 ? b x : a (exp(c x) - 1)     abs          |x|
//   sigmoid       1 / (1 + exp(-x))                  tanh         tanh(x)
//   silu          x sigmoid(x)                       mish         x tanh(log(1 + exp(x)))
//   gelu          x (1 + erf(x / sqrt 2)) / 2        gelu_tanh    x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
//   hard_sigmoid  min(max(x + 3, 0), 6) / 6          hard_swish   x hard_sigmoid(x)
//   softplus      a x > b ? x : log(1 + exp(a x)) / a
//   exp           exp(x)                             log          log(x), NaN below 0
//   log1p         log(1 + x), NaN below -1           sqrt         the root of x, NaN below 0
//   reciprocal    1 / x                              above        x > a ? 1 : 0, which is 0 for NaN
//
// NaN otherwise stays NaN; an infinity gives what the formula gives, which is NaN for -inf times 0 (silu, gelu, ...).
#pragma once
#include <cstdint>
#include <string>

#include "base/isa.h"

namespace fr {

enum class Curve : int32_t {
  relu,
  leaky_relu,
  prelu,
  clamp,
  elu,
  abs,
  sigmoid,
  tanh,
  silu,
  mish,
  gelu,
  gelu_tanh,
  hard_sigmoid,
  hard_swish,
  softplus,
  exp,
  log,
  log1p,
  sqrt,
  reciprocal,
  above
};
constexpr int kCurves = 21;

const char* curve_name(Curve curve);
Curve parse_curve(const std::string& name);  // throws std::invalid_argument for an unknown name

struct CurveSpec {
  Curve curve = Curve::relu;
  float a = 0.0f, b = 0.0f, c = 0.0f;
};

// `pixels` pixels of `channels` values, in_pitch and out_pitch apart; in may be out. Value c of a pixel takes
// slope[c % period] (prelu only; else null); period is a multiple of 16, or of the channels. Sizes may be 0.
using ActivationFn = void(const CurveSpec& spec, const float* slope, int64_t period, const float* in, int64_t in_pitch,
                          float* out, int64_t out_pitch, int64_t channels, int64_t pixels);
#define FR_KERNEL(name, isa) ActivationFn name;
#include "kernels/activation/kernels.inc"
#undef FR_KERNEL

ActivationFn* get_activation(Isa allowed = host_isa());

}  // namespace fr
