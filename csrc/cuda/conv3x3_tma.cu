// 3x3 convolution, stride 1, padding 1, 64 to 64 channels, on wgmma and TMA (sm_90a).
//
// y[channel][pixel] += w[tap][channel][:] * x[pixel + tap][:]: the weights are operand A, the halo tile is operand B,
// both with a pixel's or filter's 64 channels as one swizzled row of 128 bytes. The tile is kPitch pixels wide in
// memory, so a tap is another start address; the two columns at the right of every row are not results. One warpgroup
// loads tiles by TMA, whose zeros outside of the image are the padding; two compute.
//
// To be looked at first on a device: a descriptor of B that begins dx * 128 bytes past a boundary of 1024, with a base
// offset of 0. The swizzle acts on address bits, and the pattern itself is aligned.
#include "cuda/conv_paths.h"
#include "cuda/hopper.cuh"

namespace fr::cuda {
namespace {

constexpr int kChannels = 64, kRowBytes = kChannels * 2;
constexpr int kPitch = 64, kColumns = kPitch - 2, kRows = 6, kInRows = kRows + 2;
constexpr int kConsumers = 2, kConsumerRows = kRows / kConsumers;
constexpr int kSums = 192;  // pixels of one consumer, and of one wgmma
static_assert(kConsumerRows * kPitch == kSums);
constexpr int kBlockThreads = 128 * (1 + kConsumers);
constexpr int kWeightBytes = 9 * kChannels * kRowBytes, kTileBytes = kInRows * kPitch * kRowBytes;
constexpr int kStageBytes = 24576;  // a consumer's results, and behind them the columns that are none
static_assert(kConsumerRows * kPitch * kRowBytes <= kStageBytes && kConsumers * kStageBytes <= kTileBytes);
constexpr int kBarrierBytes = 1024, kOverrun = 1024;  // the last row's taps read two pixels past the tile
constexpr int kSharedBytes = kBarrierBytes + kWeightBytes + 2 * kTileBytes + kOverrun;

// K-major, swizzle of 128 bytes, groups of eight rows 1024 bytes apart.
__device__ __forceinline__ uint64_t descriptor(uint32_t address) {
  return uint64_t(address & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

struct Params {
  ConstImages residual;
  Images y;
  const float* bias;
  int height, width, tiles_x, tiles_y, tiles, out_channels;
  Epilogue epilogue;
  bool has_residual;
};

struct Tile {
  int image, top, left;
};

__device__ __forceinline__ Tile tile_at(const Params& p, int index) {
  const int per_image = p.tiles_x * p.tiles_y, image = index / per_image, rest = index - image * per_image;
  const int row = rest / p.tiles_x;
  return {image, row * kRows, (rest - row * p.tiles_x) * kColumns};
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads, 1)
    conv3x3_tma_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,
                       const __grid_constant__ Params p) {
#if FR_SM90A
  const uint32_t full = shared_base(), empty = full + 16, weights_there = full + 32;
  const uint32_t weights = full + kBarrierBytes, tiles = weights + kWeightBytes;
  const int thread = static_cast<int>(threadIdx.x) & 127, group = static_cast<int>(threadIdx.x) >> 7;
  const int warp = thread >> 5, lane = thread & 31;
  const int first = static_cast<int>(blockIdx.x), step = static_cast<int>(gridDim.x);
  if (threadIdx.x == 0) {
    for (uint32_t b = 0; b < 2; ++b) {
      barrier_init(full + 8 * b, 1);
      barrier_init(empty + 8 * b, kConsumers);
    }
    barrier_init(weights_there, 1);
    barrier_init_fence();
  }
  __syncthreads();

  if (group == 0) {  // loads
    fewer_registers<40>();
    if (thread == 0) {
      barrier_expect(weights_there, kWeightBytes);
      for (int tap = 0; tap < 9; ++tap)
        tma_load(weights + tap * kChannels * kRowBytes, weight, weights_there, 0, 0, tap, 0);
      int turn = 0;
      for (int index = first; index < p.tiles; index += step, ++turn) {
        const Tile tile = tile_at(p, index);
        const uint32_t buffer = turn & 1;
        barrier_wait(empty + 8 * buffer, (turn >> 1 & 1) ^ 1);
        barrier_expect(full + 8 * buffer, kTileBytes);
        tma_load(tiles + buffer * kTileBytes, x, full + 8 * buffer, 0, tile.left - 1, tile.top - 1, tile.image);
      }
    }
    return;
  }

  more_registers<232>();
  const int consumer = group - 1;
  const int channel = warp * 16 + (lane >> 2);
  const float bias[2] = {p.bias && channel < p.out_channels ? global_load(p.bias + channel) : 0.0f,
                         p.bias && channel + 8 < p.out_channels ? global_load(p.bias + channel + 8) : 0.0f};
  barrier_wait(weights_there, 0);
  int turn = 0;
  for (int index = first; index < p.tiles; index += step, ++turn) {
    const Tile tile = tile_at(p, index);
    const uint32_t buffer = turn & 1, held = tiles + buffer * kTileBytes;
    float sums[kSums / 2];
#pragma unroll
    for (int i = 0; i < kSums / 2; ++i) sums[i] = bias[i >> 1 & 1];
    barrier_wait(full + 8 * buffer, turn >> 1 & 1);
    const uint32_t rows = held + static_cast<uint32_t>(consumer * kConsumerRows * kPitch * kRowBytes);
    wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
#pragma unroll
      for (int k = 0; k < kChannels / 16; ++k)
        wgmma_64x192x16<T>(sums, descriptor(weights + static_cast<uint32_t>(tap * kChannels * kRowBytes + k * 32)),
                           descriptor(rows + static_cast<uint32_t>((tap / 3 * kPitch + tap % 3) * kRowBytes + k * 32)));
    wgmma_wait();
    named_barrier<128 * kConsumers>(1);  // both have read the tile: its place takes the results

    const bool activate_now = !(p.has_residual && p.epilogue.residual_first);
    const uint32_t stage = held + static_cast<uint32_t>(consumer * kStageBytes);
#pragma unroll
    for (int j = 0; j < kSums / 8; j += 2) {  // twice eight pixels of 16 channels
      uint32_t values[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        float low = sums[4 * (j + (q >> 1)) + 2 * (q & 1)], high = sums[4 * (j + (q >> 1)) + 2 * (q & 1) + 1];
        if (activate_now) {
          low = p.epilogue.activate(low);
          high = p.epilogue.activate(high);
        }
        values[q] = pack2<T>(low, high);
      }
      const int pixel = (j + (lane >> 4)) * 8 + (lane & 7), row = pixel / kPitch, column = pixel % kPitch;
      const int kept = row * kColumns + column, chunk = warp * 2 + (lane >> 3 & 1);
      // The columns that are no results go behind the others, to banks that the six beside them leave free.
      const int to = column < kColumns ? kept : kConsumerRows * kColumns + row * 2 + column - kColumns;
      stmatrix_x4_transposed(stage + static_cast<uint32_t>(to * kRowBytes + ((chunk ^ (kept & 7)) << 4)), values);
    }
    named_barrier<128>(2 + consumer);
#pragma unroll 1
    for (int i = thread; i < kConsumerRows * kColumns * (kChannels / 8); i += 128) {
      const int pixel = i >> 3, chunk = i & 7, c = chunk * 8;
      const int y = tile.top + consumer * kConsumerRows + pixel / kColumns, left = tile.left + pixel % kColumns;
      if (y >= p.height || left >= p.width || c >= p.out_channels) continue;
      uint4 value = shared_load<uint4>(stage + Swizzle<8>::offset(pixel, chunk));
      if (p.has_residual)
        value =
            add_residual<T>(p.epilogue, value, pixel_at<T>(p.residual, tile.image, y, left) + c, p.out_channels - c);
      global_store(reinterpret_cast<uint4*>(pixel_at<T>(p.y, tile.image, y, left) + c), value);
    }
    tma_fence();
    named_barrier<128>(2 + consumer);  // the results are out: the next tile may come
    if (thread == 0) barrier_arrive(empty + 8 * buffer);
  }
#endif
}

}  // namespace

#ifndef FR_EMULATE
CUtensorMap make_tensor_map(const void* data, const int64_t (&sizes)[4], const int64_t (&strides)[3],
                            const int (&box)[4]) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
          "cudaGetDriverEntryPointByVersion");
    if (found != cudaDriverEntryPointSuccess) throw CudaError("CUDA: the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(entry);
  }();
  cuuint64_t dims[4], pitches[3];
  cuuint32_t box_sizes[4], steps[4] = {1, 1, 1, 1};
  for (int i = 0; i < 4; ++i) {
    dims[i] = static_cast<cuuint64_t>(sizes[i]);
    box_sizes[i] = static_cast<cuuint32_t>(box[i]);
    if (i < 3) pitches[i] = static_cast<cuuint64_t>(strides[i]);
  }
  CUtensorMap map;
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, const_cast<void*>(data), dims, pitches,
                                 box_sizes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) throw CudaError("CUDA: cuTensorMapEncodeTiled fails with " + std::to_string(status));
  return map;
}
#endif

bool conv3x3_tma_supports(const Convolution& conv, const Device& device) {
  return device.capability == 90 && device.shared_limit >= kSharedBytes && conv3x3_supports(conv, device) &&
         conv.edge == Edge::zero && round_up(conv.in.channels, 16) == kChannels &&
         round_up(conv.out.channels, 16) == kChannels;
}

void conv3x3_tma(const Convolution& conv, const Device& device, Stream stream) {
  Params p{};
  p.residual = conv.residual;
  p.y = conv.y;
  p.bias = conv.bias;
  p.height = static_cast<int>(conv.out.height);
  p.width = static_cast<int>(conv.out.width);
  p.tiles_x = static_cast<int>(ceil_div(p.width, kColumns));
  p.tiles_y = static_cast<int>(ceil_div(p.height, kRows));
  p.tiles = static_cast<int>(conv.out.images * p.tiles_x * p.tiles_y);  // fewer than pixels, which fit
  p.out_channels = static_cast<int>(conv.out.channels);
  p.epilogue = make_epilogue(conv.spec);
  p.has_residual = conv.spec.residual != Residual::none;
  const CUtensorMap x = make_tensor_map(
      conv.x.data, {round_up(conv.in.channels, 8), conv.in.width, conv.in.height, conv.in.images},
      {conv.x.pixel_pitch * 2, conv.x.row_pitch * 2, conv.x.image_pitch * 2}, {kChannels, kPitch, kInRows, 1});
  const CUtensorMap weight =
      make_tensor_map(conv.weight, {kChannels, kChannels, 9, 1},
                      {kRowBytes, kChannels * kRowBytes, 9 * kChannels * kRowBytes}, {kChannels, kChannels, 1, 1});
  with_half_type(conv.type, "conv3x3_tma", [&](auto t) {
    launch(conv3x3_tma_kernel<decltype(t)>, std::min(p.tiles, device.processors), kBlockThreads, kSharedBytes, stream,
           x, weight, p);
  });
}

}  // namespace fr::cuda
