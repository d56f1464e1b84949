// Dot products in registers and nothing else: the ceilings of kernels in bfloat16 and int8, as fma_peak is float32's.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace fr {

enum class DotType { bfloat16, int8 };

// Runs `iterations` times independent dot products that are added to whole vectors (Isa::avx512_bf16: twelve of pairs
// of bfloat16 or of quadruples of int8) or tiles (Isa::amx: four); returns the operations done, two a product. Throws
// std::invalid_argument if this CPU lacks the instruction set, or the instruction set such products.
int64_t dot_chains(DotType type, Isa isa, int64_t iterations);

}  // namespace fr
