// Norms and gates over a pixel's channels. A warp takes one pixel: its values stay in registers between the passes.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int kMostChunks = 8;  // of eight channels for each lane: 2048 channels

__device__ __forceinline__ float sum_of_warp(float v) {
#pragma unroll
  for (unsigned mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}

struct Params {
  LayerNorm norm;
  ConstImages x;
  Images y;
  Extent extent;
};

template <class T>
__global__ void __launch_bounds__(kThreads) layer_norm_kernel(const Params p) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t pixel = int64_t(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  if (pixel >= p.extent.pixels()) return;  // the whole warp
  const int64_t row = pixel / p.extent.width, x = pixel - row * p.extent.width;
  const int64_t n = row / p.extent.height, y = row - n * p.extent.height;
  const int channels = static_cast<int>(p.extent.channels), chunks = (channels + 7) / 8;
  const T* const from = pixel_at<T>(p.x, n, y, x);

  Eight held[kMostChunks];
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kMostChunks; ++k) {
    const int chunk = lane + 32 * k;
    if (chunk >= chunks) continue;
    held[k] = load8(from + chunk * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (chunk * 8 + i < channels) sum += held[k].v[i];
  }
  const float mean = sum_of_warp(sum) / static_cast<float>(channels);
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kMostChunks; ++k)
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if ((lane + 32 * k) * 8 + i < channels) squares += (held[k].v[i] - mean) * (held[k].v[i] - mean);
  const float variance = sum_of_warp(squares) / static_cast<float>(channels);
  const float factor = rsqrt_fast(variance + p.norm.epsilon), offset = p.norm.subtract_mean ? mean : 0.0f;
#pragma unroll
  for (int k = 0; k < kMostChunks; ++k) {
    const int chunk = lane + 32 * k;
    if (chunk >= chunks) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int c = chunk * 8 + i;
      float v = 0.0f;
      if (c < channels) {
        v = (held[k].v[i] - offset) * factor * global_load(p.norm.scale + c);
        if (p.norm.shift) v += global_load(p.norm.shift + c);
      }
      held[k].v[i] = v;
    }
    store8(pixel_at<T>(p.y, n, y, x) + chunk * 8, held[k]);
  }
}

struct GateParams {
  ConstImages x;
  Images y;
  Extent out;
};

template <class T, bool kGelu>
__global__ void __launch_bounds__(kThreads) gate_kernel(const GateParams p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (p.out.channels + 7) / 8, pixel = index / chunks, first = (index - pixel * chunks) * 8;
  if (pixel >= p.out.pixels()) return;
  const int64_t row = pixel / p.out.width, x = pixel - row * p.out.width;
  const int64_t n = row / p.out.height, y = row - n * p.out.height;
  const T* const from = pixel_at<T>(p.x, n, y, x);
  Eight product;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    product.v[i] = 0.0f;
    if (first + i >= p.out.channels) continue;
    float v = to_float(global_load(from + first + i));
    if (kGelu) v = 0.5f * v * (1.0f + erff(v * 0.70710678f));
    product.v[i] = v * to_float(global_load(from + p.out.channels + first + i));
  }
  store8(pixel_at<T>(p.y, n, y, x) + first, product);
}

}  // namespace

void layer_norm(Type type, const LayerNorm& norm, const ConstImages& x, const Extent& in, const Images& y,
                Stream stream) {
  check_images(x, in, "layer_norm: x");
  check_images(y, in, "layer_norm: y");
  require(in.channels <= kMostChunks * 32 * 8, "layer_norm: at most 2048 channels");
  require(norm.scale != nullptr, "layer_norm: scale is null");
  with_type(type, [&](auto t) {
    launch(layer_norm_kernel<decltype(t)>, blocks_for(in.pixels(), kWarps), kThreads, 0, stream,
           Params{norm, x, y, in});
  });
}

void gate(Type type, bool gelu, const ConstImages& x, const Extent& out, const Images& y, Stream stream) {
  Extent in = out;
  in.channels = 2 * out.channels;
  check_images(x, in, "gate: x");
  check_images(y, out, "gate: y");
  const int64_t blocks = blocks_for(out.pixels() * ceil_div(out.channels, 8), kThreads);
  with_type(type, [&](auto t) {
    using T = decltype(t);
    launch(gelu ? gate_kernel<T, true> : gate_kernel<T, false>, blocks, kThreads, 0, stream, GateParams{x, y, out});
  });
}

}  // namespace fr::cuda
