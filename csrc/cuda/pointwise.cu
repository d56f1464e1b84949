// What is computed value by value: sums, products, curves, copies of channels. A thread takes one value.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

// Channels from `first` on of an operand that has them all, or one for all; or one pixel for all.
template <class T>
__device__ __forceinline__ float operand_at(const PixelOperand& operand, const int64_t (&at)[3], int64_t channel) {
  const T* const pixel =
      operand.one_pixel ? pixel_at<T>(operand.x, at[0], 0, 0) : pixel_at<T>(operand.x, at[0], at[1], at[2]);
  return to_float(global_load(pixel + operand.first + (operand.one_channel ? 0 : channel)));
}

__device__ __forceinline__ float curve(const CurveSpec& spec, float slope, float x) {
  const auto sigmoid = [](float v) { return 1.0f / (1.0f + expf(-v)); };
  const auto hard = [](float v) { return fminf(fmaxf(v + 3.0f, 0.0f), 6.0f) / 6.0f; };
  const auto softplus = [](float v) { return v > 20.0f ? v : log1pf(expf(v)); };
  switch (spec.curve) {
    case Curve::relu:
      return x < 0.0f ? 0.0f : x;
    case Curve::leaky_relu:
      return x < 0.0f ? spec.a * x : x;
    case Curve::prelu:
      return x < 0.0f ? slope * x : x;
    case Curve::clamp:
      return x < spec.a ? spec.a : x > spec.b ? spec.b : x;
    case Curve::elu:
      return x > 0.0f ? spec.b * x : spec.a * expm1f(spec.c * x);
    case Curve::abs:
      return fabsf(x);
    case Curve::sigmoid:
      return sigmoid(x);
    case Curve::tanh:
      return tanhf(x);
    case Curve::silu:
      return x * sigmoid(x);
    case Curve::mish:
      return x * tanhf(softplus(x));
    case Curve::gelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Curve::gelu_tanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Curve::hard_sigmoid:
      return x != x ? x : hard(x);
    case Curve::hard_swish:
      return x * (x != x ? x : hard(x));
    case Curve::softplus:
      return spec.a * x > spec.b ? x : log1pf(expf(spec.a * x)) / spec.a;
  }
  return x;
}

struct Params {
  PixelOperation operation;
  PixelOperand a, b;
  Images y;
  Extent out;
  int64_t written;  // channels of a pixel: the padding too, unless a copy leaves what is beside it
};

template <class T>
__global__ void __launch_bounds__(kThreads) pointwise_kernel(const Params p) {
  const PixelOperation& operation = p.operation;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t pixel = index / p.written, channel = index - pixel * p.written;
  if (pixel >= p.out.pixels()) return;
  const int64_t row = pixel / p.out.width, n = row / p.out.height;
  const int64_t at[3] = {n, row - n * p.out.height, pixel - row * p.out.width};
  float v = 0.0f;
  if (channel < p.out.channels) switch (operation.kind) {
      case PixelOperation::fill:
        v = operation.scale_a;
        break;
      case PixelOperation::copy:
        v = operand_at<T>(p.a, at, channel);
        break;
      case PixelOperation::add:
        v = operation.scale_a * operand_at<T>(p.a, at, channel) + operation.scale_b * operand_at<T>(p.b, at, channel);
        break;
      case PixelOperation::multiply:
        v = operand_at<T>(p.a, at, channel) * operand_at<T>(p.b, at, channel);
        break;
      case PixelOperation::gate:
        v = curve(operation.curve, 0.0f, operand_at<T>(p.a, at, channel)) * operand_at<T>(p.b, at, channel);
        break;
      case PixelOperation::affine:
        v = operand_at<T>(p.a, at, channel) * global_load(operation.table + channel) +
            global_load(operation.table + p.out.channels + channel);
        break;
      case PixelOperation::activate:
        v = curve(operation.curve, operation.table ? global_load(operation.table + channel) : 0.0f,
                  operand_at<T>(p.a, at, channel));
        break;
    }
  global_store(pixel_at<T>(p.y, at[0], at[1], at[2]) + operation.first + channel, from_float<T>(v));
}

}  // namespace

void pointwise(Type type, const PixelOperation& operation, const PixelOperand& a, const PixelOperand& b,
               const Images& y, const Extent& out, Stream stream) {
  check_extent(out, "pointwise");
  const bool takes_b = operation.kind == PixelOperation::add || operation.kind == PixelOperation::multiply ||
                       operation.kind == PixelOperation::gate;
  require(operation.kind == PixelOperation::fill || a.x.data != nullptr, "pointwise: the first operand is null");
  require(!takes_b || b.x.data != nullptr, "pointwise: the second operand is null");
  const int64_t written = operation.kind == PixelOperation::copy ? out.channels : round_up(out.channels, 8);
  with_type(type, [&](auto t) {
    launch(pointwise_kernel<decltype(t)>, blocks_for(out.pixels() * written, kThreads), kThreads, 0, stream,
           Params{operation, a, b, y, out, written});
  });
}

}  // namespace fr::cuda
