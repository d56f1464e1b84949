#include "kernels/activation/activation.h"

#include <cmath>
#include <stdexcept>

namespace fr {
namespace {

constexpr const char* kNames[kCurves] = {"relu",         "leaky_relu", "prelu",    "clamp", "elu",  "abs",
                                         "sigmoid",      "tanh",       "silu",     "mish",  "gelu", "gelu_tanh",
                                         "hard_sigmoid", "hard_swish", "softplus", "exp",   "log",  "log1p",
                                         "sqrt",         "reciprocal", "above"};

double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

double curve_ref(const CurveSpec& s, double slope, double x) {
  switch (s.curve) {
    case Curve::relu:
      return x < 0 ? 0 : x;
    case Curve::leaky_relu:
      return x < 0 ? s.a * x : x;
    case Curve::prelu:
      return x < 0 ? slope * x : x;
    case Curve::clamp:
      return clamp(x, s.a, s.b);
    case Curve::elu:
      return x > 0 ? s.b * x : s.a * std::expm1(s.c * x);
    case Curve::abs:
      return std::fabs(x);
    case Curve::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Curve::tanh:
      return std::tanh(x);
    case Curve::silu:
      return x / (1 + std::exp(-x));
    case Curve::mish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Curve::gelu:
      return x * (0.5 * (1 + std::erf(x * std::sqrt(0.5))));
    case Curve::gelu_tanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));  // (1 + tanh(u)) / 2
    case Curve::hard_sigmoid:
      return clamp(x + 3, 0, 6) / 6;
    case Curve::hard_swish:
      return x * (clamp(x + 3, 0, 6) / 6);
    case Curve::softplus:
      return s.a * x > s.b ? x : std::log1p(std::exp(s.a * x)) / s.a;
    case Curve::exp:
      return std::exp(x);
    case Curve::log:
      return std::log(x);
    case Curve::log1p:
      return std::log1p(x);
    case Curve::sqrt:
      return std::sqrt(x);
    case Curve::reciprocal:
      return 1 / x;
    case Curve::above:
      return x > s.a ? 1 : 0;
  }
  return x;
}

}  // namespace

const char* curve_name(Curve curve) { return kNames[static_cast<int>(curve)]; }

Curve parse_curve(const std::string& name) {
  for (int i = 0; i < kCurves; ++i)
    if (name == kNames[i]) return static_cast<Curve>(i);
  throw std::invalid_argument("unknown activation '" + name + "'");
}

void activation_ref(const CurveSpec& spec, const float* slope, int64_t period, const float* in, int64_t in_pitch,
                    float* out, int64_t out_pitch, int64_t channels, int64_t pixels) {
  for (int64_t x = 0; x < pixels; ++x)
    for (int64_t c = 0; c < channels; ++c)
      out[x * out_pitch + c] =
          static_cast<float>(curve_ref(spec, slope != nullptr ? slope[c % period] : 0.0f, in[x * in_pitch + c]));
}

ActivationFn* get_activation(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/activation/kernels.inc"
#undef FR_KERNEL
  return activation_ref;
}

}  // namespace fr
