// Depth to space and back. A thread writes eight channels of one pixel.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

struct Params {
  ConstImages x;
  Images y;
  Extent out;
  int64_t r;
};

// The value of channel c of output pixel (y, x): from a packed image, or from the image that is to be packed.
template <class T, bool kPack>
__device__ __forceinline__ T value_at(const Params& p, int64_t n, int64_t y, int64_t x, int64_t c) {
  const int64_t r = p.r;
  if (kPack) return global_load(pixel_at<T>(p.x, n, y * r + c / r % r, x * r + c % r) + c / (r * r));
  return global_load(pixel_at<T>(p.x, n, y / r, x / r) + (c * r + y % r) * r + x % r);
}

template <class T, bool kPack>
__global__ void __launch_bounds__(kThreads) shuffle_kernel(const Params p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (p.out.channels + 7) / 8, pixel = index / chunks, first = (index - pixel * chunks) * 8;
  if (pixel >= p.out.pixels()) return;
  const int64_t row = pixel / p.out.width, x = pixel - row * p.out.width;
  const int64_t n = row / p.out.height, y = row - n * p.out.height;
  Eight eight;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    eight.v[i] = first + i < p.out.channels ? to_float(value_at<T, kPack>(p, n, y, x, first + i)) : 0.0f;
  store8(pixel_at<T>(p.y, n, y, x) + first, eight);
}

template <bool kPack>
void run(Type type, const ConstImages& x, const Extent& in, const Extent& out, int64_t r, const Images& y,
         Stream stream) {
  check_images(x, in, "pixel_shuffle: x");
  check_images(y, out, "pixel_shuffle: y");
  with_type(type, [&](auto t) {
    launch(shuffle_kernel<decltype(t), kPack>, blocks_for(out.pixels() * ceil_div(out.channels, 8), kThreads), kThreads,
           0, stream, Params{x, y, out, r});
  });
}

}  // namespace

void pixel_shuffle(Type type, const ConstImages& x, const Extent& in, int64_t r, const Images& y, Stream stream) {
  require(r >= 1 && in.channels % (r * r) == 0, "pixel_shuffle: channels must be a multiple of the factor's square");
  run<false>(type, x, in, {in.images, in.height * r, in.width * r, in.channels / (r * r)}, r, y, stream);
}

void pixel_unshuffle(Type type, const ConstImages& x, const Extent& in, int64_t r, const Images& y, Stream stream) {
  require(r >= 1 && in.height % r == 0 && in.width % r == 0, "pixel_unshuffle: sides must be multiples of the factor");
  run<true>(type, x, in, {in.images, in.height / r, in.width / r, in.channels * r * r}, r, y, stream);
}

}  // namespace fr::cuda
