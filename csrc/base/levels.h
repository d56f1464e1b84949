// Images of 8 bits a value: level 0 to 255 stands for (level - zero) * scale. Values beyond are cut off; NaN, which has
// no level, becomes level 0. Static for the reason in half.h.
#pragma once
#include <cstdint>
#include <cstring>

namespace fr {

struct Levels {
  float scale = 1.0f;  // positive, and so that its inverse is finite
  int32_t zero = 0;    // the level of 0, within 0 to 255
};

[[maybe_unused]] static inline float level_to_float(uint8_t level, Levels levels) {
  return static_cast<float>(level - levels.zero) * levels.scale;
}

// Of a value measured in levels: to nearest even, by adding a number whose last binary place is 1.
[[maybe_unused]] static inline uint8_t nearest_level(float value) {
  value = value > 0.0f ? value : 0.0f;
  value = (value < 255.0f ? value : 255.0f) + 8388608.0f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint8_t>(bits);
}

}  // namespace fr
