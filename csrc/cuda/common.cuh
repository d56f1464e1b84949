// What the kernels of this folder share: launching, eight channels at a time, edges, epilogues, swizzles.
#pragma once
#include <algorithm>
#include <string>

#include "cuda/checks.h"
#include "cuda/device.cuh"

namespace fr::cuda {

constexpr int kThreads = 128;  // of a block, where a kernel has no reason for another number

#ifdef FR_EMULATE
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes, Stream stream, Args... args) {
  if (blocks <= 0) return;
  emulator::Driver::get().enqueue(stream, "launch", blocks, [=] {
    Machine::get().launch(static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
                          static_cast<size_t>(shared_bytes), [=] { kernel(args...); });
  });
}
#else
void check(cudaError_t status, const char* what);  // throws NoDevice or CudaError

// blocks may be 0: nothing is launched.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), int64_t blocks, int threads, int64_t shared_bytes, Stream stream, Args... args) {
  if (blocks <= 0) return;
  constexpr int64_t kAlwaysAllowed = 48 << 10;
  if (shared_bytes > kAlwaysAllowed)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  // clang-format off
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes),
           static_cast<cudaStream_t>(stream)>>>(args...);
  // clang-format on
  check(cudaGetLastError(), "kernel launch");
}
#endif

// Calls f with a value of the C++ type that stands for `type`.
template <class F>
void with_type(Type type, F f) {
  if (type == Type::f16) return f(__half{});
  if (type == Type::bf16) return f(__nv_bfloat16{});
  f(0.0f);
}
template <class F>
void with_half_type(Type type, const char* what, F f) {  // for kernels on tensor cores
  if (type == Type::f16) return f(__half{});
  if (type == Type::bf16) return f(__nv_bfloat16{});
  throw std::invalid_argument(std::string(what) + ": float16 or bfloat16 only");
}

// Eight channels of a pixel as floats.
struct Eight {
  float v[8];
};

template <class T>
__device__ __forceinline__ Eight load8(const T* address) {
  const uint4 raw = global_load(reinterpret_cast<const uint4*>(address));
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
  Eight eight;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack2<T>(pairs[i]);
    eight.v[2 * i] = pair.x;
    eight.v[2 * i + 1] = pair.y;
  }
  return eight;
}
template <>
__device__ __forceinline__ Eight load8<float>(const float* address) {
  const float4 low = global_load(reinterpret_cast<const float4*>(address));
  const float4 high = global_load(reinterpret_cast<const float4*>(address) + 1);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <class T>
__device__ __forceinline__ uint4 pack8(const Eight& eight) {
  return {pack2<T>(eight.v[0], eight.v[1]), pack2<T>(eight.v[2], eight.v[3]), pack2<T>(eight.v[4], eight.v[5]),
          pack2<T>(eight.v[6], eight.v[7])};
}
template <class T>
__device__ __forceinline__ void store8(T* address, const Eight& eight) {
  global_store(reinterpret_cast<uint4*>(address), pack8<T>(eight));
}
template <>
__device__ __forceinline__ void store8<float>(float* address, const Eight& eight) {
  global_store(reinterpret_cast<float4*>(address), float4{eight.v[0], eight.v[1], eight.v[2], eight.v[3]});
  global_store(reinterpret_cast<float4*>(address) + 1, float4{eight.v[4], eight.v[5], eight.v[6], eight.v[7]});
}

// Address of a pixel's first channel.
template <class T>
__device__ __forceinline__ const T* pixel_at(const ConstImages& images, int64_t n, int64_t y, int64_t x) {
  return static_cast<const T*>(images.data) + n * images.image_pitch + y * images.row_pitch + x * images.pixel_pitch;
}
template <class T>
__device__ __forceinline__ T* pixel_at(const Images& images, int64_t n, int64_t y, int64_t x) {
  return static_cast<T*>(images.data) + n * images.image_pitch + y * images.row_pitch + x * images.pixel_pitch;
}

// Which pixel of [0, size) stands in for coordinate i, size >= 1; -1: none, it counts as zero.
__device__ __forceinline__ int edge_pixel(Edge edge, int i, int size) {
  if (static_cast<unsigned>(i) < static_cast<unsigned>(size)) return i;
  if (edge == Edge::zero) return -1;
  if (edge == Edge::clamp || size == 1) return i < 0 ? 0 : size - 1;
  const int period = 2 * (size - 1);
  const int phase = (i % period + period) % period;
  return phase < size ? phase : period - phase;
}

// The end of every convolution, for one value.
struct Epilogue {
  float slope, scale;  // slope: of negative values; 1 is the identity, 0 relu
  bool residual_first, gelu;

  __device__ __forceinline__ float activate(float v) const {
    if (gelu) return v * fmaf(0.5f, erff(v * 0.707106781f), 0.5f) * scale;
    const float low = slope == 0.0f ? 0.0f : slope * v;
    return (v < 0.0f ? low : v) * scale;
  }
  __device__ __forceinline__ float finish(float v, float residual) const {
    return residual_first ? activate(v + residual) : activate(v) + residual;
  }
};

inline Epilogue make_epilogue(const ConvSpec& spec) {
  const float slope = spec.activation == Activation::none   ? 1.0f
                      : spec.activation == Activation::relu ? 0.0f
                                                            : spec.slope;
  return {slope, spec.scale, spec.residual == Residual::before_activation, spec.activation == Activation::gelu};
}

// Eight staged values of a pixel with the residual at `from`; channels from `valid` on become 0.
template <class T>
__device__ __forceinline__ uint4 add_residual(const Epilogue& epilogue, const uint4& staged, const T* from, int valid) {
  const Eight residual = load8(from);
  const uint32_t pairs[4] = {staged.x, staged.y, staged.z, staged.w};
  Eight sum;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 pair = unpack2<T>(pairs[i / 2]);
    const float v = (i & 1 ? pair.y : pair.x) + residual.v[i];
    sum.v[i] = i >= valid ? 0.0f : epilogue.residual_first ? epilogue.activate(v) : v;
  }
  return pack8<T>(sum);
}

// Shared memory as rows of 16-byte chunks, of which ldmatrix reads the same chunk in eight consecutive rows: chunk c of
// row r lies at c ^ flip(r), so that these eight never meet in a bank.
template <int kChunks>
struct Swizzle {
  static constexpr int kBits = kChunks % 8 == 0 ? 3 : kChunks % 4 == 0 ? 2 : kChunks % 2 == 0 ? 1 : 0;
  static constexpr int kMask = (1 << kBits) - 1;
  static constexpr int kRowBytes = kChunks * 16;

  __device__ __forceinline__ static uint32_t offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ (row >> (3 - kBits) & kMask)) << 4));
  }
  // offset(row, chunk + step) from offset(row, chunk) for an even step and chunk < 2.
  __device__ __forceinline__ static uint32_t advance(uint32_t address, int step) {
    return (address ^ static_cast<uint32_t>((step & kMask) << 4)) + static_cast<uint32_t>((step & ~kMask) << 4);
  }
};

}  // namespace fr::cuda
