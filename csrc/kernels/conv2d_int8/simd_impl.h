// Direct convolution of levels, shared by every instruction set: the tiles of conv2d/simd_impl.h with a float's place
// holding a cell, of 4 bytes or of 2 numbers of 16 bits, and sums being integers. Instruction sets without exact
// products of bytes (AVX2's saturate) widen them to 16 bits on the way through the patch. Integer sums know no order.
#pragma once
#include "kernels/conv2d/simd_impl.h"
#include "kernels/conv2d_int8/conv2d_int8.h"
#include "simd/levels.h"

namespace fr::FR_ISA {

FR_INLINE Vec integers_to_floats(Vec v) { return __builtin_convertvector(reinterpret_cast<IntLanes>(v), Vec); }
FR_INLINE Vec add_integers(Vec a, Vec b) {
  return reinterpret_cast<Vec>(reinterpret_cast<IntLanes>(a) + reinterpret_cast<IntLanes>(b));
}

// a: signed, b: levels.
#if defined(__AVX512VNNI__)
struct Int8Quads {
  static constexpr int64_t kParts = 4;
  FR_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
    // Of the intrinsic GCC 12 keeps the sums on the stack.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
    return sum;
  }
};
#endif

struct Int16Pairs {
  static constexpr int64_t kParts = 2;
  FR_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
#if defined(__AVX512BW__)
    const __m512i both = _mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#elif defined(__AVX2__)
    const __m256i both = _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b));
#elif FR_X86
    const __m128i both = _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b));
#else
    const IntLanes x = reinterpret_cast<IntLanes>(a), y = reinterpret_cast<IntLanes>(b);
    const IntLanes both = (x >> 16) * (y >> 16) + ((x << 16) >> 16) * ((y << 16) >> 16);
#endif
    return add_integers(reinterpret_cast<Vec>(both), sum);
  }
};

// How the sums of one row and block of channels become results: sum * factor + offset, which counts levels of the
// output if nothing but a ReLU follows.
struct Factors {
  float* values;  // a block's factors, then its offsets
  bool levels;
  float least;  // level
};

FR_INLINE Factors make_factors(const PackedConv& packed, const ConvBand& band, int64_t row, int64_t first,
                               int64_t vectors, float* values) {
  const ConvSpec& spec = packed.spec;
  const int64_t lanes = (spec.out_channels + kWidth - 1) / kWidth * kWidth;
  const bool levels = band.out_element == Element::u8 && spec.residual == Residual::none &&
                      (spec.activation == Activation::none || spec.activation == Activation::relu) &&
                      spec.scale == 1.0f;
  const float zero = static_cast<float>(band.out_levels.zero);
  const Vec inverse = broadcast(1.0f / band.out_levels.scale);
  for (int64_t n = 0; n < vectors; ++n) {
    const float* bias = packed_bias(packed) + (first + n) * kWidth;
    Vec factor = load(bias + lanes), offset = load(bias), zeros = {};
    for (int64_t ky = 0; packed.in_levels.zero != 0 && ky < spec.kernel_h; ++ky)
      if (band.in[row * spec.stride_h + ky * spec.dilation_h] != nullptr)
        zeros = add_integers(zeros, load(bias + (2 + ky) * lanes));
    offset = fma(integers_to_floats(zeros), factor, offset);
    store(values + n * kWidth, levels ? factor * inverse : factor);
    store(values + (vectors + n) * kWidth, levels ? fma(offset, inverse, broadcast(zero)) : offset);
  }
  return {values, levels, spec.activation == Activation::relu ? zero : 0.0f};
}

template <int kPixels, int kVectors>
FR_INLINE void finish_sums(Vec (&sum)[kPixels][kVectors], const ConvSpec& spec, const Factors& factors,
                           const Target& target) {
  FR_UNROLL
  for (int n = 0; n < kVectors; ++n) {
    const Vec factor = load(factors.values + n * kWidth), offset = load(factors.values + (kVectors + n) * kWidth);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) sum[m][n] = fma(integers_to_floats(sum[m][n]), factor, offset);
  }
  if (factors.levels)
    store_tile_levels(sum, factors.least, target);
  else
    finish(sum, spec, target);
}

// Copies the input columns of `pixels` outputs from output column x on as numbers of type T, `zero` where there is
// none.
template <class T>
void fill_levels(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t x, int64_t pixels, uint8_t zero,
                 float* patch) {
  const int64_t columns = patch_columns(spec, pixels), depth = int8_depth(spec);
  const int64_t first = x * spec.stride_w - spec.pad_left;
  typedef T Lanes16 __attribute__((vector_size(16 * sizeof(T)), aligned(2), may_alias));
  typedef uint8_t Bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
  T* to = reinterpret_cast<T*>(patch);
  for (int64_t ky = 0; ky < spec.kernel_h; ++ky) {
    const uint8_t* in = static_cast<const uint8_t*>(band.in[row * spec.stride_h + ky * spec.dilation_h]);
    if (in == nullptr) {
      to += columns * depth;
      continue;
    }
    for (int64_t i = 0; i < columns; ++i, to += depth) {
      const int64_t column = first + i;
      const bool inside = column >= band.in_begin && column < band.in_end;
      const uint8_t* pixel = in + (column - band.in_begin) * band.in_pitch;
      int64_t c = 0;
      for (; inside && c + 16 <= spec.in_channels; c += 16)
        *reinterpret_cast<Lanes16*>(to + c) =
            __builtin_convertvector(*reinterpret_cast<const Bytes16*>(pixel + c), Lanes16);
      for (; c < depth; ++c) to[c] = inside && c < spec.in_channels ? pixel[c] : zero;
    }
  }
}

template <class Math, int kPixels, int kVectors>
__attribute__((noinline)) void int8_tile(const ConvSpec& spec, const Window& window, const float* weights,
                                         const Factors& factors, const Target& target) {
  Vec sum[kPixels][kVectors] = {};
  const int64_t run_weights = window.run_length * kVectors * kWidth;
  for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
    const float* row = window_row(window, ky);
    if (row != nullptr)
      for (int64_t run = 0; run < window.runs; ++run)
        accumulate<Math>(sum, row + run * window.run_step, window.pixel_stride, weights + run * run_weights,
                         window.run_length);
    weights += window.runs * run_weights;
  }
  finish_sums(sum, spec, factors, target);
}

template <class Math, int kVectors>
FR_INLINE void run_int8_tile(int64_t pixels, const ConvSpec& spec, const Window& window, const float* weights,
                             const Factors& factors, const Target& target) {
  with_pixels<tile_pixels(kVectors)>(pixels, [&](auto count) __attribute__((always_inline)) {
    int8_tile<Math, decltype(count)::kCount, kVectors>(spec, window, weights, factors, target);
  });
}

template <class Math>
FR_INLINE void run_int8_tile(int64_t pixels, int64_t vectors, const ConvSpec& spec, const Window& window,
                             const float* weights, const Factors& factors, const Target& target) {
  if constexpr (kMaxVectors == 4) {
    if (vectors == 4) return run_int8_tile<Math, 4>(pixels, spec, window, weights, factors, target);
    if (vectors == 3) return run_int8_tile<Math, 3>(pixels, spec, window, weights, factors, target);
  }
  if (vectors == 2) return run_int8_tile<Math, 2>(pixels, spec, window, weights, factors, target);
  run_int8_tile<Math, 1>(pixels, spec, window, weights, factors, target);
}

// The band with cells in the places of floats, to be read in place (Element::f32) if bytes are cells and pixels have no
// gaps.
template <class Math>
FR_INLINE ConvBand band_of_cells(const ConvSpec& spec, const ConvBand& band) {
  ConvBand cells = band;
  cells.in_pitch /= Math::kParts;
  cells.in_element = Math::kParts == 4 && band.in_pitch == int8_depth(spec) ? Element::f32 : Element::u8;
  return cells;
}

template <class Math>
[[maybe_unused]] void convolve_int8(const PackedConv& packed, const ConvBand& band, float* workspace) {
  const ConvSpec& spec = packed.spec;
  const ConvBand cells = band_of_cells<Math>(spec, band);
  const int64_t pixel_cells = int8_depth(spec) / Math::kParts;
  const int64_t products = spec.kernel_h * spec.kernel_w * pixel_cells;
  const int64_t vectors = (spec.out_channels + kWidth - 1) / kWidth;
  const int64_t blocks = channel_block_count(vectors, kMaxVectors);
  const uint8_t zero = static_cast<uint8_t>(packed.in_levels.zero);
  const float* weights = packed_weights(packed);
  float* patch = workspace + 2 * vectors * kWidth;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = channel_block_begin(vectors, blocks, block);
    const int64_t size = channel_block_begin(vectors, blocks, block + 1) - first;
    const int64_t last_lanes = min(kWidth, spec.out_channels - (first + size - 1) * kWidth);
    for (int64_t row = 0; row < band.rows; ++row) {
      const Factors factors = make_factors(packed, band, row, first, size, workspace);
      for_each_block(
          spec, cells, row, tile_pixels(size), 0, pixel_cells, patch,
          [&](int64_t x, int64_t pixels, const Window& window) {
            run_int8_tile<Math>(pixels, size, spec, window, weights, factors,
                                target_at(spec, band, row, x, first * kWidth, last_lanes));
          },
          [&](int64_t x, int64_t pixels) {
            if constexpr (Math::kParts == 4)
              fill_levels<uint8_t>(spec, band, row, x, pixels, zero, patch);
            else
              fill_levels<int16_t>(spec, band, row, x, pixels, zero, patch);
          });
    }
    weights += products * size * kWidth;
  }
}

}  // namespace fr::FR_ISA
