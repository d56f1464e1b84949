// Any dense convolution as an implicit matrix product on mma.sync tensor cores: rows are output pixels, columns output
// channels, and the sum runs over taps and input channels. A transposed convolution is one product for each phase of
// its output grid.
#include "cuda/common.cuh"
#include "cuda/conv_paths.h"

namespace fr::cuda {
namespace {

constexpr int kRows = 128, kColumns = 64, kDepth = 32;  // of the part of the product that a block holds
constexpr int kStages = 3;
constexpr int kFragments = 2;  // of 16 rows, for each of the 4 warps
using In = Swizzle<kDepth / 8>;
using Out = Swizzle<kColumns / 8>;
constexpr int kRowsBytes = kRows * In::kRowBytes, kStageBytes = kRowsBytes + kColumns * In::kRowBytes;
constexpr int kSharedBytes = kStages * kStageBytes;
static_assert(kRows * Out::kRowBytes <= kSharedBytes, "the results are set aside where the operands were");

// Along one axis, output i of a phase stands at step * i + first of y and reads taps j at in_step * i + in_first +
// j * in_tap of x, with the weight of tap first_tap + j * tap_step.
struct Axis {
  int outputs, step, first;
  int in_size, in_step, in_first, in_tap;
  int taps, first_tap, tap_step;
};

struct Params {
  ConstImages x, residual;
  Images y;
  const uint8_t* weight;
  const float* bias;
  Axis rows, columns;
  int images, kernel_w;
  int in_chunks, weight_chunks, depth_steps;  // steps of kDepth input channels for one tap
  int out_channels, out_padded, parts;
  Edge edge;
  Epilogue epilogue;
  bool has_residual;
};

struct Output {
  int image, row, column;
};

__device__ __forceinline__ Output output_at(const Params& p, int index) {
  const int per_image = p.rows.outputs * p.columns.outputs, image = index / per_image;
  const int rest = index - image * per_image, row = rest / p.columns.outputs;
  return {image, row, rest - row * p.columns.outputs};
}

// Loads the operands of one step of the sum: tap `tap` of the phase, input channels from chunk first_chunk.
template <class T>
__device__ __forceinline__ void load_step(uint32_t to, const Params& p, const Output (&outputs)[4], int pixels,
                                          int first_pixel, int first_channel, int step) {
  const int thread = static_cast<int>(threadIdx.x), chunk = thread & 3, first_row = thread >> 2;
  const int tap = step / p.depth_steps, source = (step - tap * p.depth_steps) * (kDepth / 8) + chunk;
  const int j = tap / p.columns.taps, i = tap - j * p.columns.taps;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const int row = first_row + m * 32;
    const Output& o = outputs[m];
    const int y = edge_pixel(p.edge, p.rows.in_step * o.row + p.rows.in_first + j * p.rows.in_tap, p.rows.in_size);
    const int x =
        edge_pixel(p.edge, p.columns.in_step * o.column + p.columns.in_first + i * p.columns.in_tap, p.columns.in_size);
    const bool valid = first_pixel + row < pixels && y >= 0 && x >= 0 && source < p.in_chunks;
    const T* const from = valid ? pixel_at<T>(p.x, o.image, y, x) + source * 8 : static_cast<const T*>(p.x.data);
    cp_async16(to + In::offset(row, chunk), from, valid);
  }
  const int weight_tap =
      (p.rows.first_tap + j * p.rows.tap_step) * p.kernel_w + p.columns.first_tap + i * p.columns.tap_step;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int row = first_row + m * 32, channel = first_channel + row;
    const bool valid = channel < p.out_padded && source < p.weight_chunks;
    const int64_t from = (int64_t(weight_tap) * p.out_padded + channel) * p.weight_chunks + source;
    cp_async16(to + kRowsBytes + In::offset(row, chunk), p.weight + (valid ? from * 16 : 0), valid);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) implicit_kernel(const Params p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int pixels = p.images * p.rows.outputs * p.columns.outputs;
  const int first_pixel = static_cast<int>(blockIdx.x) / p.parts * kRows;
  const int first_channel = static_cast<int>(blockIdx.x) % p.parts * kColumns;
  const int steps = p.rows.taps * p.columns.taps * p.depth_steps;
  const uint32_t base = shared_base();

  Output outputs[4];  // of the rows that this thread loads
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const int pixel = first_pixel + (thread >> 2) + m * 32;
    outputs[m] = output_at(p, pixel < pixels ? pixel : 0);
  }

  float sums[kFragments][kColumns / 8][4];
#pragma unroll
  for (int n = 0; n < kColumns / 8; ++n) {
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
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load_step<T>(base + s * kStageBytes, p, outputs, pixels, first_pixel, first_channel, s);
    cp_async_commit();
  }
  const uint32_t a_lane = In::offset(warp * 32 + (lane & 15), lane >> 4);
  const uint32_t b_lane = kRowsBytes + In::offset((lane & 7) + ((lane >> 4) << 3), lane >> 3 & 1);
#pragma unroll 1
  for (int s = 0; s < steps; ++s) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // step s is there for all, and all are done with step s - 1
    const int next = s + kStages - 1;
    if (next < steps)
      load_step<T>(base + next % kStages * kStageBytes, p, outputs, pixels, first_pixel, first_channel, next);
    cp_async_commit();
    const uint32_t held = base + s % kStages * kStageBytes;
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      uint32_t a[kFragments][4];
#pragma unroll
      for (int m = 0; m < kFragments; ++m)
        ldmatrix_x4(a[m], In::advance(held + a_lane, 2 * k) + static_cast<uint32_t>(m * 16 * In::kRowBytes));
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4(b, In::advance(held + b_lane, 2 * k) + static_cast<uint32_t>(n * 16 * In::kRowBytes));
#pragma unroll
        for (int m = 0; m < kFragments; ++m) {
          mma_16816<T>(sums[m][2 * n], a[m], b[0], b[1]);
          mma_16816<T>(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // all have read the operands: their place takes the results

  const bool activate_now = !(p.has_residual && p.epilogue.residual_first);
  const uint32_t stage = base + static_cast<uint32_t>(warp * 32 * Out::kRowBytes);
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float low = sums[m][n][2 * h], high = sums[m][n][2 * h + 1];
        if (activate_now) {
          low = p.epilogue.activate(low);
          high = p.epilogue.activate(high);
        }
        const uint32_t to = stage + Out::offset(m * 16 + (lane >> 2) + h * 8, n);
        shared_store(to + static_cast<uint32_t>((lane & 3) * 4), pack2<T>(low, high));
      }
  __syncwarp();
#pragma unroll 1
  for (int i = lane; i < 32 * kColumns / 8; i += 32) {
    const int row = i / (kColumns / 8), chunk = i % (kColumns / 8), channel = first_channel + chunk * 8;
    const int pixel = first_pixel + warp * 32 + row;
    if (pixel >= pixels || channel >= p.out_channels) continue;
    const Output o = output_at(p, pixel);
    const int y = p.rows.step * o.row + p.rows.first, x = p.columns.step * o.column + p.columns.first;
    uint4 value = shared_load<uint4>(stage + Out::offset(row, chunk));
    if (p.has_residual)
      value = add_residual<T>(p.epilogue, value, pixel_at<T>(p.residual, o.image, y, x) + channel,
                              p.out_channels - channel);
    global_store(reinterpret_cast<uint4*>(pixel_at<T>(p.y, o.image, y, x) + channel), value);
  }
}

Axis ordinary_axis(int64_t outputs, int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return {int(outputs), 1, 0, int(size), int(stride), int(-padding), int(dilation), int(kernel), 0, 1};
}

// Output stride * i + phase takes the taps k with (phase + padding - k) a multiple of the stride, at input
// i + (phase + padding - k) / stride.
Axis transposed_axis(int64_t outputs, int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t phase) {
  const int64_t first_tap = (phase + padding) % stride;
  Axis axis{};
  axis.outputs = int(outputs > phase ? (outputs - phase - 1) / stride + 1 : 0);
  axis.step = int(stride);
  axis.first = int(phase);
  axis.in_size = int(size);
  axis.in_step = 1;
  axis.in_first = int((phase + padding - first_tap) / stride);
  axis.in_tap = -1;
  axis.taps = int(first_tap < kernel ? (kernel - first_tap - 1) / stride + 1 : 0);
  axis.first_tap = int(first_tap);
  axis.tap_step = int(stride);
  return axis;
}

void run(Params p, Type type, Stream stream) {
  const int64_t pixels = int64_t(p.images) * p.rows.outputs * p.columns.outputs;
  const int64_t blocks = ceil_div(pixels, kRows) * p.parts;
  require(blocks <= kMostBlocks, "conv_implicit: too many pixels for one launch");
  with_half_type(type, "conv_implicit",
                 [&](auto t) { launch(implicit_kernel<decltype(t)>, blocks, kThreads, kSharedBytes, stream, p); });
}

}  // namespace

void conv_implicit(const Convolution& conv, Stream stream) {
  const ConvSpec& s = conv.spec;
  Params p{};
  p.x = conv.x;
  p.residual = conv.residual;
  p.y = conv.y;
  p.weight = static_cast<const uint8_t*>(conv.weight);
  p.bias = conv.bias;
  p.images = static_cast<int>(conv.in.images);
  p.kernel_w = static_cast<int>(s.kernel_w);
  p.in_chunks = static_cast<int>(ceil_div(conv.in.channels, 8));
  p.weight_chunks = static_cast<int>(round_up(conv.in.channels, 16) / 8);
  p.depth_steps = static_cast<int>(ceil_div(conv.in.channels, kDepth));
  p.out_channels = static_cast<int>(conv.out.channels);
  p.out_padded = static_cast<int>(round_up(conv.out.channels, 16));
  p.parts = static_cast<int>(ceil_div(conv.out.channels, kColumns));
  p.edge = conv.edge;
  p.epilogue = make_epilogue(s);
  p.has_residual = s.residual != Residual::none;
  if (!conv.transposed) {
    p.rows = ordinary_axis(conv.out.height, conv.in.height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h);
    p.columns = ordinary_axis(conv.out.width, conv.in.width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w);
    return run(p, conv.type, stream);
  }
  for (int64_t a = 0; a < s.stride_h; ++a)
    for (int64_t b = 0; b < s.stride_w; ++b) {
      p.rows = transposed_axis(conv.out.height, conv.in.height, s.kernel_h, s.stride_h, s.pad_top, a);
      p.columns = transposed_axis(conv.out.width, conv.in.width, s.kernel_w, s.stride_w, s.pad_left, b);
      run(p, conv.type, stream);
    }
}

}  // namespace fr::cuda
