// IEEE half precision to float and back, bit for bit as F16C does it: to nearest even, NaN made quiet with the
// top of its payload kept. Static, so that each file has its own copy: the linker must not hand one that was
// compiled for AVX-512 to code that runs on an older CPU.
#pragma once
#include <cstdint>
#include <cstring>

namespace fr {

[[maybe_unused]] static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31, mantissa = half & 0x3ff;
  uint32_t bits;
  if (exponent == 31) {
    bits = 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0);
  } else if (exponent != 0) {
    bits = (exponent + 112) << 23 | mantissa << 13;
  } else {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;  // subnormal or zero: exact
    std::memcpy(&bits, &value, 4);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

[[maybe_unused]] static inline uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  uint32_t half;
  if (bits > 0x7f800000) {
    half = 0x7e00 | ((bits >> 13) & 0x3ff);
  } else if (bits >= 0x47800000) {  // 2^16 and more
    half = 0x7c00;
  } else if (bits >= 0x38800000) {  // normal; a carry out of the mantissa rightly raises the exponent, up to Inf
    half = (bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13;
  } else {
    // The sum's last place is 2^-24, that of a subnormal half, so the addition does the rounding.
    float sum;
    std::memcpy(&sum, &bits, 4);
    sum += 0.5f;
    std::memcpy(&half, &sum, 4);
    half -= 0x3f000000;
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace fr
