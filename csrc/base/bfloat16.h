// bfloat16, the upper half of a float: conversions to nearest even, NaN made quiet. Static for the reason in half.h.
#pragma once
#include <cstdint>
#include <cstring>

namespace fr {

enum class Element : int32_t { f32, bf16, u8 };  // how an image's values lie in memory; u8: as levels (levels.h)

constexpr int64_t element_bytes(Element element) {
  return element == Element::f32 ? 4 : element == Element::bf16 ? 2 : 1;
}

struct Bf16 {
  uint16_t bits;
};

[[maybe_unused]] static inline float bf16_to_float(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

[[maybe_unused]] static inline Bf16 float_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  bits = is_nan ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}

// Either of the two that kernels are written for.
[[maybe_unused]] static inline float to_float(float value) { return value; }
[[maybe_unused]] static inline float to_float(Bf16 value) { return bf16_to_float(value); }
[[maybe_unused]] static inline void put(float value, float* to) { *to = value; }
[[maybe_unused]] static inline void put(float value, Bf16* to) { *to = float_to_bf16(value); }

}  // namespace fr
