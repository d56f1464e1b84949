// What is computed value by value: sums, products, quotients, curves, copies of channels. A thread takes eight channels
// of a pixel. Each operand has its own type: what networks divide, compare and take roots of stays float32.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

// Eight channels of what stands for a pixel: at once where they lie at a multiple of eight, else one by one, `valid` of
// them.
template <class T>
__device__ __forceinline__ Eight values_at(const PixelOperand& operand, const int (&at)[3], int64_t channel,
                                           int valid) {
  const T* const pixel = operand.first + (operand.one_pixel ? pixel_at<T>(operand.x, at[0], 0, 0)
                                                            : pixel_at<T>(operand.x, at[0], at[1], at[2]));
  if (!operand.one_channel && operand.first % 8 == 0) return load8(pixel + channel);
  Eight eight;
  const float one = operand.one_channel ? to_float(global_load(pixel)) : 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    eight.v[i] = operand.one_channel ? one : i < valid ? to_float(global_load(pixel + channel + i)) : 0.0f;
  return eight;
}

__device__ __forceinline__ Eight operand_at(const PixelOperand& operand, const int (&at)[3], int64_t channel,
                                            int valid) {
  if (operand.type == Type::f16) return values_at<__half>(operand, at, channel, valid);
  if (operand.type == Type::bf16) return values_at<__nv_bfloat16>(operand, at, channel, valid);
  return values_at<float>(operand, at, channel, valid);
}

template <class F>
__device__ __forceinline__ Eight each(const Eight& x, F f) {
  Eight y;
#pragma unroll
  for (int i = 0; i < 8; ++i) y.v[i] = f(x.v[i]);
  return y;
}

template <class F>
__device__ __forceinline__ Eight each(const Eight& a, const Eight& b, F f) {
  Eight y;
#pragma unroll
  for (int i = 0; i < 8; ++i) y.v[i] = f(a.v[i], b.v[i]);
  return y;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ __forceinline__ float hard_sigmoid(float x) {
  return x != x ? x : fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) / 6.0f;
}

__device__ __forceinline__ Eight curve(const CurveSpec& spec, const Eight& slope, const Eight& v) {
  switch (spec.curve) {
    case Curve::relu:
      return each(v, [](float x) { return x < 0.0f ? 0.0f : x; });
    case Curve::leaky_relu:
      return each(v, [&](float x) { return x < 0.0f ? spec.a * x : x; });
    case Curve::prelu:
      return each(v, slope, [](float x, float s) { return x < 0.0f ? s * x : x; });
    case Curve::clamp:
      return each(v, [&](float x) { return x < spec.a ? spec.a : x > spec.b ? spec.b : x; });
    case Curve::elu:
      return each(v, [&](float x) { return x > 0.0f ? spec.b * x : spec.a * expm1f(spec.c * x); });
    case Curve::abs:
      return each(v, [](float x) { return fabsf(x); });
    case Curve::sigmoid:
      return each(v, [](float x) { return sigmoid(x); });
    case Curve::tanh:
      return each(v, [](float x) { return tanhf(x); });
    case Curve::silu:
      return each(v, [](float x) { return x * sigmoid(x); });
    case Curve::mish:
      return each(v, [](float x) { return x * tanhf(softplus(x)); });
    case Curve::gelu:
      return each(v, [](float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); });
    case Curve::gelu_tanh:
      return each(v, [](float x) { return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); });
    case Curve::hard_sigmoid:
      return each(v, [](float x) { return hard_sigmoid(x); });
    case Curve::hard_swish:
      return each(v, [](float x) { return x * hard_sigmoid(x); });
    case Curve::softplus:
      return each(v, [&](float x) { return spec.a * x > spec.b ? x : log1pf(expf(spec.a * x)) / spec.a; });
    case Curve::exp:
      return each(v, [](float x) { return expf(x); });
    case Curve::log:
      return each(v, [](float x) { return logf(x); });
    case Curve::log1p:
      return each(v, [](float x) { return log1pf(x); });
    case Curve::sqrt:
      return each(v, [](float x) { return sqrtf(x); });
    case Curve::reciprocal:
      return each(v, [](float x) { return 1.0f / x; });
    case Curve::above:
      return each(v, [&](float x) { return x > spec.a ? 1.0f : 0.0f; });
  }
  return v;
}

__device__ __forceinline__ Eight combine(Formula formula, const Eight& a, const Eight& b) {
  switch (formula) {
    case Formula::divide:
      return each(a, b, [](float x, float y) { return x / y; });
    case Formula::minimum:  // a NaN is neither less nor more
      return each(a, b, [](float x, float y) { return x < y || x != x ? x : y; });
    case Formula::maximum:
      return each(a, b, [](float x, float y) { return x > y || x != x ? x : y; });
    case Formula::above:
      return each(a, b, [](float x, float y) { return x > y ? 1.0f : 0.0f; });
  }
  return a;
}

constexpr bool takes_b(PixelOperation::Kind kind) {
  return kind == PixelOperation::add || kind == PixelOperation::multiply || kind == PixelOperation::gate ||
         kind == PixelOperation::combine;
}

struct Params {
  PixelOperation operation;
  PixelOperand a, b;
  Images y;
  Extent out;
};

template <class T>
__global__ void __launch_bounds__(kThreads) pointwise_kernel(const Params p) {
  const PixelOperation& operation = p.operation;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (p.out.channels + 7) / 8, pixel = index / chunks, channel = (index - pixel * chunks) * 8;
  if (pixel >= p.out.pixels()) return;
  const auto row = static_cast<unsigned>(pixel) / static_cast<unsigned>(p.out.width);
  const auto n = row / static_cast<unsigned>(p.out.height);
  const int at[3] = {static_cast<int>(n), static_cast<int>(row - n * p.out.height),
                     static_cast<int>(pixel - row * p.out.width)};
  const int valid = static_cast<int>(p.out.channels - channel < 8 ? p.out.channels - channel : 8);
  const auto table = [&](const float* from) {
    Eight eight;
#pragma unroll
    for (int i = 0; i < 8; ++i) eight.v[i] = from != nullptr && i < valid ? global_load(from + channel + i) : 0.0f;
    return eight;
  };

  Eight a{}, b{}, v{};
  if (operation.kind != PixelOperation::fill) a = operand_at(p.a, at, channel, valid);
  if (takes_b(operation.kind)) b = operand_at(p.b, at, channel, valid);
  switch (operation.kind) {
    case PixelOperation::fill:
      v = each(a, [&](float) { return operation.scale_a; });
      break;
    case PixelOperation::copy:
      v = a;
      break;
    case PixelOperation::add:
      v = each(a, b, [&](float x, float y) { return operation.scale_a * x + operation.scale_b * y; });
      break;
    case PixelOperation::multiply:
      v = each(a, b, [](float x, float y) { return x * y; });
      break;
    case PixelOperation::combine:
      v = combine(operation.formula, a, b);
      break;
    case PixelOperation::affine: {
      const Eight scale = table(operation.table), shift = table(operation.table + p.out.channels);
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] = a.v[i] * scale.v[i] + shift.v[i];
      break;
    }
    case PixelOperation::gate:
    case PixelOperation::activate:
      v = curve(operation.curve, table(operation.table), a);
      if (operation.kind == PixelOperation::gate) v = each(v, b, [](float x, float y) { return x * y; });
      break;
  }

  T* const to = pixel_at<T>(p.y, at[0], at[1], at[2]) + operation.first + channel;
  if (operation.kind == PixelOperation::copy && (operation.first % 8 != 0 || (valid < 8 && !operation.ends))) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < valid) global_store(to + i, from_float<T>(v.v[i]));
    if (operation.ends && channel + valid == p.out.channels)
      for (int i = valid; (operation.first + channel + i) % 8 != 0; ++i) global_store(to + i, from_float<T>(0.0f));
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i >= valid) v.v[i] = 0.0f;
  store8(to, v);
}

}  // namespace

void pointwise(Type type, const PixelOperation& operation, const PixelOperand& a, const PixelOperand& b,
               const Images& y, const Extent& out, Stream stream) {
  check_extent(out, "pointwise");
  require(operation.kind == PixelOperation::fill || a.x.data != nullptr, "pointwise: the first operand is null");
  require(!takes_b(operation.kind) || b.x.data != nullptr, "pointwise: the second operand is null");
  require(operation.kind != PixelOperation::affine || operation.table != nullptr, "pointwise: the table is null");
  with_type(type, [&](auto t) {
    launch(pointwise_kernel<decltype(t)>, blocks_for(out.pixels() * ceil_div(out.channels, 8), kThreads), kThreads, 0,
           stream, Params{operation, a, b, y, out});
  });
}

}  // namespace fr::cuda
