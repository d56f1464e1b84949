#include "engine/precision.h"

#include <stdexcept>

namespace fr {

const char* precision_name(Precision precision) { return precision == Precision::bfloat16 ? "bfloat16" : "float32"; }

Precision parse_precision(const std::string& name) {
  for (Precision precision : {Precision::float32, Precision::bfloat16})
    if (name == precision_name(precision)) return precision;
  throw std::invalid_argument("unknown precision '" + name + "': use float32 or bfloat16");
}

}  // namespace fr
