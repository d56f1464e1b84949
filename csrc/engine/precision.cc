#include "engine/precision.h"

#include <stdexcept>

namespace fr {

const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::bfloat16:
      return "bfloat16";
    case Precision::int8:
      return "int8";
    case Precision::float32:
      break;
  }
  return "float32";
}

Precision parse_precision(const std::string& name) {
  for (Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8})
    if (name == precision_name(precision)) return precision;
  throw std::invalid_argument("unknown precision '" + name + "': use float32, bfloat16 or int8");
}

}  // namespace fr
