// Multiply-adds in registers and nothing else: the ceiling that benchmarks measure kernels against.
#pragma once
#include <cstdint>

#include "base/isa.h"

namespace fr {

// Runs `iterations` times twelve independent multiply-adds on whole vectors of the instruction set (twelve hide
// the latency of two units on every CPU we know); returns the floating point operations done.
// Throws std::invalid_argument if this CPU lacks the instruction set.
int64_t fma_chains(Isa isa, int64_t iterations);

}  // namespace fr
