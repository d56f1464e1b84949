// NAFNet's block in two kernels, split where it needs the mean of the whole picture:
//
//   front: g = gate(depthwise3x3(expand(norm(x)))), and sums of g       back: y = x + project(g * scale)
//                                                                              z = y + contract(gate(expand(norm(y))))
//
// The products are 1x1 convolutions on mma.sync tensor cores. Between them a tile's values stay in shared memory, as 16
// bits like the images they would otherwise be; a block goes through the weights in slices of some rows, the next of
// which is copied while one is used. A gate multiplies channel c by channel c + channels: a slice holds as many of
// each.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kBlock = kWarps * 32;

template <int kChannels>
struct Sizes {
  using Rows = Swizzle<kChannels / 8>;
  static constexpr int kSlice = kChannels > 256 ? 16 : 32;  // rows of weights
  static constexpr int kPairs = kSlice / 16;                // of eight channels, which a slice gates
  using Hidden = Swizzle<kSlice / 8>;
  static constexpr int kSliceBytes = kSlice * Rows::kRowBytes;
  static constexpr int kLanes = kChannels > 256 ? 32 : kChannels / 8;  // that share a pixel's norm
  static constexpr int kHeld = kChannels / 8 / kLanes;                 // eight channels of each

  static constexpr int kTileRows = 8, kTileColumns = kChannels > 256 ? 8 : 16;  // of the front
  static constexpr int kTilePixels = kTileRows * kTileColumns;                  // each a thread's
  static constexpr int kHaloColumns = kTileColumns + 2, kHaloPixels = (kTileRows + 2) * kHaloColumns;
  static constexpr int kFrontPixels = (kHaloPixels + 63) / 64 * 64;  // in whole fragments for each warp
  static constexpr int kFrontFragments = kFrontPixels / 16 / kWarps;
  static constexpr int kHiddenBytes = kFrontPixels * kSlice * 2, kTotalBytes = kWarps * kSlice * 2;
  static constexpr int kFrontBytes = kFrontPixels * Rows::kRowBytes + 2 * kSliceBytes + kHiddenBytes + kTotalBytes;
  static_assert(kTilePixels <= kBlock, "the tile fits the block");

  static constexpr int kBackPixels = kChannels > 128 ? 64 : 128;  // of a block of the back: a run, no rectangle
  static constexpr int kBackFragments = kBackPixels / 16 / kWarps;
  static constexpr int kImageBytes = kBackPixels * Rows::kRowBytes;
  static constexpr int kBackBytes = 3 * kImageBytes + 2 * kSliceBytes;
};

// The sums of a warp's rows with a slice: [fragment of 16 rows][8 of the slice's rows][as mma_16816 leaves them].
template <int kChannels, int kFragments>
using Sums = float[kFragments][Sizes<kChannels>::kSlice / 8][4];

template <class T, int kChannels, int kFragments>
__device__ __forceinline__ void multiply(Sums<kChannels, kFragments>& sums, uint32_t rows, uint32_t slice) {
  using Rows = typename Sizes<kChannels>::Rows;
  constexpr int kSlice = Sizes<kChannels>::kSlice;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kSlice / 8; ++n) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0.0f;
  const uint32_t a_lane = rows + Rows::offset(warp * kFragments * 16 + (lane & 15), lane >> 4);
  const uint32_t b_lane = slice + Rows::offset((lane & 7) + ((lane >> 4) << 3), lane >> 3 & 1);
#pragma unroll
  for (int k = 0; k < kChannels / 16; ++k) {
    uint32_t a[kFragments][4];
#pragma unroll
    for (int m = 0; m < kFragments; ++m)
      ldmatrix_x4(a[m], Rows::advance(a_lane, 2 * k) + static_cast<uint32_t>(m * 16 * Rows::kRowBytes));
#pragma unroll
    for (int n = 0; n < kSlice / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, Rows::advance(b_lane, 2 * k) + static_cast<uint32_t>(n * 16 * Rows::kRowBytes));
#pragma unroll
      for (int m = 0; m < kFragments; ++m) {
        mma_16816<T>(sums[m][2 * n], a[m], b[0], b[1]);
        mma_16816<T>(sums[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Copies a slice of packed weights [rows][kChannels]: the rows from `first` on; for a gate half of them from there and
// half from first + kChannels.
template <int kChannels>
__device__ __forceinline__ void load_slice(uint32_t to, const uint8_t* weight, int first, bool gate) {
  using Rows = typename Sizes<kChannels>::Rows;
  constexpr int kChunks = kChannels / 8, kSlice = Sizes<kChannels>::kSlice;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kSlice * kChunks; i += kBlock) {
    const int row = i / kChunks, chunk = i - row * kChunks;
    const int from = first + (gate && row >= kSlice / 2 ? row - kSlice / 2 + kChannels : row);
    cp_async16(to + Rows::offset(row, chunk), weight + (from * kChunks + chunk) * 16, true);
  }
}

// (v - mean) / sqrt(variance + epsilon) of a pixel whose channels lie with neighbouring lanes.
template <int kChannels>
__device__ __forceinline__ void normalise(Eight (&values)[Sizes<kChannels>::kHeld], float epsilon) {
  constexpr unsigned kLanes = Sizes<kChannels>::kLanes;
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (const Eight& value : values)
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += value.v[i];
#pragma unroll
  for (unsigned mask = 1; mask < kLanes; mask *= 2) sum += shuffle_xor(sum, mask);
  const float mean = sum / kChannels;
#pragma unroll
  for (const Eight& value : values)
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += (value.v[i] - mean) * (value.v[i] - mean);
#pragma unroll
  for (unsigned mask = 1; mask < kLanes; mask *= 2) squares += shuffle_xor(squares, mask);
  const float factor = rsqrt_fast(squares / kChannels + epsilon);
#pragma unroll
  for (Eight& value : values)
#pragma unroll
    for (int i = 0; i < 8; ++i) value.v[i] = (value.v[i] - mean) * factor;
}

template <class T>
__device__ __forceinline__ Eight unpack8(const uint4& raw) {
  const float2 a = unpack2<T>(raw.x), b = unpack2<T>(raw.y), c = unpack2<T>(raw.z), d = unpack2<T>(raw.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}

__device__ __forceinline__ float2 bias_at(const float* bias, int channel) {
  return bias ? float2{global_load(bias + channel), global_load(bias + channel + 1)} : float2{0.0f, 0.0f};
}

struct FrontParams {
  GatedFront block;
  ConstImages x;
  Images y;
  int height, width, tiles_x;
  float* sums;
};

// Eight values of each lane, summed over the warp: lane l leaves with the sum of value l / 4, lanes of four alike.
__device__ __forceinline__ float sum_eight(const Eight& value, int lane) {
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool high = lane & 16;
    four[i] = (high ? value.v[i + 4] : value.v[i]) + shuffle_xor(high ? value.v[i] : value.v[i + 4], 16);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool high = lane & 8;
    two[i] = (high ? four[i + 2] : four[i]) + shuffle_xor(high ? four[i] : four[i + 2], 8);
  }
  const bool high = lane & 4;
  float sum = (high ? two[1] : two[0]) + shuffle_xor(high ? two[0] : two[1], 4);
  sum += shuffle_xor(sum, 2);
  return sum + shuffle_xor(sum, 1);
}

template <class T, int kChannels>
__global__ void __launch_bounds__(kBlock) gated_front_kernel(const FrontParams p) {
  using S = Sizes<kChannels>;
  using Rows = typename S::Rows;
  using Hidden = typename S::Hidden;
  constexpr int kTileRows = S::kTileRows, kTileColumns = S::kTileColumns, kHaloColumns = S::kHaloColumns;
  constexpr int kFrontPixels = S::kFrontPixels, kFrontFragments = S::kFrontFragments;
  constexpr int kSlice = S::kSlice, kPairs = S::kPairs, kLanes = S::kLanes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int tile = static_cast<int>(blockIdx.x);
  const int top = tile / p.tiles_x * kTileRows, left = tile % p.tiles_x * kTileColumns;
  const uint32_t rows = shared_base(), slices = rows + kFrontPixels * Rows::kRowBytes;
  const uint32_t hidden = slices + 2 * S::kSliceBytes, totals = hidden + S::kHiddenBytes;
  const auto* const expand = static_cast<const uint8_t*>(p.block.expand);
  const auto* const depthwise = static_cast<const T*>(p.block.depthwise);
  // Pixel i of the halo; those beyond the last repeat none and count as outside.
  const auto inside = [&](int i) {
    const int y = top - 1 + i / kHaloColumns, x = left - 1 + i % kHaloColumns;
    return i < S::kHaloPixels && y >= 0 && x >= 0 && y < p.height && x < p.width;
  };

  load_slice<kChannels>(slices, expand, 0, true);
  cp_async_commit();
#pragma unroll 1
  for (int i = thread; i < kFrontPixels * kLanes; i += kBlock) {
    const int pixel = i / kLanes, chunk = i - pixel * kLanes;
    Eight values[S::kHeld] = {};
#pragma unroll
    for (int h = 0; h < S::kHeld; ++h)
      if (inside(pixel))
        values[h] = load8(pixel_at<T>(p.x, 0, top - 1 + pixel / kHaloColumns, left - 1 + pixel % kHaloColumns) +
                          (chunk + h * kLanes) * 8);
    normalise<kChannels>(values, p.block.epsilon);
#pragma unroll
    for (int h = 0; h < S::kHeld; ++h)
      shared_store(rows + Rows::offset(pixel, chunk + h * kLanes), pack8<T>(values[h]));
  }

#pragma unroll 1
  for (int first = 0; first < kChannels; first += kSlice / 2) {
    const uint32_t slice = slices + (first / (kSlice / 2) & 1) * S::kSliceBytes;
    cp_async_wait<0>();
    __syncthreads();  // the rows and the slice are there, and all are done with the slice and the values before
    if (first + kSlice / 2 < kChannels)
      load_slice<kChannels>(slices + S::kSliceBytes - (slice - slices), expand, first + kSlice / 2, true);
    cp_async_commit();
    Sums<kChannels, kFrontFragments> sums;
    multiply<T, kChannels, kFrontFragments>(sums, rows, slice);
#pragma unroll
    for (int n = 0; n < kSlice / 8; ++n) {
      const int channel = first + n % kPairs * 8 + (lane & 3) * 2 + n / kPairs * kChannels;
      const float2 bias = bias_at(p.block.expand_bias, channel);
#pragma unroll
      for (int m = 0; m < kFrontFragments; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int pixel = (warp * kFrontFragments + m) * 16 + (lane >> 2) + h * 8;
          const uint32_t pair =
              inside(pixel) ? pack2<T>(sums[m][n][2 * h] + bias.x, sums[m][n][2 * h + 1] + bias.y) : 0u;
          shared_store(hidden + Hidden::offset(pixel, n) + static_cast<uint32_t>((lane & 3) * 4), pair);
        }
    }
    __syncthreads();  // what the depthwise convolution reads is there

    const int place = thread % S::kTilePixels;  // threads beyond the tile's pixels do others' work for nothing
    const int y = top + place / kTileColumns, x = left + place % kTileColumns;
    const int corner = place / kTileColumns * kHaloColumns + place % kTileColumns;
    const bool mine = thread < S::kTilePixels && y < p.height && x < p.width;
    float total[kPairs];
#pragma unroll
    for (int q = 0; q < kPairs; ++q) {  // eight channels of the product
      Eight halves[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = first + q * 8 + half * kChannels;
        Eight& sum = halves[half];
#pragma unroll
        for (int i = 0; i < 8; ++i)
          sum.v[i] = p.block.depthwise_bias ? global_load(p.block.depthwise_bias + channel + i) : 0.0f;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
          const int pixel = corner + tap / 3 * kHaloColumns + tap % 3;
          const Eight value = unpack8<T>(shared_load<uint4>(hidden + Hidden::offset(pixel, half * kPairs + q)));
          const Eight weight = load8(depthwise + tap * 2 * kChannels + channel);
#pragma unroll
          for (int i = 0; i < 8; ++i) sum.v[i] += value.v[i] * weight.v[i];
        }
      }
      Eight product;
#pragma unroll
      for (int i = 0; i < 8; ++i) product.v[i] = mine ? halves[0].v[i] * halves[1].v[i] : 0.0f;
      if (mine) store8(pixel_at<T>(p.y, 0, y, x) + first + q * 8, product);
      total[q] = p.sums == nullptr ? 0.0f : sum_eight(product, lane);
    }
    if (p.sums == nullptr) continue;
#pragma unroll
    for (int q = 0; q < kPairs; ++q)
      if ((lane & 3) == 0)
        shared_store(totals + static_cast<uint32_t>((warp * kSlice / 2 + q * 8 + (lane >> 2)) * 4), total[q]);
    __syncthreads();  // the warps' totals are there
    if (thread < kSlice / 2) {
      float all = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        all += shared_load<float>(totals + static_cast<uint32_t>((w * kSlice / 2 + thread) * 4));
      global_store(p.sums + int64_t(tile) * kChannels + first + thread, all);
    }
  }
  cp_async_wait<0>();
}

struct BackParams {
  GatedBack block;
  ConstImages gated, scale, x;
  Images y;
  int width, pixels;
};

template <class T, int kChannels>
__global__ void __launch_bounds__(kBlock, 2) gated_back_kernel(const BackParams p) {
  using S = Sizes<kChannels>;
  using Rows = typename S::Rows;
  constexpr int kBackPixels = S::kBackPixels, kBackFragments = S::kBackFragments;
  constexpr int kChunks = kChannels / 8, kLanes = S::kLanes, kWarpRows = kBackPixels / kWarps;
  constexpr int kSlice = S::kSlice, kPairs = S::kPairs;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int first_pixel = static_cast<int>(blockIdx.x) * kBackPixels;
  // A warp's rows of all three are its own; the slices are everybody's.
  const uint32_t rows = shared_base(), image = rows + S::kImageBytes, gated = image + S::kImageBytes;
  const uint32_t slices = gated + S::kImageBytes;
  constexpr int kDense = kChannels / kSlice, kGated = 2 * kDense, kSlices = 2 * kDense + kGated;
  const auto load = [&](int s) {
    const uint32_t to = slices + (s & 1) * S::kSliceBytes;
    if (s < kDense)
      load_slice<kChannels>(to, static_cast<const uint8_t*>(p.block.project), s * kSlice, false);
    else if (s < kDense + kGated)
      load_slice<kChannels>(to, static_cast<const uint8_t*>(p.block.expand), (s - kDense) * (kSlice / 2), true);
    else if (s < kSlices)
      load_slice<kChannels>(to, static_cast<const uint8_t*>(p.block.contract), (s - kDense - kGated) * kSlice, false);
    cp_async_commit();
  };
  // Calls f(row, chunk) for each eight channels of the warp's pixels.
  const auto for_chunks = [&](auto f) {
#pragma unroll 1
    for (int i = lane; i < kWarpRows * kChunks; i += 32) f(warp * kWarpRows + i / kChunks, i % kChunks);
  };

  load(0);
  for_chunks([&](int row, int chunk) {
    const int pixel = first_pixel + row, y = pixel / p.width;
    Eight scaled{};
    uint4 residual{};
    if (pixel < p.pixels) {
      scaled = load8(pixel_at<T>(p.gated, 0, y, pixel - y * p.width) + chunk * 8);
      const T* const factors =
          p.block.one_scale ? static_cast<const T*>(p.scale.data) : pixel_at<T>(p.scale, 0, y, pixel - y * p.width);
      const Eight scale = load8(factors + chunk * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) scaled.v[i] *= scale.v[i];
      residual = global_load(reinterpret_cast<const uint4*>(pixel_at<T>(p.x, 0, y, pixel - y * p.width) + chunk * 8));
    }
    shared_store(rows + Rows::offset(row, chunk), pack8<T>(scaled));
    shared_store(image + Rows::offset(row, chunk), residual);
  });

  // The warp's product with slice s, given by pairs: f(row, chunk of the slice's 8 rows, the pair's offset, its
  // values).
  const auto product = [&](int s, uint32_t from, auto f) {
    cp_async_wait<0>();
    __syncthreads();  // the slice is there, and all are done with the one before
    load(s + 1);
    Sums<kChannels, kBackFragments> sums;
    multiply<T, kChannels, kBackFragments>(sums, from, slices + (s & 1) * S::kSliceBytes);
    f(sums);
  };
  const auto add_to_image = [&](int s, int first, uint32_t from, const float* bias) {
    product(s, from, [&](Sums<kChannels, kBackFragments>& sums) {
#pragma unroll
      for (int n = 0; n < kSlice / 8; ++n) {
        const float2 shift = bias_at(bias, first + n * 8 + (lane & 3) * 2);
#pragma unroll
        for (int m = 0; m < kBackFragments; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int row = warp * kWarpRows + m * 16 + (lane >> 2) + h * 8;
            const uint32_t at = image + Rows::offset(row, first / 8 + n) + static_cast<uint32_t>((lane & 3) * 4);
            const float2 before = unpack2<T>(shared_load<uint32_t>(at));
            shared_store(at,
                         pack2<T>(before.x + sums[m][n][2 * h] + shift.x, before.y + sums[m][n][2 * h + 1] + shift.y));
          }
      }
    });
  };

#pragma unroll 1
  for (int s = 0; s < kDense; ++s) add_to_image(s, s * kSlice, rows, p.block.project_bias);
  __syncwarp();  // the image is y, and nobody reads the rows any more
#pragma unroll 1
  for (int i = lane; i < kWarpRows * kLanes; i += 32) {
    const int row = warp * kWarpRows + i / kLanes, chunk = i % kLanes;
    Eight values[S::kHeld];
#pragma unroll
    for (int h = 0; h < S::kHeld; ++h)
      values[h] = unpack8<T>(shared_load<uint4>(image + Rows::offset(row, chunk + h * kLanes)));
    normalise<kChannels>(values, p.block.epsilon);
#pragma unroll
    for (int h = 0; h < S::kHeld; ++h) shared_store(rows + Rows::offset(row, chunk + h * kLanes), pack8<T>(values[h]));
  }
#pragma unroll 1
  for (int s = 0; s < kGated; ++s)
    product(kDense + s, rows, [&](Sums<kChannels, kBackFragments>& sums) {
#pragma unroll
      for (int n = 0; n < kPairs; ++n) {
        const int channel = s * (kSlice / 2) + n * 8 + (lane & 3) * 2;
        const float2 left = bias_at(p.block.expand_bias, channel);
        const float2 right = bias_at(p.block.expand_bias, channel + kChannels);
#pragma unroll
        for (int m = 0; m < kBackFragments; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int row = warp * kWarpRows + m * 16 + (lane >> 2) + h * 8;
            const float low = (sums[m][n][2 * h] + left.x) * (sums[m][n + kPairs][2 * h] + right.x);
            const float high = (sums[m][n][2 * h + 1] + left.y) * (sums[m][n + kPairs][2 * h + 1] + right.y);
            shared_store(gated + Rows::offset(row, s * kPairs + n) + static_cast<uint32_t>((lane & 3) * 4),
                         pack2<T>(low, high));
          }
      }
    });
#pragma unroll 1
  for (int s = 0; s < kDense; ++s) add_to_image(kDense + kGated + s, s * kSlice, gated, p.block.contract_bias);
  __syncwarp();
  for_chunks([&](int row, int chunk) {
    const int pixel = first_pixel + row, y = pixel / p.width;
    if (pixel >= p.pixels) return;
    global_store(reinterpret_cast<uint4*>(pixel_at<T>(p.y, 0, y, pixel - y * p.width) + chunk * 8),
                 shared_load<uint4>(image + Rows::offset(row, chunk)));
  });
  cp_async_wait<0>();
}

// Calls f with the channels as a constant.
template <class F>
void with_channels(int64_t channels, F f) {
  if (channels == 32) return f(std::integral_constant<int, 32>{});
  if (channels == 64) return f(std::integral_constant<int, 64>{});
  if (channels == 128) return f(std::integral_constant<int, 128>{});
  if (channels == 256) return f(std::integral_constant<int, 256>{});
  if (channels == 512) return f(std::integral_constant<int, 512>{});
  throw std::invalid_argument("gated block: 32, 64, 128, 256 or 512 channels");
}

}  // namespace

bool gated_block_supports(Type type, int64_t channels, const Device& device) {
  const bool known = channels == 32 || channels == 64 || channels == 128 || channels == 256 || channels == 512;
  if (type == Type::f32 || device.capability < 80 || !known) return false;
  int64_t bytes = 0;
  with_channels(channels, [&](auto c) { bytes = std::max(Sizes<c>::kFrontBytes, Sizes<c>::kBackBytes); });
  return bytes <= device.shared_limit;
}

int64_t gated_front_tiles(const Extent& in) {
  int64_t tiles = 0;
  with_channels(in.channels, [&](auto c) {
    tiles = ceil_div(in.height, Sizes<c>::kTileRows) * ceil_div(in.width, Sizes<c>::kTileColumns);
  });
  return tiles;
}

void gated_front(Type type, const GatedFront& block, const ConstImages& x, const Extent& in, const Images& y,
                 float* sums, Stream stream) {
  check_images(x, in, "gated_front: x");
  check_images(y, in, "gated_front: y");
  require(in.images == 1 && block.expand != nullptr && block.depthwise != nullptr,
          "gated_front: one image, and addresses that are not null");
  with_half_type(type, "gated_front", [&](auto t) {
    with_channels(in.channels, [&](auto c) {
      const FrontParams p{block,
                          x,
                          y,
                          static_cast<int>(in.height),
                          static_cast<int>(in.width),
                          static_cast<int>(ceil_div(in.width, Sizes<c>::kTileColumns)),
                          sums};
      launch(gated_front_kernel<decltype(t), c>, gated_front_tiles(in), kBlock, Sizes<c>::kFrontBytes, stream, p);
    });
  });
}

void gated_back(Type type, const GatedBack& block, const ConstImages& gated, const ConstImages& scale,
                const ConstImages& x, const Extent& out, const Images& y, Stream stream) {
  check_images(gated, out, "gated_back: gated");
  check_images(x, out, "gated_back: x");
  check_images(y, out, "gated_back: y");
  check_images(scale, block.one_scale ? Extent{1, 1, 1, out.channels} : out, "gated_back: scale");
  require(out.images == 1 && block.project != nullptr && block.expand != nullptr && block.contract != nullptr,
          "gated_back: one image, and addresses that are not null");
  const BackParams p{block, gated, scale, x, y, static_cast<int>(out.width), static_cast<int>(out.pixels())};
  with_half_type(type, "gated_back", [&](auto t) {
    with_channels(out.channels, [&](auto c) {
      launch(gated_back_kernel<decltype(t), c>, ceil_div(out.pixels(), Sizes<c>::kBackPixels), kBlock,
             Sizes<c>::kBackBytes, stream, p);
    });
  });
}

}  // namespace fr::cuda
