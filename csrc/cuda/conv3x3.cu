// 3x3 convolution, stride 1, padding 1, on mma.sync tensor cores (sm_80 and later).
//
// A tile of the image with its halo is copied to shared memory once and read nine times as shifted views, so the reads
// from L2 are (rows + 2) * 18 / (rows * 16) of the input instead of the nine times of an implicit product; the weights
// of a part of the output channels stay in shared memory for the life of a block, which works through many tiles.
#include "cuda/common.cuh"
#include "cuda/conv_paths.h"

namespace fr::cuda {
namespace {

constexpr int kColumns = 16;  // of a tile: the rows of one m16 fragment
constexpr int kWarps = 4;

// kIn: input channels held; kPart: output channels of a block; kFragments: tile rows of one warp.
template <int kIn, int kPart, int kFragments>
struct Config {
  static constexpr int kRows = kWarps * kFragments;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kHaloColumns = kColumns + 2, kHaloPixels = (kRows + 2) * kHaloColumns;
  using In = Swizzle<kIn / 8>;
  using Out = Swizzle<kPart / 8>;
  static constexpr int kWeightBytes = 9 * kPart * In::kRowBytes;
  static constexpr int kTileBytes = kHaloPixels * In::kRowBytes;
  // The results are set aside where the tile was, if it is as large.
  static constexpr int kStageBytes = kRows * kColumns * Out::kRowBytes;
  static constexpr int kSharedBytes = kWeightBytes + (kTileBytes > kStageBytes ? kTileBytes : kStageBytes);
};

struct Params {
  ConstImages x, residual;
  Images y;
  const uint8_t* weight;
  const float* bias;
  int height, width, tiles_x, tiles_y, tiles;
  int in_chunks, weight_chunks;  // 16-byte chunks of a pixel's channels, and of a packed row of weights
  int out_channels, out_padded, parts;
  Edge edge;
  Epilogue epilogue;
  bool has_residual;
};

struct Tile {
  int image, top, left;
};

template <class C>
__device__ __forceinline__ Tile tile_at(const Params& p, int tile) {
  const int per_image = p.tiles_x * p.tiles_y, image = tile / per_image, rest = tile - image * per_image;
  const int row = rest / p.tiles_x;
  return {image, row * C::kRows, (rest - row * p.tiles_x) * kColumns};
}

template <class T, class C>
__device__ __forceinline__ void load_tile(uint32_t to, const Params& p, const Tile& tile) {
  constexpr int kChunks = C::In::kRowBytes / 16;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < C::kHaloPixels * kChunks; i += C::kThreads) {
    const int pixel = i / kChunks, chunk = i - pixel * kChunks;
    const int row = pixel / C::kHaloColumns;
    const int y = edge_pixel(p.edge, tile.top - 1 + row, p.height);
    const int x = edge_pixel(p.edge, tile.left - 1 + pixel - row * C::kHaloColumns, p.width);
    const bool valid = y >= 0 && x >= 0 && chunk < p.in_chunks;
    const T* const from = valid ? pixel_at<T>(p.x, tile.image, y, x) + chunk * 8 : static_cast<const T*>(p.x.data);
    cp_async16(to + C::In::offset(pixel, chunk), from, valid);
  }
}

template <class T, class C, int kIn, int kPart, int kFragments>
__global__ void __launch_bounds__(C::kThreads) conv3x3_kernel(const Params p) {
  using In = typename C::In;
  using Out = typename C::Out;
  const uint32_t weights = shared_base(), held = weights + C::kWeightBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int first_channel = static_cast<int>(blockIdx.x) % p.parts * kPart;
  const int step = static_cast<int>(gridDim.x) / p.parts;

  constexpr int kChunks = In::kRowBytes / 16;
#pragma unroll 1
  for (int i = thread; i < 9 * kPart * kChunks; i += C::kThreads) {
    const int row = i / kChunks, chunk = i - row * kChunks, tap = row / kPart;
    const bool valid = chunk < p.weight_chunks;
    const int64_t from = (int64_t(tap) * p.out_padded + first_channel + row - tap * kPart) * p.weight_chunks + chunk;
    cp_async16(weights + In::offset(row, chunk), p.weight + (valid ? from * 16 : 0), valid);
  }
  int index = static_cast<int>(blockIdx.x) / p.parts;
  if (index < p.tiles) load_tile<T, C>(held, p, tile_at<C>(p, index));
  cp_async_commit();

  // Where this lane's row of ldmatrix begins. a: pixel lane % 16, half of k lane / 16. b: output channel
  // lane % 8 + 8 * (lane / 16), half of k lane / 8 % 2.
  const int a_column = lane & 15, a_half = lane >> 4;
  const int b_row = (lane & 7) + ((lane >> 4) << 3);
  const uint32_t b_lane = weights + In::offset(b_row, lane >> 3 & 1);

  for (; index < p.tiles; index += step) {
    const Tile tile = tile_at<C>(p, index);
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all

    float sums[kFragments][kPart / 8][4];
#pragma unroll
    for (int n = 0; n < kPart / 8; ++n) {
      const int channel = first_channel + n * 8 + (lane & 3) * 2;
      const float low = p.bias && channel < p.out_channels ? global_load(p.bias + channel) : 0.0f;
      const float high = p.bias && channel + 1 < p.out_channels ? global_load(p.bias + channel + 1) : 0.0f;
#pragma unroll
      for (int m = 0; m < kFragments; ++m) {
        sums[m][n][0] = sums[m][n][2] = low;
        sums[m][n][1] = sums[m][n][3] = high;
      }
    }

#pragma unroll 1
    for (int tap = 0; tap < 9; ++tap) {
      const int dy = tap / 3, dx = tap - dy * 3;
      uint32_t a_lane[kFragments];
#pragma unroll
      for (int m = 0; m < kFragments; ++m)
        a_lane[m] = held + In::offset((warp * kFragments + m + dy) * C::kHaloColumns + a_column + dx, a_half);
      const uint32_t b_tap = b_lane + static_cast<uint32_t>(tap * kPart * In::kRowBytes);
#pragma unroll
      for (int k = 0; k < kIn / 16; ++k) {
        uint32_t a[kFragments][4];
#pragma unroll
        for (int m = 0; m < kFragments; ++m) ldmatrix_x4(a[m], In::advance(a_lane[m], 2 * k));
#pragma unroll
        for (int n = 0; n < kPart / 16; ++n) {
          uint32_t b[4];
          ldmatrix_x4(b, In::advance(b_tap, 2 * k) + static_cast<uint32_t>(n * 16 * In::kRowBytes));
#pragma unroll
          for (int m = 0; m < kFragments; ++m) {
            mma_16816<T>(sums[m][2 * n], a[m], b[0], b[1]);
            mma_16816<T>(sums[m][2 * n + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
    __syncthreads();  // all have read the tile: its place takes the results

    const bool activate_now = !(p.has_residual && p.epilogue.residual_first);
    const uint32_t stage = held + static_cast<uint32_t>(warp * kFragments * kColumns * Out::kRowBytes);
#pragma unroll
    for (int m = 0; m < kFragments; ++m)
#pragma unroll
      for (int n = 0; n < kPart / 8; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int pixel = m * kColumns + (lane >> 2) + h * 8;
          float low = sums[m][n][2 * h], high = sums[m][n][2 * h + 1];
          if (activate_now) {
            low = p.epilogue.activate(low);
            high = p.epilogue.activate(high);
          }
          shared_store(stage + Out::offset(pixel, n) + static_cast<uint32_t>((lane & 3) * 4), pack2<T>(low, high));
        }
    __syncwarp();
    constexpr int kOutChunks = kPart / 8;
#pragma unroll 1
    for (int i = lane; i < kFragments * kColumns * kOutChunks; i += 32) {
      const int pixel = i / kOutChunks, chunk = i - pixel * kOutChunks, channel = first_channel + chunk * 8;
      const int y = tile.top + warp * kFragments + pixel / kColumns, x = tile.left + pixel % kColumns;
      if (y >= p.height || x >= p.width || channel >= p.out_channels) continue;
      uint4 value = shared_load<uint4>(stage + Out::offset(pixel, chunk));
      if (p.has_residual)
        value = add_residual<T>(p.epilogue, value, pixel_at<T>(p.residual, tile.image, y, x) + channel,
                                p.out_channels - channel);
      global_store(reinterpret_cast<uint4*>(pixel_at<T>(p.y, tile.image, y, x) + channel), value);
    }
    __syncthreads();  // the results are out: the next tile may come
    if (index + step < p.tiles) load_tile<T, C>(held, p, tile_at<C>(p, index + step));
    cp_async_commit();
  }
  cp_async_wait<0>();
}

template <class T, int kIn, int kPart, int kFragments>
void run(Params p, int64_t images, const Device& device, Stream stream) {
  using C = Config<kIn, kPart, kFragments>;
  p.parts = p.out_padded / kPart;
  p.tiles_x = static_cast<int>(ceil_div(p.width, kColumns));
  p.tiles_y = static_cast<int>(ceil_div(p.height, C::kRows));
  const int64_t tiles = images * p.tiles_x * p.tiles_y;
  require(tiles < (1 << 30), "conv3x3: too many tiles");
  p.tiles = static_cast<int>(tiles);
  const int64_t per_processor = std::clamp<int64_t>(device.shared_limit / (C::kSharedBytes + 1024), 1, 4);
  const int64_t resident = std::max<int64_t>(device.processors * per_processor / p.parts, 1);
  launch(conv3x3_kernel<T, C, kIn, kPart, kFragments>, std::min(tiles, resident) * p.parts, C::kThreads,
         C::kSharedBytes, stream, p);
}

using Run = void (*)(Params, int64_t, const Device&, Stream);

// One compiled shape of the kernel, and the shared memory that it takes.
struct Shape {
  int in, part, rows;
  int64_t shared_bytes;
  Run f16, bf16;
};

template <int kIn, int kPart, int kFragments>
constexpr Shape make_shape() {
  using C = Config<kIn, kPart, kFragments>;
  return {kIn,
          kPart,
          C::kRows,
          C::kSharedBytes,
          run<__half, kIn, kPart, kFragments>,
          run<__nv_bfloat16, kIn, kPart, kFragments>};
}

// The first that holds the channels and fits is taken: large parts before tall tiles, both before small ones.
constexpr Shape kShapes[] = {
    make_shape<16, 64, 4>(), make_shape<16, 48, 4>(), make_shape<16, 32, 4>(), make_shape<16, 16, 4>(),
    make_shape<32, 32, 4>(), make_shape<32, 16, 4>(), make_shape<48, 48, 4>(), make_shape<48, 16, 4>(),
    make_shape<64, 64, 4>(), make_shape<64, 64, 2>(), make_shape<64, 32, 2>(), make_shape<64, 16, 4>(),
    make_shape<96, 48, 4>(), make_shape<96, 32, 2>(), make_shape<96, 16, 2>(),
};

const Shape* find_shape(const ConvSpec& spec, const Device& device) {
  for (const Shape& shape : kShapes)
    if (shape.in >= spec.in_channels && round_up(spec.out_channels, 16) % shape.part == 0 &&
        shape.shared_bytes <= device.shared_limit)
      return &shape;
  return nullptr;
}

}  // namespace

bool conv3x3_supports(const Convolution& conv, const Device& device) {
  const ConvSpec& s = conv.spec;
  return !conv.transposed && conv.type != Type::f32 && device.capability >= 80 && s.groups == 1 && s.kernel_h == 3 &&
         s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 && s.dilation_w == 1 &&
         s.pad_top == 1 && s.pad_left == 1 && conv.out.height == conv.in.height && conv.out.width == conv.in.width &&
         find_shape(s, device) != nullptr;
}

void conv3x3(const Convolution& conv, const Device& device, Stream stream) {
  const Shape& shape = *find_shape(conv.spec, device);
  Params p{};
  p.x = conv.x;
  p.residual = conv.residual;
  p.y = conv.y;
  p.weight = static_cast<const uint8_t*>(conv.weight);
  p.bias = conv.bias;
  p.height = static_cast<int>(conv.out.height);
  p.width = static_cast<int>(conv.out.width);
  p.in_chunks = static_cast<int>(ceil_div(conv.in.channels, 8));
  p.weight_chunks = static_cast<int>(round_up(conv.in.channels, 16) / 8);
  p.out_channels = static_cast<int>(conv.out.channels);
  p.out_padded = static_cast<int>(round_up(conv.out.channels, 16));
  p.edge = conv.edge;
  p.epilogue = make_epilogue(conv.spec);
  p.has_residual = conv.spec.residual != Residual::none;
  (conv.type == Type::f16 ? shape.f16 : shape.bf16)(p, conv.out.images, device, stream);
}

}  // namespace fr::cuda
