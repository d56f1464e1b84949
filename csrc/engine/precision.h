#pragma once
#include <cstdint>
#include <string>

namespace fr {

enum class Precision : int32_t { float32, bfloat16 };  // of intermediate images and of products; sums are float32

const char* precision_name(Precision precision);
Precision parse_precision(const std::string& name);  // throws std::invalid_argument for an unknown name

}  // namespace fr
