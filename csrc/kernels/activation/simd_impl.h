// The loops of every instruction set. A row's last values take the same path in a vector with idle lanes.
#include "kernels/activation/activation.h"
#include "simd/math.h"

namespace fr {
namespace FR_ISA {
namespace {

struct Row {
  const float* slope;
  int64_t period;
  const float* in;
  int64_t in_pitch;
  float* out;
  int64_t out_pitch, channels, pixels;
};

template <bool kSlopes, class F>
FR_INLINE void each(const Row& row, F function) {
  for (int64_t x = 0; x < row.pixels; ++x) {
    const float* in = row.in + x * row.in_pitch;
    float* out = row.out + x * row.out_pitch;
    int64_t c = 0, p = 0;
    for (; c + kWidth <= row.channels; c += kWidth) {
      store(out + c, function(load(in + c), kSlopes ? load(row.slope + p) : Vec{}));
      if (kSlopes && (p += kWidth) >= row.period) p = 0;
    }
    const int64_t rest = row.channels - c;
    if (rest > 0)
      store_partial(out + c, function(load_partial(in + c, rest), kSlopes ? load_partial(row.slope + p, rest) : Vec{}),
                    rest);
  }
}

FR_INLINE Vec hard_sigmoid(Vec v) { return at_most(at_least(v + broadcast(3.0f), 0.0f), 6.0f) / broadcast(6.0f); }

// x tanh(log(1 + e)) with e = exp(x) is x n / (n + 2) with n = e (e + 2); from 20 on it is x in float32.
FR_INLINE Vec mish(Vec v) {
  const Vec two = broadcast(2.0f), e = exp(at_most(v, 20.0f)), n = e * (e + two);
  return v > broadcast(20.0f) ? v : v * (n / (n + two));
}

FR_INLINE Vec softplus(Vec v, Vec beta, Vec threshold) {
  const Vec x = v * beta, rest = log1p_of_unit(exp(-abs(x)));
  const Vec soft = (at_least(x, 0.0f) + rest) / beta;
  return x > threshold ? v : soft;
}

void run(const CurveSpec& spec, const Row& row) {
  const Vec a = broadcast(spec.a), b = broadcast(spec.b), c = broadcast(spec.c);
  switch (spec.curve) {
    case Curve::relu:
      return each<false>(row, [](Vec v, Vec) { return relu(v); });
    case Curve::leaky_relu:
      return each<false>(row, [a](Vec v, Vec) { return leaky_relu(v, a); });
    case Curve::prelu:
      return each<true>(row, [](Vec v, Vec slope) { return leaky_relu(v, slope); });
    case Curve::clamp:
      return each<false>(row, [a, b](Vec v, Vec) {
        const Vec low = v < a ? a : v;
        return low > b ? b : low;
      });
    case Curve::elu:
      return each<false>(row, [a, b, c](Vec v, Vec) {
        const Vec low = a * expm1_of_negative(at_most(v * c, 0.0f));
        return v > Vec{} ? v * b : low;
      });
    case Curve::abs:
      return each<false>(row, [](Vec v, Vec) { return abs(v); });
    case Curve::sigmoid:
      return each<false>(row, [](Vec v, Vec) { return sigmoid(v); });
    case Curve::tanh:
      return each<false>(row, [](Vec v, Vec) { return tanh(v); });
    case Curve::silu:
      return each<false>(row, [](Vec v, Vec) { return v / (broadcast(1.0f) + exp(-v)); });
    case Curve::mish:
      return each<false>(row, [](Vec v, Vec) { return mish(v); });
    case Curve::gelu:
      return each<false>(row, [](Vec v, Vec) { return gelu(v); });
    case Curve::gelu_tanh:  // (1 + tanh(u)) / 2 is sigmoid(2 u)
      return each<false>(row, [](Vec v, Vec) {
        const Vec u = v * fma(v * v, broadcast(2.0f * 0.0356774081f), broadcast(2.0f * 0.797884561f));
        return v * sigmoid(u);
      });
    case Curve::hard_sigmoid:
      return each<false>(row, [](Vec v, Vec) { return hard_sigmoid(v); });
    case Curve::hard_swish:
      return each<false>(row, [](Vec v, Vec) { return v * hard_sigmoid(v); });
    case Curve::softplus:
      return each<false>(row, [a, b](Vec v, Vec) { return softplus(v, a, b); });
    case Curve::exp:
      return each<false>(row, [](Vec v, Vec) { return exp(v); });
    case Curve::log:
      return each<false>(row, [](Vec v, Vec) { return log(v); });
    case Curve::log1p:
      return each<false>(row, [](Vec v, Vec) { return log1p(v); });
    case Curve::sqrt:
      return each<false>(row, [](Vec v, Vec) { return sqrt(v); });
    case Curve::reciprocal:
      return each<false>(row, [](Vec v, Vec) { return broadcast(1.0f) / v; });
    case Curve::above:
      return each<false>(row, [a](Vec v, Vec) { return v > a ? broadcast(1.0f) : Vec{}; });
  }
}

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
