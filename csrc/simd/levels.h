// Vectors of levels (base/levels.h): bytes in memory, floats that count levels in registers.
#pragma once
#include "simd/vec.h"

namespace fr::FR_ISA {

typedef uint8_t ByteLanes __attribute__((vector_size(kWidth)));
typedef uint8_t UnalignedByteLanes __attribute__((vector_size(kWidth), aligned(1), may_alias));
typedef int32_t IntLanes __attribute__((vector_size(kWidth * 4)));

FR_INLINE Vec load_levels(const uint8_t* p) {
  const ByteLanes bytes = *reinterpret_cast<const UnalignedByteLanes*>(p);
  return __builtin_convertvector(__builtin_convertvector(bytes, IntLanes), Vec);
}

FR_INLINE Vec load_levels_partial(const uint8_t* p, int64_t count) {
  Vec lanes = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = static_cast<float>(p[i]);
  return lanes;
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

// Of floats within [0, 255]: to nearest even.
FR_INLINE ByteLanes nearest_levels(Vec v) {
  typedef uint32_t Bits __attribute__((vector_size(kWidth * 4)));
  return __builtin_convertvector(reinterpret_cast<Bits>(v + 8388608.0f), ByteLanes);
}

FR_INLINE void store_levels(uint8_t* p, Vec v) { *reinterpret_cast<UnalignedByteLanes*>(p) = nearest_levels(v); }

FR_INLINE void store_levels_partial(uint8_t* p, Vec v, int64_t count) {
  const ByteLanes lanes = nearest_levels(v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

}  // namespace fr::FR_ISA
