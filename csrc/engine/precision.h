#pragma once
#include <cstdint>
#include <string>

namespace fr {

// Of intermediate images and of products; sums are float32. int8: as bfloat16, but for the images that are levels.
enum class Precision : int32_t { float32, bfloat16, int8 };

const char* precision_name(Precision precision);
Precision parse_precision(const std::string& name);  // throws std::invalid_argument for an unknown name

}  // namespace fr
