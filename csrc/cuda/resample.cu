// Pooling over windows and over channels, resizing by a whole factor, and warping by a flow. A thread computes eight
// channels of one output pixel.
#include "cuda/common.cuh"
#include "kernels/warp/warp.h"

namespace fr::cuda {
namespace {

template <class T, class F>
__device__ __forceinline__ void for_chunk(const Extent& out, const Images& y, F f) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (out.channels + 7) / 8, pixel = index / chunks, channel = (index - pixel * chunks) * 8;
  if (pixel >= out.pixels()) return;
  const int64_t row = pixel / out.width, n = row / out.height;
  const int64_t line = row - n * out.height, column = pixel - row * out.width;
  Eight result = f(static_cast<int>(n), static_cast<int>(line), static_cast<int>(column), channel);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (channel + i >= out.channels) result.v[i] = 0.0f;
  store8(pixel_at<T>(y, n, line, column) + channel, result);
}

struct PoolParams {
  PoolWindow window;
  ConstImages x;
  Extent in, out;
  Images y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) pool_kernel(const PoolParams p) {
  for_chunk<T>(p.out, p.y, [&](int n, int row, int column, int64_t channel) {
    const bool greatest = p.window.kind == Pool::max;
    Eight result;
    for (int i = 0; i < 8; ++i) result.v[i] = greatest ? -INFINITY : 0.0f;
    int64_t inside = 0;
    for (int64_t j = 0; j < p.window.kernel_h; ++j) {
      const int64_t y = row * p.window.stride - p.window.pad_top + j * p.window.dilation_h;
      if (y < 0 || y >= p.in.height) continue;
      for (int64_t i = 0; i < p.window.kernel_w; ++i) {
        const int64_t x = column * p.window.stride - p.window.pad_left + i * p.window.dilation_w;
        if (x < 0 || x >= p.in.width) continue;
        ++inside;
        const Eight value = load8(pixel_at<T>(p.x, n, y, x) + channel);
#pragma unroll
        for (int c = 0; c < 8; ++c) {
          float& held = result.v[c];
          if (!greatest)
            held += value.v[c];
          else if (value.v[c] > held || value.v[c] != value.v[c])
            held = held != held ? held : value.v[c];
        }
      }
    }
    if (!greatest) {
      const float divisor = static_cast<float>(p.window.divisor != 0 ? p.window.divisor : inside);
      for (int c = 0; c < 8; ++c) result.v[c] /= divisor;
    }
    return result;
  });
}

struct ChannelPoolParams {
  Pool kind;
  ConstImages x;
  int64_t channels;
  Extent out;
  Images y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) channel_pool_kernel(const ChannelPoolParams p) {
  for_chunk<T>(p.out, p.y, [&](int n, int row, int column, int64_t) {
    const T* const pixel = pixel_at<T>(p.x, n, row, column);
    const bool greatest = p.kind == Pool::max;
    Eight parts = load8(pixel);
    const auto take = [&](float& held, float value) {
      if (!greatest)
        held += value;
      else if (value > held || value != value)
        held = held != held ? held : value;
    };
    for (int64_t channel = 8; channel < p.channels; channel += 8) {
      const Eight value = load8(pixel + channel);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (channel + i < p.channels) take(parts.v[i], value.v[i]);
    }
    Eight result{};
    result.v[0] = parts.v[0];
#pragma unroll
    for (int i = 1; i < 8; ++i)
      if (i < p.channels) take(result.v[0], parts.v[i]);
    if (!greatest) result.v[0] /= static_cast<float>(p.channels);
    return result;
  });
}

struct ResizeParams {
  int factor;
  bool enlarge;
  ConstImages x;
  Extent in, out;
  Images y;
  ResizeTaps taps[kMaxResize];
};

template <class T>
__global__ void __launch_bounds__(kThreads) resize_kernel(const ResizeParams p) {
  for_chunk<T>(p.out, p.y, [&](int n, int row, int column, int64_t channel) {
    const auto taps_of = [&](int o) -> const ResizeTaps& { return p.taps[p.enlarge ? o % p.factor : 0]; };
    const auto start = [&](int o, const ResizeTaps& taps) {
      return static_cast<int>((p.enlarge ? o / p.factor : o * p.factor) + taps.first);
    };
    const ResizeTaps& down = taps_of(row);
    const ResizeTaps& across = taps_of(column);
    Eight result{};
    for (int64_t j = 0; j < down.count; ++j) {
      const int y = edge_pixel(Edge::clamp, start(row, down) + static_cast<int>(j), static_cast<int>(p.in.height));
      Eight line{};
      for (int64_t i = 0; i < across.count; ++i) {
        const int x =
            edge_pixel(Edge::clamp, start(column, across) + static_cast<int>(i), static_cast<int>(p.in.width));
        const Eight value = load8(pixel_at<T>(p.x, n, y, x) + channel);
        for (int c = 0; c < 8; ++c) line.v[c] += across.weight[i] * value.v[c];
      }
      for (int c = 0; c < 8; ++c) result.v[c] += down.weight[j] * line.v[c];
    }
    return result;
  });
}

struct WarpParams {
  ConstImages x, flow;
  Extent in;
  Images y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) warp_kernel(const WarpParams p) {
  for_chunk<T>(p.in, p.y, [&](int n, int row, int column, int64_t channel) {
    const T* const flow = pixel_at<T>(p.flow, n, row, column);
    const WarpTap across = warp_tap(static_cast<float>(column) + to_float(global_load(flow)), p.in.width);
    const WarpTap down = warp_tap(static_cast<float>(row) + to_float(global_load(flow + 1)), p.in.height);
    const Eight corners[4] = {load8(pixel_at<T>(p.x, n, down.first, across.first) + channel),
                              load8(pixel_at<T>(p.x, n, down.first, across.second) + channel),
                              load8(pixel_at<T>(p.x, n, down.second, across.first) + channel),
                              load8(pixel_at<T>(p.x, n, down.second, across.second) + channel)};
    Eight result;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float above = corners[0].v[i] + across.share * (corners[1].v[i] - corners[0].v[i]);
      const float below = corners[2].v[i] + across.share * (corners[3].v[i] - corners[2].v[i]);
      result.v[i] = above + down.share * (below - above);
    }
    return result;
  });
}

}  // namespace

void warp(Type type, const ConstImages& x, const Extent& in, const ConstImages& flow, const Images& y, Stream stream) {
  Extent two = in;
  two.channels = 2;
  check_images(x, in, "warp: x");
  check_images(flow, two, "warp: flow");
  check_images(y, in, "warp: y");
  with_type(type, [&](auto t) {
    launch(warp_kernel<decltype(t)>, blocks_for(in.pixels() * ceil_div(in.channels, 8), kThreads), kThreads, 0, stream,
           WarpParams{x, flow, in, y});
  });
}

void pool(Type type, const PoolWindow& window, const ConstImages& x, const Extent& in, const Images& y,
          const Extent& out, Stream stream) {
  check_images(x, in, "pool: x");
  check_images(y, out, "pool: y");
  require(window.kernel_h >= 1 && window.kernel_w >= 1 && window.stride >= 1, "pool: the window is empty");
  with_type(type, [&](auto t) {
    launch(pool_kernel<decltype(t)>, blocks_for(out.pixels() * ceil_div(out.channels, 8), kThreads), kThreads, 0,
           stream, PoolParams{window, x, in, out, y});
  });
}

void channel_pool(Type type, Pool kind, const ConstImages& x, const Extent& in, const Images& y, Stream stream) {
  const Extent out{in.images, in.height, in.width, 1};
  check_images(x, in, "channel_pool: x");
  check_images(y, out, "channel_pool: y");
  with_type(type, [&](auto t) {
    launch(channel_pool_kernel<decltype(t)>, blocks_for(out.pixels(), kThreads), kThreads, 0, stream,
           ChannelPoolParams{kind, x, in.channels, out, y});
  });
}

void resize(Type type, Resize mode, bool enlarge, int64_t factor, const ConstImages& x, const Extent& in,
            const Images& y, Stream stream) {
  require(factor >= 1 && factor <= kMaxResize, "resize: the factor is out of range");
  ResizeParams p{};
  p.factor = static_cast<int>(factor);
  p.enlarge = enlarge;
  p.x = x;
  p.in = in;
  p.y = y;
  p.out = in;
  p.out.height = enlarge ? in.height * factor : in.height / factor;
  p.out.width = enlarge ? in.width * factor : in.width / factor;
  check_images(x, in, "resize: x");
  check_images(y, p.out, "resize: y");
  for (int64_t phase = 0; phase < (enlarge ? factor : 1); ++phase)
    p.taps[phase] = resize_taps(mode, enlarge, factor, phase);
  with_type(type, [&](auto t) {
    launch(resize_kernel<decltype(t)>, blocks_for(p.out.pixels() * ceil_div(p.out.channels, 8), kThreads), kThreads, 0,
           stream, p);
  });
}

}  // namespace fr::cuda
