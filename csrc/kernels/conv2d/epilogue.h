// The end of every convolution: act(sum [+ r]) * scale [+ r], for a tile of pixels x vectors in registers.
#pragma once
#include "kernels/conv2d/conv2d.h"
#include "simd/levels.h"
#include "simd/math.h"
#include "simd/vec.h"

namespace fr::FR_ISA {

// Where a tile goes. Its vectors are consecutive channels; the last one may be cut by last_lanes.
struct Target {
  char* out;
  int64_t out_step;  // bytes from pixel to pixel
  const char* residual;
  int64_t residual_step;
  int64_t last_lanes;  // valid lanes of the last vector, 1..kWidth
  Element out_element, residual_element;
  Levels out_levels, residual_levels;  // where an element is u8
};

FR_INLINE const char* offset_by(const void* row, int64_t values, Element element) {
  return static_cast<const char*>(row) + values * element_bytes(element);
}

FR_INLINE Target target_at(const ConvSpec& spec, const ConvBand& band, int64_t row, int64_t x, int64_t channel,
                           int64_t last_lanes) {
  Target target;
  target.out_element = band.out_element;
  target.out_levels = band.out_levels;
  target.residual_levels = band.residual_levels;
  target.out =
      const_cast<char*>(offset_by(band.out[row], (x - band.out_begin) * band.out_pitch + channel, band.out_element));
  target.out_step = band.out_pitch * element_bytes(band.out_element);
  target.residual = nullptr;
  target.residual_step = 0;
  target.residual_element = band.residual_element;
  if (spec.residual != Residual::none) {
    target.residual =
        offset_by(band.residual[row], (x - band.residual_begin) * band.residual_pitch + channel, band.residual_element);
    target.residual_step = band.residual_pitch * element_bytes(band.residual_element);
  }
  target.last_lanes = last_lanes;
  return target;
}

template <class T, int kPixels, int kVectors>
FR_INLINE void add_residual_of(Vec (&sum)[kPixels][kVectors], const Target& target) {
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    const T* r = reinterpret_cast<const T*>(target.residual + m * target.residual_step);
    FR_UNROLL
    for (int n = 0; n + 1 < kVectors; ++n) sum[m][n] += load(r + n * kWidth);
    sum[m][kVectors - 1] += target.last_lanes == kWidth ? load(r + (kVectors - 1) * kWidth)
                                                        : load_partial(r + (kVectors - 1) * kWidth, target.last_lanes);
  }
}

template <int kPixels, int kVectors>
FR_INLINE void add_residual_levels(Vec (&sum)[kPixels][kVectors], const Target& target) {
  const Vec zero = broadcast(static_cast<float>(target.residual_levels.zero));
  const Vec scale = broadcast(target.residual_levels.scale);
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    const uint8_t* r = reinterpret_cast<const uint8_t*>(target.residual + m * target.residual_step);
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) {
      const bool whole = n + 1 < kVectors || target.last_lanes == kWidth;
      const Vec level = whole ? load_levels(r + n * kWidth) : load_levels_partial(r + n * kWidth, target.last_lanes);
      sum[m][n] += (level - zero) * scale;
    }
  }
}

template <int kPixels, int kVectors>
FR_INLINE void add_residual(Vec (&sum)[kPixels][kVectors], const Target& target) {
  if (target.residual_element == Element::f32)
    add_residual_of<float>(sum, target);
  else if (target.residual_element == Element::bf16)
    add_residual_of<Bf16>(sum, target);
  else
    add_residual_levels(sum, target);
}

template <class T, int kPixels, int kVectors>
FR_INLINE void store_tile(const Vec (&sum)[kPixels][kVectors], const Target& target) {
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    T* out = reinterpret_cast<T*>(target.out + m * target.out_step);
    constexpr int kLast = kVectors - 1;
    if (target.last_lanes == kWidth) {
      FR_UNROLL
      for (int n = 0; n + 1 < kVectors; n += 2) store(out + n * kWidth, sum[m][n], sum[m][n + 1]);
      if (kVectors % 2 == 1) store(out + kLast * kWidth, sum[m][kLast]);
      continue;
    }
    FR_UNROLL
    for (int n = 0; n < kLast; ++n) store(out + n * kWidth, sum[m][n]);
    store_partial(out + kLast * kWidth, sum[m][kLast], target.last_lanes);
  }
}

// Stores what is measured in levels, none below `least`.
template <int kPixels, int kVectors>
FR_INLINE void store_tile_levels(const Vec (&sum)[kPixels][kVectors], float least, const Target& target) {
  const Vec low = broadcast(least), high = broadcast(255.0f);
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    uint8_t* out = reinterpret_cast<uint8_t*>(target.out + m * target.out_step);
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) {
      const Vec level = limit(sum[m][n], low, high);
      if (n + 1 < kVectors || target.last_lanes == kWidth)
        store_levels(out + n * kWidth, level);
      else
        store_levels_partial(out + n * kWidth, level, target.last_lanes);
    }
  }
}

// In memory and in a loop: it takes long enough, and would be most of every kernel's code.
static __attribute__((noinline, unused)) void gelu_all(Vec* values, int count) {
  for (int i = 0; i < count; ++i) values[i] = gelu(values[i]);
}

// A stage that is not wanted costs one branch per tile, not one per vector.
template <int kPixels, int kVectors>
FR_INLINE void finish(Vec (&sum)[kPixels][kVectors], const ConvSpec& spec, const Target& target) {
  if (spec.residual == Residual::before_activation) add_residual(sum, target);
  if (spec.activation == Activation::relu) {
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) sum[m][n] = relu(sum[m][n]);
    }
  } else if (spec.activation == Activation::leaky_relu) {
    const Vec slope = broadcast(spec.slope);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) sum[m][n] = leaky_relu(sum[m][n], slope);
    }
  } else if (spec.activation == Activation::gelu) {
    Vec copy[kPixels][kVectors];  // sum itself stays in registers
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) copy[m][n] = sum[m][n];
    }
    gelu_all(copy[0], kPixels * kVectors);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) sum[m][n] = copy[m][n];
    }
  }
  if (spec.scale != 1.0f) {
    const Vec scale = broadcast(spec.scale);
    FR_UNROLL
    for (int m = 0; m < kPixels; ++m) {
      FR_UNROLL
      for (int n = 0; n < kVectors; ++n) sum[m][n] = sum[m][n] * scale;
    }
  }
  if (spec.residual == Residual::after_scale) add_residual(sum, target);
  if (target.out_element == Element::f32) return store_tile<float>(sum, target);
  if (target.out_element == Element::bf16) return store_tile<Bf16>(sum, target);
  const Vec inverse = broadcast(1.0f / target.out_levels.scale);
  const Vec zero = broadcast(static_cast<float>(target.out_levels.zero));
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    FR_UNROLL
    for (int n = 0; n < kVectors; ++n) sum[m][n] = fma(sum[m][n], inverse, zero);
  }
  store_tile_levels(sum, 0.0f, target);
}

}  // namespace fr::FR_ISA
