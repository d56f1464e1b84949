// One vector of floats per instruction set, with the same members everywhere. Include it from a file that
// is compiled for one instruction set and defines FR_ISA (baseline, avx2, avx512): all names live in the
// namespace fr::FR_ISA and have internal linkage, so that no object hands its instructions to another.
// For the same reason such files use no inline functions of other headers or of the standard library.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"

#ifndef FR_ISA
#error "define FR_ISA before including simd/vec.h"
#endif
#if FR_X86
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define FR_INLINE static inline __attribute__((always_inline))
#define FR_UNROLL _Pragma("GCC unroll 40")

namespace fr::FR_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats in a vector
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kWidth = 4;
constexpr int kRegisters = 32;
#else
constexpr int kWidth = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vec __attribute__((vector_size(kWidth * sizeof(float))));
typedef float UnalignedVec __attribute__((vector_size(kWidth * sizeof(float)), aligned(4), may_alias));

FR_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
FR_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

FR_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
FR_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
FR_INLINE Vec broadcast(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#else
  return Vec{value, value, value, value};
#endif
}

// The first `count` lanes, 0 <= count <= kWidth; the rest are zero, and memory beyond them is not touched.
FR_INLINE Vec load_partial(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  float lanes[kWidth] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
#endif
}

FR_INLINE void store_partial(float* p, Vec v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
#else
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
#endif
}

// bfloat16 in memory, float in registers.
typedef uint16_t HalfLanes __attribute__((vector_size(kWidth * 2)));
typedef uint16_t UnalignedHalfLanes __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));
typedef uint32_t Lanes __attribute__((vector_size(kWidth * 4)));

// The first `count` lanes of v, 0 <= count <= kWidth, and zeros.
FR_INLINE Vec first_lanes(Vec v, int64_t count) {
#if defined(__AVX512F__)
  return _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << count) - 1), v);
#else
  Lanes lane;
  FR_UNROLL
  for (int i = 0; i < kWidth; ++i) lane[i] = static_cast<uint32_t>(i);
  return reinterpret_cast<Vec>(reinterpret_cast<Lanes>(v) &
                               reinterpret_cast<Lanes>(lane < static_cast<uint32_t>(count)));
#endif
}

FR_INLINE Vec widen(HalfLanes v) { return reinterpret_cast<Vec>(__builtin_convertvector(v, Lanes) << 16); }
FR_INLINE HalfLanes narrow(Vec v) {  // to nearest even; the instruction takes subnormals for zero
#if defined(__AVX512BF16__)
  return reinterpret_cast<HalfLanes>(_mm512_cvtneps_pbh(v));
#else
  const Lanes bits = reinterpret_cast<Lanes>(v);
  const Lanes rounded = v == v ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
  return __builtin_convertvector(rounded >> 16, HalfLanes);
#endif
}

FR_INLINE Vec load(const Bf16* p) { return widen(*reinterpret_cast<const UnalignedHalfLanes*>(p)); }
FR_INLINE void store(Bf16* p, Vec v) { *reinterpret_cast<UnalignedHalfLanes*>(p) = narrow(v); }
// Two neighbouring vectors.
FR_INLINE void store(float* p, Vec a, Vec b) {
  store(p, a);
  store(p + kWidth, b);
}
FR_INLINE void store(Bf16* p, Vec a, Vec b) {
#if defined(__AVX512BF16__)
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));  // a whole cache line at once
#else
  store(p, a);
  store(p + kWidth, b);
#endif
}
FR_INLINE Vec load_partial(const Bf16* p, int64_t count) {
#if defined(__AVX512F__)
  return widen(reinterpret_cast<HalfLanes>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p)));
#else
  HalfLanes lanes = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i].bits;
  return widen(lanes);
#endif
}
FR_INLINE void store_partial(Bf16* p, Vec v, int64_t count) {
  const HalfLanes lanes = narrow(v);
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), reinterpret_cast<__m256i>(lanes));
#else
  for (int64_t i = 0; i < count; ++i) p[i].bits = lanes[i];
#endif
}

// a * b + c, rounded once where the instruction set can (x86 without FMA rounds the product too).
FR_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

// How kernels multiply: floats one by one, or pairs of bfloat16 (each a float's place in memory), whose two products
// are added to a float sum.
struct Floats {
  FR_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};
#if defined(__AVX512BF16__)
struct Bf16Pairs {
  FR_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#endif

// The second where either is NaN, which is what the x86 instructions return.
FR_INLINE Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(0xffff, a, b);  // GCC warns about _mm512_max_ps itself
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif FR_X86
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}
FR_INLINE Vec smaller(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif FR_X86
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

FR_INLINE Vec relu(Vec v) { return larger(Vec{}, v); }  // keeps NaN

FR_INLINE Vec leaky_relu(Vec v, Vec slope) { return v < Vec{} ? v * slope : v; }

// The sum of all lanes, in one fixed order: halves are added until one lane is left.
FR_INLINE float sum(Vec v) {
#if defined(__AVX512F__)
  alignas(64) float lanes[kWidth];  // GCC 12 warns about its own header for the instruction that extracts a half
  store(lanes, v);
  const __m256 eight = _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 8));
#elif defined(__AVX2__)
  const __m256 eight = v;
#endif
#if defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

}  // namespace fr::FR_ISA
