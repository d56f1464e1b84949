// Vectors of levels (base/levels.h): bytes in memory, floats that count levels in registers.
#pragma once
#include "simd/vec.h"

namespace fr::FR_ISA {

typedef int32_t IntLanes __attribute__((vector_size(kWidth * 4)));

// GCC 12 takes a vector apart to make bytes of it or of bytes, hence the instructions by name.
FR_INLINE Vec load_levels(const uint8_t* p) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const IntLanes levels = reinterpret_cast<IntLanes>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const IntLanes levels = reinterpret_cast<IntLanes>(_mm256_cvtepu8_epi32(bytes));
#else
  const IntLanes levels = {p[0], p[1], p[2], p[3]};
#endif
  return __builtin_convertvector(levels, Vec);
}

// The first `count` lanes, 0 <= count <= kWidth; memory beyond them is not touched.
FR_INLINE Vec load_levels_partial(const uint8_t* p, int64_t count) {
  uint8_t lanes[kWidth] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load_levels(lanes);
}

// Limits to [low, high]; NaN becomes low.
FR_INLINE Vec limit(Vec v, Vec low, Vec high) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xffff, _mm512_maskz_max_ps(0xffff, v, low), high);
#elif defined(__AVX2__)
  return _mm256_min_ps(_mm256_max_ps(v, low), high);
#elif FR_X86
  return _mm_min_ps(_mm_max_ps(v, low), high);
#else
  v = v > low ? v : low;
  return v < high ? v : high;
#endif
}

// Of floats within [0, 255]: to nearest even, by adding a number whose last binary place is 1.
FR_INLINE void store_levels(uint8_t* p, Vec v) {
  v += 8388608.0f;
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(v)));
#elif FR_X86
  typedef uint32_t Bits __attribute__((vector_size(kWidth * 4)));
  const Bits levels = reinterpret_cast<Bits>(v) & 0xff;
#if defined(__AVX2__)
  const __m256i both = reinterpret_cast<__m256i>(levels);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
#else
  const __m128i words = _mm_packs_epi32(reinterpret_cast<__m128i>(levels), reinterpret_cast<__m128i>(levels));
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  __builtin_memcpy(p, &bytes, sizeof(bytes));
#endif
#else
  const IntLanes bits = reinterpret_cast<IntLanes>(v);
  for (int i = 0; i < kWidth; ++i) p[i] = static_cast<uint8_t>(bits[i]);
#endif
}

FR_INLINE void store_levels_partial(uint8_t* p, Vec v, int64_t count) {
  uint8_t lanes[kWidth];
  store_levels(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

}  // namespace fr::FR_ISA
