// Convolution of bfloat16 images by the AMX matrix unit. A tile of products holds 16 neighbouring pixels x 16 output
// channels; of the input it takes 16 pixels x 32 channels as they lie in memory, of the weights 16 pairs of channels
// x 16 outputs. Each pixel's sum runs over kernel row, kernel column and channel pair, wherever its tile begins.
#define FR_ISA amx
#include "kernels/conv2d/amx_tiles.h"
#include "kernels/conv2d/simd_impl.h"

namespace fr::amx {
namespace {

constexpr int64_t kTileBytes = kTilePixels * 64;
constexpr int64_t kSums = 2 * kAmxPixels * kWidth;  // of a block

// Beside weights of more than these bytes, rows of the images do not stay in the second-level cache: the next ones are
// fetched while the matrix unit multiplies. 128 channels: 1.08 times as fast in DRUNet; 64 and 96 lose 3 %.
constexpr int64_t kFarRows = 1 << 18;
// Weights of more than these do not stay there while one block of pixels meets all of them: each pair of vectors of
// outputs is computed for some rows of pixels before the next pair's weights, fetched meanwhile, are read. 512 channels:
// 1.4 to 1.8 times as fast in this order, 1.15 times by fetching; 256: 1.1 to 1.2 times by both; below, the input would
// be read too often.
constexpr int64_t kManyWeights = int64_t{3} << 18;
constexpr int64_t kRowsBytes = 512 * 1024;  // of input, that pair after pair reads again

struct AddBias {
  const float* bias;

  template <int kPixels, int kOutputs>
  __attribute__((always_inline)) void operator()(Vec (&sum)[kPixels][kOutputs], const ConvSpec& spec,
                                                 const Target& target) const {
    FR_UNROLL
    for (int n = 0; n < kOutputs; ++n) {
      const Vec offset = load(bias + n * kWidth);
      FR_UNROLL
      for (int m = 0; m < kPixels; ++m) sum[m][n] += offset;
    }
    finish(sum, spec, target);
  }
};

// The input of a block of 32 output pixels, in bytes.
struct Input {
  const void* const* rows;  // kernel row ky is rows[ky * row_step], null: zeros
  int64_t row_step;
  int64_t first;                 // from the row's beginning to the first pixel's first tap
  int64_t tap_step, pixel_step;  // from tap to tap and from output pixel to output pixel
  int64_t depth;                 // of a tap
  int64_t end;                   // of the row; what lies beyond it, or before 0, is zero
};

struct TileSource {
  const char* at;
  int64_t step;  // from pixel to pixel
};

// Copies 16 pixels' bytes from `at` on, 64 each; zeros where there is no input.
__attribute__((noinline)) void copy_edge(const char* row, int64_t at, const Input& input, char* to) {
  for (int64_t i = 0; i < kTilePixels; ++i, at += input.pixel_step, to += 64)
    _mm512_store_si512(to, at >= 0 && at < input.end ? _mm512_loadu_si512(row + at) : _mm512_setzero_si512());
}

// Where a tile of 16 pixels is loaded from: the image, or a copy at its edges.
template <bool kInside>
FR_INLINE TileSource find_pixels(const Input& input, const char* row, int64_t at, char* copy) {
  if (kInside || (at >= 0 && at + (kTilePixels - 1) * input.pixel_step < input.end))
    return {row + at, input.pixel_step};
  copy_edge(row, at, input, copy);
  asm volatile("" ::: "memory");  // GCC 12 does not know that loading a tile reads memory
  return {copy, 64};
}

// Lines of memory that are wanted soon, and fetched while the matrix unit multiplies.
struct Lines {
  const char* at = nullptr;
  int64_t left = 0, step = 64;

  template <int kWrite, int kNear>
  __attribute__((always_inline)) void fetch() {
    if (left <= 0) return;
    __builtin_prefetch(at, kWrite, kNear);
    at += step;
    --left;
  }
};

// The next weights, the rows and columns that the next block adds to the input, where this block's results go, and
// what is added to them.
struct Ahead {
  Lines weights, input, out, residual;

  __attribute__((always_inline)) void fetch_some() {
    FR_UNROLL
    for (int line = 0; line < 4; ++line) weights.fetch<0, 2>();
    input.fetch<0, 2>();
    out.fetch<1, 3>();
    residual.fetch<0, 3>();
  }
};

// 2 tiles of pixels x kOutputs tiles of output channels: tiles 0 to 3 are sums, 4 and 5 inputs, 6 and 7 weights.
// weights_step: floats between the weights of one tile of outputs and the next. kFetch: what is in `ahead`.
template <int kOutputs, bool kInside, bool kFetch>
void multiply(const ConvSpec& spec, const Input& input, const float* weights, int64_t weights_step, float* sums,
              char* copies, Pending<AddBias>& pending, Ahead& ahead) {
  clear_sums<kOutputs>();
  const int64_t second = kTilePixels * input.pixel_step;
  for (int64_t ky = 0; ky < spec.kernel_h; ++ky) {
    const char* row = static_cast<const char*>(input.rows[ky * input.row_step]);
    if (row == nullptr) {
      weights += spec.kernel_w * input.depth / 64 * kTileFloats;
      continue;
    }
    for (int64_t kx = 0; kx < spec.kernel_w; ++kx) {
      const int64_t tap = input.first + kx * input.tap_step;
      for (int64_t at = tap; at < tap + input.depth; at += 64, weights += kTileFloats) {
        _tile_loadd(6, weights, 64);
        const TileSource left = find_pixels<kInside>(input, row, at, copies);
        _tile_loadd(4, left.at, left.step);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (kOutputs == 2) {
          _tile_loadd(7, weights + weights_step, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        const TileSource right = find_pixels<kInside>(input, row, at + second, copies + kTileBytes);
        _tile_loadd(5, right.at, right.step);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kOutputs == 2) _tile_dpbf16ps(3, 5, 7);
        finish_some(spec, pending);
        if constexpr (kFetch) ahead.fetch_some();
      }
    }
  }
  finish_all(spec, pending);
  store_sums<kOutputs>(sums);
}

// What the block after that at (row, x) reads of the lowest row of its input.
Lines next_input(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t x, int64_t pixel_bytes) {
  const bool same_row = x + kAmxPixels < band.x_end;
  if (!same_row && row + 1 == band.rows) return {};
  const int64_t lowest = (row + (same_row ? 0 : 1)) * spec.stride_h + (spec.kernel_h - 1) * spec.dilation_h;
  const char* begin = static_cast<const char*>(band.in[lowest]);
  const int64_t column = (same_row ? x + kAmxPixels : band.x_begin) * spec.stride_w - band.in_begin;
  const int64_t columns = min(kAmxPixels * spec.stride_w, band.in_end - band.in_begin - column);
  if (begin == nullptr || columns <= 0) return {};
  return {begin + column * pixel_bytes, (columns * pixel_bytes + 63) / 64};
}

template <bool kFetch>
auto choose_kernel(int64_t outputs, bool inside) {
  return outputs == 1 ? multiply<1, false, kFetch> : inside ? multiply<2, true, kFetch> : multiply<2, false, kFetch>;
}

void convolve(const PackedConv& packed, const ConvBand& band, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const int64_t depth = amx_pairs(spec), weights_step = spec.kernel_h * spec.kernel_w * depth * kWidth;
  const int64_t vectors = (spec.out_channels + kWidth - 1) / kWidth;
  const int64_t pixel_bytes = band.in_pitch * static_cast<int64_t>(sizeof(Bf16));
  Input input;
  input.row_step = spec.dilation_h;
  input.tap_step = spec.dilation_w * pixel_bytes;
  input.pixel_step = spec.stride_w * pixel_bytes;
  input.depth = depth * static_cast<int64_t>(sizeof(float));
  input.end = (band.in_end - band.in_begin) * pixel_bytes;
  float *const sums = workspace, *next = sums;  // those pending, and those being computed
  char* copies = reinterpret_cast<char*>(workspace + 2 * kSums);
  Pending<AddBias> pending;
  Ahead ahead;
  const int64_t weights_bytes = vectors * weights_step * static_cast<int64_t>(sizeof(float));
  const bool fetches = weights_bytes > kFarRows;
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
  const auto compute = [&](int64_t row, int64_t x, int64_t n) {
    input.rows = band.in + row * spec.stride_h;
    input.first = (x * spec.stride_w - spec.pad_left - band.in_begin) * pixel_bytes;
    const int64_t last = input.first + (kAmxPixels - 1) * input.pixel_step + (spec.kernel_w - 1) * input.tap_step;
    const bool inside = input.first >= 0 && last < input.end;
    next = next == sums ? sums + kSums : sums;
    const int64_t outputs = min(2, vectors - n), pixels = min(kAmxPixels, band.x_end - x);
    const int64_t lanes = min(kWidth, spec.out_channels - (n + outputs - 1) * kWidth);
    const Target target = target_at(spec, band, row, x, n * kWidth, lanes);
    if (fetches) {
      if (n == 0) ahead.input = next_input(spec, band, row, x, pixel_bytes);
      ahead.out = {target.out, pixels, target.out_step};
      ahead.residual = {target.residual, target.residual != nullptr ? pixels : 0, target.residual_step};
    }
    const auto kernel = fetches ? choose_kernel<true>(outputs, inside) : choose_kernel<false>(outputs, inside);
    kernel(spec, input, packed_weights(packed) + n * weights_step, weights_step, next, copies, pending, ahead);
    pending = {next, pixels, outputs, {packed_bias(packed) + n * kWidth}, target};
  };
  if (weights_bytes <= kManyWeights) {
    for (int64_t row = 0; row < band.rows; ++row)
      for (int64_t x = band.x_begin; x < band.x_end; x += kAmxPixels)
        for (int64_t n = 0; n < vectors; n += 2) compute(row, x, n);
  } else {
    const int64_t row_bytes = (band.x_end - band.x_begin) * spec.stride_w * spec.stride_h * pixel_bytes;
    const int64_t rows = kRowsBytes / row_bytes + 1;
    const int64_t pair_lines = 2 * weights_step * static_cast<int64_t>(sizeof(float)) / 64;
    for (int64_t first = 0; first < band.rows; first += rows)
      for (int64_t n = 0; n < vectors; n += 2) {
        const int64_t then = n + 2 < vectors ? n + 2 : 0;
        ahead.weights = {reinterpret_cast<const char*>(packed_weights(packed) + then * weights_step),
                         min(2, vectors - then) * pair_lines / 2};
        for (int64_t row = first; row < min(first + rows, band.rows); ++row)
          for (int64_t x = band.x_begin; x < band.x_end; x += kAmxPixels) compute(row, x, n);
      }
  }
  finish_all(spec, pending);
  _tile_release();
}

}  // namespace
}  // namespace fr::amx

void fr::conv2d_bf16_direct_amx(const PackedConv& packed, const ConvBand& band, float* workspace) {
  amx::convolve(packed, band, workspace);
}
