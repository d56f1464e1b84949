// Means over windows by channel, along columns and then along rows: a thread takes eight channels of a run of pixels,
// sums its first window, and slides on from there, so that a window of n pixels costs n / kRun + 2 reads, not n.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kRun = 64;

// Sums and what rounding took from them (Knuth's two-sum).
struct Sums {
  Eight sum{}, rest{};

  __device__ __forceinline__ void add(const Eight& value, float sign) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float added = sign * value.v[i], total = sum.v[i] + added, part = total - sum.v[i];
      rest.v[i] += (sum.v[i] - (total - part)) + (added - part);
      sum.v[i] = total;
    }
  }
};

// An image seen along one of its axes: `length` pixels of lines, `step` values apart; the lines are `lines` apart.
struct Axis {
  int length;
  int64_t step, lines;
};

struct Params {
  const void* from;
  void* to;
  Axis in, out;
  int64_t in_image, out_image;  // from image to image
  int64_t images, lines, channels;
  int side;
};

template <class From, class To>
__global__ void __launch_bounds__(kThreads) window_means_kernel(const Params p) {
  const int64_t chunks = (p.channels + 7) / 8, runs = (p.in.length + kRun - 1) / kRun;
  int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t chunk = index % chunks;
  index /= chunks;
  const int64_t line = index % p.lines;
  index /= p.lines;
  const int64_t n = index / runs;
  if (n >= p.images) return;
  const int first = static_cast<int>(index - n * runs) * kRun;
  const From* const from = static_cast<const From*>(p.from) + n * p.in_image + line * p.in.lines + chunk * 8;
  To* const to = static_cast<To*>(p.to) + n * p.out_image + line * p.out.lines + chunk * 8;
  const int last = first + kRun < p.in.length ? first + kRun : p.in.length;
  const auto begin_of = [&](int pixel) {
    const int begin = pixel - (p.side - 1) / 2, most = p.in.length - p.side;
    return begin < 0 ? 0 : begin > most ? most : begin;
  };
  int begin = begin_of(first);
  Sums sums;
#pragma unroll 4
  for (int i = begin; i < begin + p.side; ++i) sums.add(load8(from + i * p.in.step), 1.0f);
  for (int pixel = first; pixel < last; ++pixel) {
    if (begin_of(pixel) > begin) {
      sums.add(load8(from + (begin + p.side) * p.in.step), 1.0f);
      sums.add(load8(from + begin * p.in.step), -1.0f);
      ++begin;
    }
    Eight mean;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      mean.v[i] = chunk * 8 + i < p.channels ? (sums.sum.v[i] + sums.rest.v[i]) / static_cast<float>(p.side) : 0.0f;
    store8(to + pixel * p.out.step, mean);
  }
}

template <class From, class To>
void window_means(const Params& p, Stream stream) {
  const int64_t threads = p.images * p.lines * ceil_div(p.in.length, kRun) * ceil_div(p.channels, 8);
  launch(window_means_kernel<From, To>, blocks_for(threads, kThreads), kThreads, 0, stream, p);
}

}  // namespace

void local_mean(Type type, int64_t side, const ConstImages& x, const Extent& in, float* sums, const Images& y,
                Stream stream) {
  check_images(x, in, "local_mean: x");
  check_images(y, in, "local_mean: y");
  require(side >= 1 && sums != nullptr, "local_mean: a window without pixels, or sums that are null");
  const int height = static_cast<int>(in.height), width = static_cast<int>(in.width);
  const int64_t pitch = round_up(in.channels, 8), row = in.width * pitch, image = in.height * row;
  const Params columns{x.data,
                       sums,
                       {height, x.row_pitch, x.pixel_pitch},
                       {height, row, pitch},
                       x.image_pitch,
                       image,
                       in.images,
                       in.width,
                       in.channels,
                       static_cast<int>(std::min(side, in.height))};
  const Params rows{
      sums,      y.data,    {width, pitch, row}, {width, y.pixel_pitch, y.row_pitch},       image, y.image_pitch,
      in.images, in.height, in.channels,         static_cast<int>(std::min(side, in.width))};
  with_type(type, [&](auto t) {
    window_means<decltype(t), float>(columns, stream);
    window_means<float, decltype(t)>(rows, stream);
  });
}

}  // namespace fr::cuda
