// Single values of the kernels' types, on the host.
#pragma once
#include <cstring>

#include "base/bfloat16.h"
#include "base/half.h"
#include "cuda/kernels.h"

namespace fr::cuda {

inline void store_value(Type type, float value, uint8_t* to) {
  if (type == Type::f32) {
    std::memcpy(to, &value, 4);
    return;
  }
  const uint16_t bits = type == Type::f16 ? float_to_half(value) : float_to_bf16(value).bits;
  std::memcpy(to, &bits, 2);
}

inline float load_value(Type type, const uint8_t* from) {
  float value = 0.0f;
  uint16_t bits = 0;
  std::memcpy(type == Type::f32 ? static_cast<void*>(&value) : &bits, from, static_cast<size_t>(type_bytes(type)));
  return type == Type::f32 ? value : type == Type::f16 ? half_to_float(bits) : bf16_to_float({bits});
}

}  // namespace fr::cuda
