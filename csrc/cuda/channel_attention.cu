// Attention between channels: its products, their softmax, and the values that these mix. Sums are made in two steps,
// each in a fixed order.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr float kLeastSquare = 1e-24f;  // of the length of a vector that is divided by it

struct GramParams {
  ConstImages x;
  Extent in;
  int64_t fold, groups, heads;
  float* sums;
};

// A thread sums one product of channels over one group of rows: of [n][n] queries by keys, then the squares of n
// queries and of n keys.
template <class T>
__global__ void __launch_bounds__(kThreads) row_grams_kernel(const GramParams p) {
  const int64_t n = p.in.channels / (3 * p.heads), each = n * (n + 2);
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, group = index / (p.heads * each);
  if (group >= p.groups) return;
  const int64_t head = index / each % p.heads, entry = index % each;
  const int64_t query = head * n, key = p.in.channels / 3 + head * n;
  const int64_t squares = entry - n * n;  // which of the squares, if not negative
  const int64_t a = squares < 0 ? query + entry / n : squares < n ? query + squares : key + squares - n;
  const int64_t b = squares < 0 ? key + entry % n : a;
  const int64_t end = (group + 1) * p.fold < p.in.height ? (group + 1) * p.fold : p.in.height;
  float sum = 0.0f;
  for (int64_t row = group * p.fold; row < end; ++row)
    for (int64_t column = 0; column < p.in.width; ++column) {
      const T* const pixel = pixel_at<T>(p.x, 0, row, column);
      sum += to_float(global_load(pixel + a)) * to_float(global_load(pixel + b));
    }
  global_store(p.sums + index, sum);
}

// The same on tensor cores, in one pass over queries and keys: a block takes one head of one group of rows, its warps
// share each 64 pixels. A matrix of channels by pixels is what ldmatrix makes of pixels by channels, and serves both as
// the left and as the right operand: squares are the diagonal of a product of queries, or keys, with themselves.
constexpr int kChunkPixels = 64;

template <class T, int kBlocks>  // of 16 channels
__global__ void __launch_bounds__(kThreads) tensor_grams_kernel(const GramParams p) {
  constexpr int kMost = kBlocks * 16, kPlane = kChunkPixels * kMost * 2;
  using Rows = Swizzle<kBlocks * 2>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int n = static_cast<int>(p.in.channels / (3 * p.heads)), heads = static_cast<int>(p.heads);
  const int group = static_cast<int>(blockIdx.x) / heads, head = static_cast<int>(blockIdx.x) % heads;
  const int width = static_cast<int>(p.in.width), first_row = group * static_cast<int>(p.fold);
  const int left = static_cast<int>(p.in.height) - first_row, fold = static_cast<int>(p.fold);
  const int pixels = (left < fold ? left : fold) * width;
  const uint32_t base = shared_base();

  const auto load = [&](int first, uint32_t to) {
#pragma unroll 1
    for (int i = thread; i < 2 * kChunkPixels * kBlocks * 2; i += kThreads) {
      const int chunk = i % (kBlocks * 2), pixel = i / (kBlocks * 2) % kChunkPixels;
      const int plane = i / (kBlocks * 2 * kChunkPixels), at = first + pixel;
      const bool valid = at < pixels && chunk * 8 < n;
      const T* from = static_cast<const T*>(p.x.data);
      if (valid)
        from = pixel_at<T>(p.x, 0, first_row + at / width, at % width) + (plane * heads + head) * n + chunk * 8;
      cp_async16(to + static_cast<uint32_t>(plane * kPlane) + Rows::offset(pixel, chunk), from, valid);
    }
    cp_async_commit();
  };

  float products[kBlocks][kBlocks * 2][4], squares[2][kBlocks][2][4];
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kBlocks * 2; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) products[i][j][e] = 0.0f;
#pragma unroll
    for (int e = 0; e < 16; ++e) squares[e / 8][i][e / 4 % 2][e % 4] = 0.0f;
  }
  load(0, base);
#pragma unroll 1
  for (int first = 0, turn = 0; first < pixels; first += kChunkPixels, ++turn) {
    const uint32_t held = base + static_cast<uint32_t>((turn & 1) * 2 * kPlane);
    cp_async_wait<0>();
    __syncthreads();  // these pixels are there, and all are done with those before
    if (first + kChunkPixels < pixels)
      load(first + kChunkPixels, base + static_cast<uint32_t>((~turn & 1) * 2 * kPlane));
    uint32_t operands[2][kBlocks][4];  // queries and keys of the warp's 16 pixels
#pragma unroll
    for (int plane = 0; plane < 2; ++plane)
#pragma unroll
      for (int i = 0; i < kBlocks; ++i)
        ldmatrix_x4_transposed(operands[plane][i], held + static_cast<uint32_t>(plane * kPlane) +
                                                       Rows::offset(warp * 16 + (lane & 15), 2 * i + (lane >> 4)));
    const auto as_left = [](uint32_t (&to)[4], const uint32_t (&from)[4]) {
      to[0] = from[0];
      to[1] = from[2];
      to[2] = from[1];
      to[3] = from[3];
    };
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
      uint32_t query[4], key[4];
      as_left(query, operands[0][i]);
      as_left(key, operands[1][i]);
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        mma_16816<T>(products[i][2 * j], query, operands[1][j][0], operands[1][j][1]);
        mma_16816<T>(products[i][2 * j + 1], query, operands[1][j][2], operands[1][j][3]);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        mma_16816<T>(squares[0][i][h], query, operands[0][i][2 * h], operands[0][i][2 * h + 1]);
        mma_16816<T>(squares[1][i][h], key, operands[1][i][2 * h], operands[1][i][2 * h + 1]);
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // all have read the pixels: their place takes the warps' sums

  const int each = n * (n + 2);
  const uint32_t own = base + static_cast<uint32_t>(warp * each * 4);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = i * 16 + (lane >> 2) + e / 2 * 8, column = (lane & 3) * 2 + e % 2;
#pragma unroll
      for (int j = 0; j < kBlocks * 2; ++j)
        if (row < n && j * 8 + column < n)
          shared_store(own + static_cast<uint32_t>((row * n + j * 8 + column) * 4), products[i][j][e]);
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (row < n && row == i * 16 + h * 8 + column) {
          shared_store(own + static_cast<uint32_t>((n * n + row) * 4), squares[0][i][h][e]);
          shared_store(own + static_cast<uint32_t>((n * n + n + row) * 4), squares[1][i][h][e]);
        }
    }
  __syncthreads();  // the warps' sums are there
#pragma unroll 1
  for (int i = thread; i < each; i += kThreads) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += shared_load<float>(base + static_cast<uint32_t>((w * each + i) * 4));
    global_store(p.sums + int64_t(blockIdx.x) * each + i, sum);
  }
}

// A thread sums one product over all groups.
__global__ void __launch_bounds__(kThreads) gram_kernel(float* grams, const int64_t rows, const int64_t entries) {
  const int64_t entry = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (entry >= entries) return;
  double sum = 0.0;
  for (int64_t row = 0; row < rows; ++row) sum += global_load(grams + row * entries + entry);
  global_store(grams + entry, static_cast<float>(sum));
}

// A thread computes the weights of one query channel, column i of its head's [n][n].
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(const float* grams, const int heads, const int n, const float* temperature, float* weights) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), head = index / n, i = index - head * n;
  if (head >= heads) return;
  const float* const gram = grams + int64_t(head) * n * (n + 2);
  const float* const lengths = gram + n * n;  // squared: of queries, then of keys
  const float factor = global_load(temperature + head) * rsqrt_fast(fmaxf(global_load(lengths + i), kLeastSquare));
  const auto score = [&](int j) {
    return factor * global_load(gram + i * n + j) * rsqrt_fast(fmaxf(global_load(lengths + n + j), kLeastSquare));
  };
  float* const column = weights + int64_t(head) * n * n + i;
  float most = -INFINITY, sum = 0.0f;
  for (int j = 0; j < n; ++j) most = fmaxf(most, score(j));
  for (int j = 0; j < n; ++j) {
    const float weight = expf(score(j) - most);
    sum += weight;
    global_store(column + j * n, weight);
  }
  for (int j = 0; j < n; ++j) global_store(column + j * n, global_load(column + j * n) / sum);
}

struct MixParams {
  const float* weights;
  ConstImages x;
  int64_t first, n;
  Images y;
  Extent out;
};

template <class T>
__global__ void __launch_bounds__(kThreads) mix_kernel(const MixParams p) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunks = (p.out.channels + 7) / 8, pixel = index / chunks, channel = (index - pixel * chunks) * 8;
  if (pixel >= p.out.height * p.out.width) return;
  const int64_t row = pixel / p.out.width, column = pixel - row * p.out.width;
  const T* const values = pixel_at<T>(p.x, 0, row, column) + p.first;
  Eight result{};
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    if (channel + c >= p.out.channels) continue;
    const int64_t head = (channel + c) / p.n, i = channel + c - head * p.n;
    const float* const weights = p.weights + head * p.n * p.n + i;
    for (int64_t j = 0; j < p.n; ++j)
      result.v[c] += global_load(weights + j * p.n) * to_float(global_load(values + head * p.n + j));
  }
  store8(pixel_at<T>(p.y, 0, row, column) + channel, result);
}

// A thread makes one weight: of output `out` for the value of channel head * n + j.
struct FoldParams {
  const float* weights;
  const float* project;
  int n, channels, out_channels, in_padded, out_padded;
  void* folded;
};

template <class T>
__global__ void __launch_bounds__(kThreads) fold_kernel(const FoldParams p) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int out = index / p.in_padded, in = index - out * p.in_padded;
  if (out >= p.out_padded) return;
  float sum = 0.0f;
  if (out < p.out_channels && in < p.channels) {
    const int head = in / p.n, j = in - head * p.n;
    const float* const weights = p.weights + (int64_t(head) * p.n + j) * p.n;
    const float* const project = p.project + int64_t(out) * p.channels + head * p.n;
    for (int i = 0; i < p.n; ++i) sum += global_load(project + i) * global_load(weights + i);
  }
  global_store(static_cast<T*>(p.folded) + index, from_float<T>(sum));
}

}  // namespace

void row_grams(Type type, const ConstImages& x, const Extent& in, int64_t heads, int64_t fold, float* grams,
               Stream stream) {
  check_images(x, in, "row_grams");
  require(in.images == 1 && fold >= 1 && heads >= 1 && in.channels % (3 * heads) == 0 && grams != nullptr,
          "row_grams: one image of queries, keys and values by head");
  const int64_t n = in.channels / (3 * heads), groups = ceil_div(in.height, fold);
  const GramParams p{x, in, fold, groups, heads, grams};
  if (type == Type::f32 || n % 8 != 0 || n > 48 || current_device().capability < 80) {
    with_type(type, [&](auto t) {
      launch(row_grams_kernel<decltype(t)>, blocks_for(checked_product(groups, heads, n * (n + 2)), kThreads), kThreads,
             0, stream, p);
    });
    return;
  }
  require(groups * heads <= kMostBlocks, "row_grams: too many rows for one launch");
  with_half_type(type, "row_grams", [&](auto t) {
    using T = decltype(t);
    const int64_t blocks = ceil_div(n, 16), pixels = 2 * 2 * kChunkPixels * blocks * 16 * 2;
    launch(blocks == 1   ? tensor_grams_kernel<T, 1>
           : blocks == 2 ? tensor_grams_kernel<T, 2>
                         : tensor_grams_kernel<T, 3>,
           groups * heads, kThreads, std::max(pixels, kWarps * n * (n + 2) * 4), stream, p);
  });
}

void softmax_of_grams(float* grams, int64_t rows, int64_t heads, int64_t channels, const float* temperature,
                      float* weights, Stream stream) {
  require(grams != nullptr && temperature != nullptr && weights != nullptr, "softmax_of_grams: a null address");
  const int64_t entries = checked_product(heads, channels, channels + 2);
  launch(gram_kernel, blocks_for(entries, kThreads), kThreads, 0, stream, grams, rows, entries);
  launch(softmax_kernel, blocks_for(heads * channels, kThreads), kThreads, 0, stream, static_cast<const float*>(grams),
         static_cast<int>(heads), static_cast<int>(channels), temperature, weights);
}

void mix_channels(Type type, const float* weights, const ConstImages& x, int64_t first, int64_t heads, const Images& y,
                  const Extent& out, Stream stream) {
  check_images(y, out, "mix_channels");
  require(out.images == 1 && heads >= 1 && out.channels % heads == 0 && weights != nullptr && x.data != nullptr,
          "mix_channels: one image, whose channels are a multiple of the heads");
  with_type(type, [&](auto t) {
    launch(mix_kernel<decltype(t)>, blocks_for(out.height * out.width * ceil_div(out.channels, 8), kThreads), kThreads,
           0, stream, MixParams{weights, x, first, out.channels / heads, y, out});
  });
}

void fold_mixture(Type type, const float* weights, int64_t channels, int64_t heads, const float* project,
                  int64_t out_channels, void* folded, Stream stream) {
  require(weights != nullptr && project != nullptr && folded != nullptr && heads >= 1 && channels >= 1 &&
              channels % heads == 0 && channels < (1 << 14) && out_channels >= 1 && out_channels < (1 << 14),
          "fold_mixture: a null address, or channels that are no multiple of the heads");
  const FoldParams p{weights,
                     project,
                     static_cast<int>(channels / heads),
                     static_cast<int>(channels),
                     static_cast<int>(out_channels),
                     static_cast<int>(round_up(channels, 16)),
                     static_cast<int>(round_up(out_channels, 16)),
                     folded};
  with_type(type, [&](auto t) {
    launch(fold_kernel<decltype(t)>, blocks_for(int64_t(p.in_padded) * p.out_padded, kThreads), kThreads, 0, stream, p);
  });
}

}  // namespace fr::cuda
