// The loops of every instruction set. A pixel's last channels take the same path in a vector with idle lanes.
#include "kernels/arithmetic/arithmetic.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

template <class T>
FR_INLINE Vec read(const T* data, int64_t count) {
  return count == kWidth ? load(data) : load_partial(data, count);
}

// function(pixel, first channel, lanes) gives a vector of the result.
template <class T, class F>
FR_INLINE void each(const Result& out, int64_t channels, int64_t pixels, F function) {
  for (int64_t x = 0; x < pixels; ++x) {
    T* pixel = static_cast<T*>(out.data) + x * out.pitch;
    int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) store(pixel + c, function(x, c, kWidth));
    if (c < channels) store_partial(pixel + c, function(x, c, channels - c), channels - c);
  }
}

// body(T()) for the type of the element.
template <class Body>
FR_INLINE void with_type(Element element, const Body& body) {
  element == Element::bf16 ? body(Bf16()) : body(float());
}

void affine(const float* scale, const float* shift, int64_t period, const Operand& in, const Result& out,
            int64_t channels, int64_t pixels) {
  const float* data = static_cast<const float*>(in.data);
  int64_t p = 0;
  each<float>(out, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    if (c == 0 || p >= period) p = 0;
    const Vec result = fma(read(data + x * in.pitch + c, lanes), read(scale + p, lanes), read(shift + p, lanes));
    p += kWidth;
    return result;
  });
}

template <class T, class A, class B>
void multiply_all(const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels) {
  const A* left = static_cast<const A*>(a.data);
  const B* right = static_cast<const B*>(b.data);
  each<T>(out, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    return read(left + x * a.pitch + c, lanes) * read(right + x * b.pitch + c, lanes);
  });
}

template <class T, class A, class B>
void multiply_by_one(const Operand& all, const Operand& one, const Result& out, int64_t channels, int64_t pixels) {
  const A* left = static_cast<const A*>(all.data);
  const B* right = static_cast<const B*>(one.data);
  each<T>(out, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    return read(left + x * all.pitch + c, lanes) * broadcast(to_float(right[x * one.pitch]));
  });
}

void multiply(const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels) {
  const Operand& left = a.single ? b : a;
  const Operand& right = a.single ? a : b;
  with_type(out.element, [&](auto t) {
    with_type(left.element, [&](auto l) {
      with_type(right.element, [&](auto r) {
        (right.single ? multiply_by_one<decltype(t), decltype(l), decltype(r)>
                      : multiply_all<decltype(t), decltype(l), decltype(r)>)(left, right, out, channels, pixels);
      });
    });
  });
}

template <class T, class A, class B>
void add_all(float scale_a, const Operand& a, float scale_b, const Operand& b, const Result& out, int64_t channels,
             int64_t pixels) {
  const Vec scale_of_a = broadcast(scale_a), scale_of_b = broadcast(scale_b);
  const A* left = static_cast<const A*>(a.data);
  const B* right = static_cast<const B*>(b.data);
  each<T>(out, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    return scale_of_a * read(left + x * a.pitch + c, lanes) + scale_of_b * read(right + x * b.pitch + c, lanes);
  });
}

void add(float scale_a, const Operand& a, float scale_b, const Operand& b, const Result& out, int64_t channels,
         int64_t pixels) {
  with_type(out.element, [&](auto t) {
    with_type(a.element, [&](auto l) {
      with_type(b.element, [&](auto r) {
        add_all<decltype(t), decltype(l), decltype(r)>(scale_a, a, scale_b, b, out, channels, pixels);
      });
    });
  });
}

FR_INLINE Vec values(const Operand& in, int64_t x, int64_t c, int64_t lanes) {
  const float* pixel = static_cast<const float*>(in.data) + x * in.pitch;
  return in.single ? broadcast(*pixel) : read(pixel + c, lanes);
}

template <class F>
FR_INLINE void combine_by(const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels,
                          F function) {
  each<float>(out, channels, pixels, [&](int64_t x, int64_t c, int64_t lanes) __attribute__((always_inline)) {
    return function(values(a, x, c, lanes), values(b, x, c, lanes));
  });
}

void combine(Formula formula, const Operand& a, const Operand& b, const Result& out, int64_t channels, int64_t pixels) {
  switch (formula) {
    case Formula::divide:
      return combine_by(a, b, out, channels, pixels, [](Vec v, Vec w) { return v / w; });
    case Formula::minimum:
      return combine_by(a, b, out, channels, pixels, [](Vec v, Vec w) { return w < v ? w : w == w ? v : w; });
    case Formula::maximum:
      return combine_by(a, b, out, channels, pixels, [](Vec v, Vec w) { return w > v ? w : w == w ? v : w; });
    case Formula::above:
      return combine_by(a, b, out, channels, pixels, [](Vec v, Vec w) { return v > w ? broadcast(1.0f) : Vec{}; });
  }
}

constexpr ArithmeticKernels kernels = {affine, multiply, add, combine};

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
