// Transcendental functions of a vector, to about 2 units in the last place of the float32 result. No table and no
// branch: every lane runs the same instructions, so a value gives the same bits wherever in a vector it stands.
// The polynomials are minimax fits of the stated function's relative error. NaN stays NaN.
#pragma once
#include "simd/vec.h"

namespace fr::FR_ISA {

typedef int32_t IntVec __attribute__((vector_size(kWidth * sizeof(int32_t))));

FR_INLINE IntVec bits_of(Vec v) { return (IntVec)v; }
FR_INLINE Vec float_of(IntVec v) { return (Vec)v; }
FR_INLINE Vec abs(Vec v) { return float_of(bits_of(v) & 0x7fffffff); }
FR_INLINE Vec copy_sign(Vec magnitude, Vec sign) {
  return float_of((bits_of(magnitude) & 0x7fffffff) | (bits_of(sign) & static_cast<int32_t>(0x80000000)));
}
FR_INLINE Vec at_least(Vec v, float low) { return larger(broadcast(low), v); }
FR_INLINE Vec at_most(Vec v, float high) { return smaller(broadcast(high), v); }

// x = n * ln2 + r with |r| <= ln2 / 2; n is a whole number.
struct Reduced {
  Vec n, r;
  IntVec integer;
};
FR_INLINE Reduced reduce(Vec x) {
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: in a sum with it, the last place is 1
  const Vec shifted = fma(x, broadcast(1.44269504f), magic);
  Reduced result;
  result.n = shifted - magic;
  result.integer = bits_of(shifted) - 0x4b400000;
  // ln2 in two parts; the first has few bits, so its product with n is exact without an fma too.
  result.r = fma(result.n, broadcast(-0.693359375f), x);
  result.r = fma(result.n, broadcast(2.12194440e-4f), result.r);
  return result;
}
// exp(r) - 1 - r for |r| <= ln2 / 2
FR_INLINE Vec exp_rest(Vec r) {
  Vec p = broadcast(0.00019790346f);
  p = fma(p, r, broadcast(0.001394466f));
  p = fma(p, r, broadcast(0.008333497f));
  p = fma(p, r, broadcast(0.041666295f));
  p = fma(p, r, broadcast(0.16666666f));
  p = fma(p, r, broadcast(0.5f));
  return p * (r * r);
}
FR_INLINE Vec power_of_two(IntVec n) { return float_of((n + 127) << 23); }  // n in [-126, 127]

FR_INLINE Vec exp(Vec x) {
  const Reduced part = reduce(at_least(at_most(x, 89.0f), -104.0f));
  const Vec one = broadcast(1.0f);
  const IntVec half = part.integer >> 1;  // 2^n in two factors: n may lie outside of what one float can hold
  return (one + (part.r + exp_rest(part.r))) * power_of_two(half) * power_of_two(part.integer - half);
}

// exp(x) for x <= 0, where e^-87 is nothing: half of exp's instructions.
FR_INLINE Vec exp_of_negative(Vec x) {
  const Vec low = at_least(x, -87.0f);
  const Vec magic = broadcast(12582912.0f + 127.0f);  // as reduce's; the last places hold the power's exponent
  const Vec shifted = fma(low, broadcast(1.44269504f), magic), n = shifted - magic;
  const Vec r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), low));
  return (broadcast(1.0f) + (r + exp_rest(r))) * float_of(bits_of(shifted) << 23);
}

// exp(x) - 1 for x <= 0, without cancellation near 0
FR_INLINE Vec expm1_of_negative(Vec x) {
  const Reduced part = reduce(at_least(x, -30.0f));
  const Vec scale = power_of_two(part.integer);
  return fma(scale, part.r + exp_rest(part.r), scale - broadcast(1.0f));
}

// log(1 + t) for t in [-0.5, 1]: 2 artanh(t / (2 + t))
FR_INLINE Vec log1p_of_unit(Vec t) {
  const Vec s = t / (t + broadcast(2.0f)), z = s * s;
  Vec p = broadcast(0.24289568f);
  p = fma(p, z, broadcast(0.21430737f));
  p = fma(p, z, broadcast(0.28616598f));
  p = fma(p, z, broadcast(0.3999889f));
  p = fma(p, z, broadcast(0.66666675f));
  return fma(p * z, s, s + s);
}

FR_INLINE Vec log(Vec x) {
  const Vec tiny = broadcast(1.17549435e-38f);  // below it the exponent's bits do not tell the size
  const Vec scaled = x < tiny ? x * broadcast(8388608.0f) : x;
  const Lanes bits = (Lanes)scaled;
  // scaled = m * 2^n with m from about sqrt(1/2) to sqrt(2): where x is near 1, n is 0 and nothing cancels.
  const IntVec n = (IntVec)(bits - 0x3f3504f3u) >> 23;
  const Vec exponent = __builtin_convertvector(n, Vec) - (x < tiny ? broadcast(23.0f) : Vec{});
  const Vec rest =
      fma(exponent, broadcast(-2.12194440e-4f), log1p_of_unit((Vec)(bits - ((Lanes)n << 23)) - broadcast(1.0f)));
  const Vec result = fma(exponent, broadcast(0.693359375f), rest);
  const Vec infinity = broadcast(__builtin_inff());
  const Vec special = x == Vec{} ? -infinity : x < Vec{} ? broadcast(__builtin_nanf("")) : x;  // infinity and NaN stay
  return x > Vec{} && x < infinity ? result : special;
}

FR_INLINE Vec log1p(Vec x) {
  const Vec one = broadcast(1.0f), sum = x + one;
  const Vec lost = (x - (sum - one)) / sum;  // by the sum's rounding; NaN where that is 0 or infinite
  const Vec result = log(sum);
  return lost == lost ? result + lost : result;
}

FR_INLINE Vec sqrt(Vec v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);  // GCC warns about _mm512_sqrt_ps itself
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#elif FR_X86
  return _mm_sqrt_ps(v);
#elif defined(__ARM_NEON)
  return vsqrtq_f32(v);
#else
  for (int i = 0; i < kWidth; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
#endif
}

FR_INLINE Vec sigmoid(Vec x) {
  const Vec one = broadcast(1.0f);
  return one / (one + exp(-x));
}

FR_INLINE Vec tanh(Vec x) {
  const Vec one = broadcast(1.0f), two = broadcast(2.0f), t = abs(x), z = x * x;
  Vec p = broadcast(-0.0057049785f);
  p = fma(p, z, broadcast(0.020639079f));
  p = fma(p, z, broadcast(-0.05373971f));
  p = fma(p, z, broadcast(0.13331442f));
  p = fma(p, z, broadcast(-0.3333328f));
  const Vec small = fma(p * z, x, x), large = one - two / (exp(t + t) + one);
  return t < broadcast(0.625f) ? small : copy_sign(large, x);
}

FR_INLINE Vec erf(Vec x) {
  const Vec t = abs(x), z = x * x;
  Vec p = broadcast(-0.00059642526f);
  p = fma(p, z, broadcast(0.004988004f));
  p = fma(p, z, broadcast(-0.026763124f));
  p = fma(p, z, broadcast(0.11281721f));
  p = fma(p, z, broadcast(-0.37612486f));
  p = fma(p, z, broadcast(0.12837915f));
  const Vec small = fma(p, x, x);
  const Vec u = at_most(t, 4.0f);  // beyond, the result is 1; log(erfc(u)) = u * q(u)
  Vec q = broadcast(-1.1231466e-05f);
  q = fma(q, u, broadcast(0.0003228054f));
  q = fma(q, u, broadcast(-0.003642465f));
  q = fma(q, u, broadcast(0.023762075f));
  q = fma(q, u, broadcast(-0.10623689f));
  q = fma(q, u, broadcast(-0.6351513f));
  q = fma(q, u, broadcast(-1.1286485f));
  const Vec large = broadcast(1.0f) - exp_of_negative(q * u);
  return t < broadcast(0.925f) ? small : copy_sign(large, x);
}

FR_INLINE Vec gelu(Vec x) {
  const Vec half = broadcast(0.5f);
  return x * fma(half, erf(x * broadcast(0.707106781f)), half);
}

}  // namespace fr::FR_ISA
