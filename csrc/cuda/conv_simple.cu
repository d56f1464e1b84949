// Convolutions without tensor cores: depthwise, which is bound by memory, and float32, which is the reference quality.
// A thread computes eight channels of one output pixel.
#include "cuda/common.cuh"
#include "cuda/conv_paths.h"

namespace fr::cuda {
namespace {

struct Params {
  ConstImages x, residual;
  Images y;
  const void* weight;
  const float* bias;
  Extent in, out;
  int kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  bool transposed;
  Edge edge;
  Epilogue epilogue;
  bool has_residual;
};

// The input pixel that tap k sees from output `o`, or -1.
__device__ __forceinline__ int source(const Params& p, int o, int k, int stride, int padding, int dilation, int size) {
  if (!p.transposed) return edge_pixel(p.edge, o * stride - padding + k * dilation, size);
  const int scaled = o + padding - k * dilation;
  return scaled >= 0 && scaled % stride == 0 && scaled / stride < size ? scaled / stride : -1;
}

template <class T>
__device__ __forceinline__ void finish(const Params& p, const int (&at)[3], int channel, Eight& sum) {
  Eight residual{};
  if (p.has_residual) residual = load8(pixel_at<T>(p.residual, at[0], at[1], at[2]) + channel);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    sum.v[i] = channel + i < p.out.channels ? p.epilogue.finish(sum.v[i], residual.v[i]) : 0.0f;
  store8(pixel_at<T>(p.y, at[0], at[1], at[2]) + channel, sum);
}

__device__ __forceinline__ void load_bias(const Params& p, int channel, Eight& sum) {
#pragma unroll
  for (int i = 0; i < 8; ++i)
    sum.v[i] = p.bias && channel + i < p.out.channels ? global_load(p.bias + channel + i) : 0.0f;
}

// Whether the thread has work; where: image, row, column and the first of its channels.
__device__ __forceinline__ bool place(const Params& p, int (&at)[3], int& channel) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (p.out.channels + 7) / 8, pixel = index / chunks;
  if (pixel >= p.out.pixels()) return false;
  channel = static_cast<int>(index - pixel * chunks) * 8;
  const int64_t row = pixel / p.out.width;
  at[0] = static_cast<int>(row / p.out.height);
  at[1] = static_cast<int>(row % p.out.height);
  at[2] = static_cast<int>(pixel - row * p.out.width);
  return true;
}

template <class T>
__global__ void __launch_bounds__(kThreads) depthwise_kernel(const Params p) {
  int at[3], channel;
  if (!place(p, at, channel)) return;
  const int64_t padded = (p.out.channels + 7) / 8 * 8;
  Eight sum;
  load_bias(p, channel, sum);
#pragma unroll 1
  for (int j = 0; j < p.kernel_h; ++j) {
    const int y = source(p, at[1], j, p.stride_h, p.pad_top, p.dilation_h, static_cast<int>(p.in.height));
    if (y < 0) continue;
#pragma unroll 3
    for (int i = 0; i < p.kernel_w; ++i) {
      const int x = source(p, at[2], i, p.stride_w, p.pad_left, p.dilation_w, static_cast<int>(p.in.width));
      if (x < 0) continue;
      const Eight value = load8(pixel_at<T>(p.x, at[0], y, x) + channel);
      const Eight weight = load8(static_cast<const T*>(p.weight) + (j * p.kernel_w + i) * padded + channel);
#pragma unroll
      for (int c = 0; c < 8; ++c) sum.v[c] += value.v[c] * weight.v[c];
    }
  }
  finish<T>(p, at, channel, sum);
}

__global__ void __launch_bounds__(kThreads) plain_kernel(const Params p) {
  int at[3], channel;
  if (!place(p, at, channel)) return;
  const int64_t in_padded = (p.in.channels + 15) / 16 * 16, out_padded = (p.out.channels + 15) / 16 * 16;
  Eight sum;
  load_bias(p, channel, sum);
#pragma unroll 1
  for (int j = 0; j < p.kernel_h; ++j) {
    const int y = source(p, at[1], j, p.stride_h, p.pad_top, p.dilation_h, static_cast<int>(p.in.height));
    if (y < 0) continue;
#pragma unroll 1
    for (int i = 0; i < p.kernel_w; ++i) {
      const int x = source(p, at[2], i, p.stride_w, p.pad_left, p.dilation_w, static_cast<int>(p.in.width));
      if (x < 0) continue;
      const float* const from = pixel_at<float>(p.x, at[0], y, x);
      const float* const weights =
          static_cast<const float*>(p.weight) + ((j * p.kernel_w + i) * out_padded + channel) * in_padded;
#pragma unroll 1
      for (int k = 0; k < p.in.channels; k += 8) {
        const Eight value = load8(from + k);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          const Eight weight = load8(weights + c * in_padded + k);
#pragma unroll
          for (int e = 0; e < 8; ++e) sum.v[c] += value.v[e] * weight.v[e];
        }
      }
    }
  }
  finish<float>(p, at, channel, sum);
}

Params make_params(const Convolution& conv) {
  const ConvSpec& s = conv.spec;
  return {conv.x,
          conv.residual,
          conv.y,
          conv.weight,
          conv.bias,
          conv.in,
          conv.out,
          int(s.kernel_h),
          int(s.kernel_w),
          int(s.stride_h),
          int(s.stride_w),
          int(s.pad_top),
          int(s.pad_left),
          int(s.dilation_h),
          int(s.dilation_w),
          conv.transposed,
          conv.edge,
          make_epilogue(s),
          s.residual != Residual::none};
}

int64_t blocks_of(const Convolution& conv) {
  return blocks_for(conv.out.pixels() * ceil_div(conv.out.channels, 8), kThreads);
}

}  // namespace

void conv_depthwise(const Convolution& conv, Stream stream) {
  with_type(conv.type, [&](auto t) {
    launch(depthwise_kernel<decltype(t)>, blocks_of(conv), kThreads, 0, stream, make_params(conv));
  });
}

void conv_plain(const Convolution& conv, Stream stream) {
  launch(plain_kernel, blocks_of(conv), kThreads, 0, stream, make_params(conv));
}

}  // namespace fr::cuda
