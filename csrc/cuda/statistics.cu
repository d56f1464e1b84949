// Means by channel over a whole image, in two steps, each in a fixed order.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

struct RowParams {
  ConstImages x;
  Extent in;
  int64_t fold, groups;
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

constexpr int kMeanThreads = 1024;

// A block takes 32 channels, a lane each; its warps share the groups.
template <class T>
__global__ void __launch_bounds__(kMeanThreads)
    mean_kernel(const float* sums, const Extent in, const int64_t groups, T* y) {
  constexpr int kWarpsOfBlock = kMeanThreads / 32;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int64_t channel = int64_t(blockIdx.x) * 32 + lane;
  const uint32_t held = shared_base() + static_cast<uint32_t>(lane * 4);
  float sum = 0.0f;
  if (channel < in.channels) {
#pragma unroll 4
    for (int64_t group = warp; group < groups; group += kWarpsOfBlock)
      sum += global_load(sums + group * in.channels + channel);
  }
  shared_store(held + static_cast<uint32_t>(warp * 128), sum);
  __syncthreads();
  if (warp > 0 || channel >= (in.channels + 7) / 8 * 8) return;
  double all = 0.0;
  for (int w = 0; w < kWarpsOfBlock; ++w) all += shared_load<float>(held + static_cast<uint32_t>(w * 128));
  global_store(y + channel, from_float<T>(static_cast<float>(all / static_cast<double>(in.height * in.width))));
}

}  // namespace

void row_sums(Type type, const ConstImages& x, const Extent& in, int64_t fold, float* sums, Stream stream) {
  check_images(x, in, "row_sums");
  require(in.images == 1 && fold >= 1 && sums != nullptr, "row_sums: one image, and sums that are not null");
  const int64_t groups = ceil_div(in.height, fold);
  with_type(type, [&](auto t) {
    launch(row_sums_kernel<decltype(t)>, blocks_for(groups * ceil_div(in.channels, 8), kWarps), kThreads, 0, stream,
           RowParams{x, in, fold, groups, sums});
  });
}

void mean_of_sums(Type type, const float* sums, const Extent& in, int64_t groups, const Images& y, Stream stream) {
  check_extent(in, "mean_of_sums");
  require(in.pixels() > 0 && groups >= 1 && sums != nullptr && y.data != nullptr,
          "mean_of_sums: a null address, or no pixel");
  with_type(type, [&](auto t) {
    using T = decltype(t);
    launch(mean_kernel<T>, ceil_div(in.channels, 32), kMeanThreads, kMeanThreads * 4, stream, sums, in, groups,
           static_cast<T*>(y.data));
  });
}

}  // namespace fr::cuda
