#include "base/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace fr {
namespace {

constexpr Isa kAll[] = {Isa::none, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

Isa detect() {
#if FR_X86
  __builtin_cpu_init();  // also asks the operating system (XGETBV) whether it saves the wide registers
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::none;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  return Isa::avx512_bf16;
#else
  return Isa::none;
#endif
}

Isa choose() {
  const Isa best = cpu_isa();
  const char* forced = std::getenv("FASTRESTORE_ISA");
  if (forced == nullptr || *forced == '\0') return best;
  const Isa isa = parse_isa(forced);
  if (!includes(best, isa))
    throw std::invalid_argument(std::string("FASTRESTORE_ISA=") + forced + ": this CPU supports up to " +
                                isa_name(best));
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::none:
      break;
  }
  return "baseline";
}

Isa parse_isa(const std::string& name) {
  for (Isa isa : kAll)
    if (name == isa_name(isa)) return isa;
  throw std::invalid_argument("unknown instruction set '" + name + "': use baseline, avx2, avx512 or avx512_bf16");
}

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa host_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace fr
