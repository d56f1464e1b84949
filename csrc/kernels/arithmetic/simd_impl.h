// The loops of every instruction set. A pixel's last channels take the same path in a vector with idle lanes.
#include "kernels/arithmetic/arithmetic.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

FR_INLINE Vec read(const float* data, int64_t count) {
  return count == kWidth ? load(data) : load_partial(data, count);
}

// function(pixel, first channel, lanes) gives a vector of the result.
template <class F>
FR_INLINE void each(float* out, int64_t out_pitch, int64_t channels, int64_t pixels, F function) {
  for (int64_t x = 0; x < pixels; ++x) {
    float* pixel = out + x * out_pitch;
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) store(pixel + c, function(x, c, kWidth));
    if (c < channels) store_partial(pixel + c, function(x, c, channels - c), channels - c);
  }
}

void affine(const float* scale, const float* shift, int64_t period, const Operand& in, float* out, int64_t out_pitch,
            int64_t channels, int64_t pixels) {
  int64_t p = 0;
  each(out, out_pitch, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    if (c == 0 || p >= period) p = 0;
    const Vec result = fma(read(in.data + x * in.pitch + c, lanes), read(scale + p, lanes), read(shift + p, lanes));
    p += kWidth;
    return result;
  });
}

void multiply(const Operand& a, const Operand& b, float* out, int64_t out_pitch, int64_t channels, int64_t pixels) {
  const Operand& one = a.single ? a : b;
  const Operand& all = a.single ? b : a;
  if (one.single)
    each(out, out_pitch, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
      return read(all.data + x * all.pitch + c, lanes) * broadcast(one.data[x * one.pitch]);
    });
  else
    each(out, out_pitch, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
      return read(a.data + x * a.pitch + c, lanes) * read(b.data + x * b.pitch + c, lanes);
    });
}

void add(float scale_a, const Operand& a, float scale_b, const Operand& b, float* out, int64_t out_pitch,
         int64_t channels, int64_t pixels) {
  const Vec scale_of_a = broadcast(scale_a), scale_of_b = broadcast(scale_b);
  each(out, out_pitch, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    return scale_of_a * read(a.data + x * a.pitch + c, lanes) + scale_of_b * read(b.data + x * b.pitch + c, lanes);
  });
}

constexpr ArithmeticKernels kernels = {affine, multiply, add};

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
