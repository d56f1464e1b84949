// What depends on a whole image: means by channel, and attention between channels. Sums are made in two steps, each in
// a fixed order.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr float kLeastSquare = 1e-24f;  // of the length of a vector that is divided by it

struct RowParams {
  ConstImages x;
  Extent in;
  int64_t fold, groups, heads;
  float* sums;
};

// A warp sums eight channels of one group of rows.
template <class T>
__global__ void __launch_bounds__(kThreads) row_sums_kernel(const RowParams p) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int64_t index = int64_t(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int64_t chunks = (p.in.channels + 7) / 8, group = index / chunks, channel = (index - group * chunks) * 8;
  if (group >= p.groups) return;  // the whole warp
  const int64_t left = p.in.height - group * p.fold, pixels = (left < p.fold ? left : p.fold) * p.in.width;
  Eight sum{};
  for (int64_t i = lane; i < pixels; i += 32) {
    const Eight value = load8(pixel_at<T>(p.x, 0, group * p.fold + i / p.in.width, i % p.in.width) + channel);
#pragma unroll
    for (int c = 0; c < 8; ++c) sum.v[c] += value.v[c];
  }
#pragma unroll
  for (int c = 0; c < 8; ++c) {
#pragma unroll
    for (unsigned mask = 16; mask > 0; mask /= 2) sum.v[c] += shuffle_xor(sum.v[c], mask);
    if (lane == 0 && channel + c < p.in.channels) global_store(p.sums + group * p.in.channels + channel + c, sum.v[c]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mean_kernel(const float* sums, const Extent in, const int64_t groups, T* y) {
  const int64_t channel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (channel >= (in.channels + 7) / 8 * 8) return;
  double sum = 0.0;
  if (channel < in.channels)
    for (int64_t group = 0; group < groups; ++group) sum += global_load(sums + group * in.channels + channel);
  global_store(y + channel, from_float<T>(static_cast<float>(sum / static_cast<double>(in.height * in.width))));
}

// A thread sums one product of channels over one group of rows: of [n][n] queries by keys, then the squares of n
// queries and of n keys.
template <class T>
__global__ void __launch_bounds__(kThreads) row_grams_kernel(const RowParams p) {
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

}  // namespace

void row_sums(Type type, const ConstImages& x, const Extent& in, int64_t fold, float* sums, Stream stream) {
  check_images(x, in, "row_sums");
  require(in.images == 1 && fold >= 1 && sums != nullptr, "row_sums: one image, and sums that are not null");
  const int64_t groups = ceil_div(in.height, fold);
  with_type(type, [&](auto t) {
    launch(row_sums_kernel<decltype(t)>, blocks_for(groups * ceil_div(in.channels, 8), kWarps), kThreads, 0, stream,
           RowParams{x, in, fold, groups, 1, sums});
  });
}

void mean_of_sums(Type type, const float* sums, const Extent& in, int64_t fold, const Images& y, Stream stream) {
  check_extent(in, "mean_of_sums");
  require(in.pixels() > 0 && sums != nullptr && y.data != nullptr, "mean_of_sums: a null address, or no pixel");
  with_type(type, [&](auto t) {
    using T = decltype(t);
    launch(mean_kernel<T>, blocks_for(round_up(in.channels, 8), kThreads), kThreads, 0, stream, sums, in,
           ceil_div(in.height, fold), static_cast<T*>(y.data));
  });
}

void row_grams(Type type, const ConstImages& x, const Extent& in, int64_t heads, int64_t fold, float* grams,
               Stream stream) {
  check_images(x, in, "row_grams");
  require(in.images == 1 && fold >= 1 && heads >= 1 && in.channels % (3 * heads) == 0 && grams != nullptr,
          "row_grams: one image of queries, keys and values by head");
  const int64_t n = in.channels / (3 * heads), groups = ceil_div(in.height, fold);
  with_type(type, [&](auto t) {
    launch(row_grams_kernel<decltype(t)>, blocks_for(checked_product(groups, heads, n * (n + 2)), kThreads), kThreads,
           0, stream, RowParams{x, in, fold, groups, heads, grams});
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

}  // namespace fr::cuda
