// Between pictures and tiles: the way in with its padding and conversion, the way out, and the blending of tiles that
// overlap. A thread takes one pixel.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

__device__ __forceinline__ float load_pixel(Pixel type, const void* row, int64_t i) {
  switch (type) {
    case Pixel::u8:
      return static_cast<float>(global_load(static_cast<const uint8_t*>(row) + i)) / 255.0f;
    case Pixel::u16:
      return static_cast<float>(global_load(static_cast<const uint16_t*>(row) + i)) / 65535.0f;
    case Pixel::f16:
      return to_float(global_load(static_cast<const __half*>(row) + i));
    default:
      return global_load(static_cast<const float*>(row) + i);
  }
}

// To an integer of [0, top], half to even; NaN becomes 0.
__device__ __forceinline__ float quantised(float v, float top) {
  v = v * top;
  return v > 0.0f ? rintf(v < top ? v : top) : 0.0f;
}

__device__ __forceinline__ void store_pixel(Pixel type, void* row, int64_t i, float v, bool clip) {
  if (clip && v < 0.0f) v = 0.0f;
  if (clip && v > 1.0f) v = 1.0f;
  switch (type) {
    case Pixel::u8:
      return global_store(static_cast<uint8_t*>(row) + i, static_cast<uint8_t>(quantised(v, 255.0f)));
    case Pixel::u16:
      return global_store(static_cast<uint16_t*>(row) + i, static_cast<uint16_t>(quantised(v, 65535.0f)));
    case Pixel::f16:
      return global_store(static_cast<__half*>(row) + i, from_float<__half>(v));
    default:
      return global_store(static_cast<float*>(row) + i, v);
  }
}

struct GatherParams {
  PictureRows picture;
  const uint8_t* pixels;
  int64_t top, left;
  Edge edge;
  Extent out;
  Images y;
};

template <class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(const GatherParams p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= p.out.height * p.out.width) return;
  const int64_t y = index / p.out.width, x = index - y * p.out.width;
  const int from_y = edge_pixel(p.edge, static_cast<int>(p.top + y), static_cast<int>(p.picture.height));
  const int from_x = edge_pixel(p.edge, static_cast<int>(p.left + x), static_cast<int>(p.picture.width));
  const bool inside = from_y >= 0 && from_x >= 0;
  const uint8_t* const row = p.pixels + (inside ? from_y - p.picture.top : 0) * p.picture.row_bytes;
  T* const to = pixel_at<T>(p.y, 0, y, x);
  for (int64_t first = 0; first < p.out.channels; first += 8) {
    Eight eight;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t channel = first + i, held = p.picture.channels == 1 ? 0 : channel;
      eight.v[i] = inside && channel < p.out.channels
                       ? load_pixel(p.picture.type, row, (from_x - p.picture.left) * p.picture.channels + held)
                       : 0.0f;
    }
    store8(to + first, eight);
  }
}

// The weight of pixel i of `size` along one axis.
__device__ __forceinline__ float ramp_weight(int64_t i, int64_t size, int64_t before, int64_t after) {
  float weight = 1.0f;
  if (i < before) weight = 0.5f - 0.5f * cos_pi((static_cast<float>(i) + 0.5f) / static_cast<float>(before));
  const int64_t left = size - 1 - i;
  if (left < after) weight *= 0.5f - 0.5f * cos_pi((static_cast<float>(left) + 0.5f) / static_cast<float>(after));
  return weight;
}

struct BlendParams {
  ConstImages x;
  Extent in;
  TileWeight weight;
  float* sums;
  int64_t width, top, left;
};

template <class T>
__global__ void __launch_bounds__(kThreads) blend_kernel(const BlendParams p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= p.in.height * p.in.width) return;
  const int64_t y = index / p.in.width, x = index - y * p.in.width;
  const float weight = ramp_weight(y, p.in.height, p.weight.ramp_top, p.weight.ramp_bottom) *
                       ramp_weight(x, p.in.width, p.weight.ramp_left, p.weight.ramp_right);
  const T* const from = pixel_at<T>(p.x, 0, y, x);
  float* const to = p.sums + ((p.top + y) * p.width + p.left + x) * p.in.channels;
  for (int64_t c = 0; c < p.in.channels; ++c)
    global_store(to + c, global_load(to + c) + weight * to_float(global_load(from + c)));
}

struct StoreParams {
  ConstImages x;
  Extent in;
  PictureRows picture;
  const uint8_t* image;
  PictureRows result;
  uint8_t* out;
  int64_t top, left;
  float strength;
  bool clip;
  unsigned long long* non_finite;
};

template <class T>
__global__ void __launch_bounds__(kThreads) store_kernel(const StoreParams p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= p.in.height * p.in.width) return;
  const int64_t y = index / p.in.width, x = index - y * p.in.width;
  const T* const from = pixel_at<T>(p.x, 0, y, x);
  const uint8_t* const image = p.image + (p.top + y - p.picture.top) * p.picture.row_bytes;
  uint8_t* const out = p.out + (p.top + y - p.result.top) * p.result.row_bytes;
  const bool grey = p.picture.channels == 1;
  float grey_sum = 0.0f;
  int64_t non_finite = 0;
  for (int64_t c = 0; c < p.in.channels; ++c) {
    float v = to_float(global_load(from + c));
    if (!(fabsf(v) <= 3.4028235e38f)) ++non_finite;
    if (grey) {
      grey_sum += v;
      if (c + 1 < p.in.channels) continue;
      v = grey_sum / static_cast<float>(p.in.channels);
    }
    const int64_t channel = grey ? 0 : c, column = p.left + x;
    if (p.strength != 1.0f) {
      const float original =
          load_pixel(p.picture.type, image, (column - p.picture.left) * p.picture.channels + channel);
      v = original + p.strength * (v - original);
    }
    store_pixel(p.picture.type, out, (column - p.result.left) * p.picture.channels + channel, v, p.clip);
  }
  if (non_finite > 0) global_add(p.non_finite, static_cast<unsigned long long>(non_finite));
}

void check_picture(const PictureRows& picture, int64_t channels, const char* what) {
  const bool fits = picture.height >= 1 && picture.width >= 1 && picture.height < (1 << 24) &&
                    picture.width < (1 << 24) && (picture.channels == channels || picture.channels == 1) &&
                    picture.top >= 0 && picture.left >= 0 && picture.left < picture.width &&
                    picture.row_bytes >= checked_product(picture.channels, pixel_bytes(picture.type));
  if (!fits) throw std::invalid_argument(std::string(what) + ": the picture does not fit");
}

}  // namespace

void gather_tile(const PictureRows& picture, const void* pixels, int64_t top, int64_t left, Edge edge, Type type,
                 const Extent& out, const Images& y, Stream stream) {
  check_images(y, out, "gather_tile: y");
  check_picture(picture, out.channels, "gather_tile");
  require(pixels != nullptr && out.images == 1, "gather_tile: one tile of a picture that is not null");
  require(std::abs(top) < (1 << 24) && std::abs(left) < (1 << 24), "gather_tile: the tile lies too far away");
  with_type(type, [&](auto t) {
    launch(gather_kernel<decltype(t)>, blocks_for(out.height * out.width, kThreads), kThreads, 0, stream,
           GatherParams{picture, static_cast<const uint8_t*>(pixels), top, left, edge, out, y});
  });
}

void blend_tile(Type type, const ConstImages& x, const Extent& in, const TileWeight& weight, float* sums, int64_t width,
                int64_t top, int64_t left, Stream stream) {
  check_images(x, in, "blend_tile: x");
  require(sums != nullptr && in.images == 1, "blend_tile: one tile, and sums that are not null");
  require(top >= 0 && left >= 0 && left + in.width <= width, "blend_tile: the tile lies outside of the image");
  with_type(type, [&](auto t) {
    launch(blend_kernel<decltype(t)>, blocks_for(in.height * in.width, kThreads), kThreads, 0, stream,
           BlendParams{x, in, weight, sums, width, top, left});
  });
}

void store_tile(Type type, const ConstImages& x, const Extent& in, const PictureRows& picture, const void* image,
                const PictureRows& result, void* out, int64_t top, int64_t left, float strength, bool clip,
                unsigned long long* non_finite, Stream stream) {
  check_images(x, in, "store_tile: x");
  check_picture(picture, in.channels, "store_tile");
  check_picture(result, in.channels, "store_tile");
  require(image != nullptr && out != nullptr && non_finite != nullptr && in.images == 1, "store_tile: a null address");
  require(top >= 0 && left >= 0 && top + in.height <= picture.height && left + in.width <= picture.width,
          "store_tile: the tile lies outside of the picture");
  with_type(type, [&](auto t) {
    launch(store_kernel<decltype(t)>, blocks_for(in.height * in.width, kThreads), kThreads, 0, stream,
           StoreParams{x, in, picture, static_cast<const uint8_t*>(image), result, static_cast<uint8_t*>(out), top,
                       left, strength, clip, non_finite});
  });
}

}  // namespace fr::cuda
