// Rows become columns, in registers.
#pragma once
#include <utility>

#include "simd/vec.h"

namespace fr::FR_ISA {

typedef int32_t Places __attribute__((vector_size(kWidth * sizeof(int32_t))));

// Where a lane of a pair of vectors comes from when their squares of `step` lanes beside the diagonal change places:
// below kWidth in the first, from there on in the second.
constexpr int place(int step, bool second, int lane) {
  const bool right = (lane & step) != 0;
  return second ? (right ? lane + kWidth : lane + step) : (right ? lane - step + kWidth : lane);
}

template <int kStep, bool kSecond, int... kLanes>
FR_INLINE Vec mix(Vec a, Vec b, std::integer_sequence<int, kLanes...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, place(kStep, kSecond, kLanes)...);
#else
  return __builtin_shuffle(a, b, Places{place(kStep, kSecond, kLanes)...});
#endif
}

template <int kStep>
FR_INLINE void exchange(Vec (&rows)[kWidth]) {
  using Lanes = std::make_integer_sequence<int, kWidth>;
  FR_UNROLL
  for (int i = 0; i < kWidth; ++i) {
    if (i & kStep) continue;
    const Vec a = rows[i], b = rows[i + kStep];
    rows[i] = mix<kStep, false>(a, b, Lanes());
    rows[i + kStep] = mix<kStep, true>(a, b, Lanes());
  }
}

// rows[i][j] and rows[j][i] change places: one instruction a vector and halving.
FR_INLINE void turn(Vec (&rows)[kWidth]) {
  exchange<1>(rows);
  exchange<2>(rows);
  if constexpr (kWidth > 4) exchange<4>(rows);
  if constexpr (kWidth > 8) exchange<8>(rows);
}

}  // namespace fr::FR_ISA
