// Instruction sets a kernel may be compiled for, and the best one this process may use.
#pragma once
#include <string>

namespace fr {

enum class Isa { none, avx2, avx512, avx512_bf16, amx };  // each includes the ones before it

inline bool includes(Isa allowed, Isa needed) { return allowed >= needed; }

const char* isa_name(Isa isa);           // "baseline", "avx2", "avx512", "avx512_bf16", "amx"
Isa parse_isa(const std::string& name);  // throws std::invalid_argument for an unknown name

Isa cpu_isa();  // the best that CPU and operating system support

// The named one; host_isa() for an empty name. Throws std::invalid_argument if the CPU lacks it.
Isa usable_isa(const std::string& name);

// cpu_isa(), or what FASTRESTORE_ISA names; read once. Throws std::invalid_argument if the CPU lacks it.
Isa host_isa();

}  // namespace fr
