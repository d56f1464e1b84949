#include "base/isa.h"

#include <cstdlib>
#include <stdexcept>

#if FR_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fr {
namespace {

constexpr Isa kAll[] = {Isa::none, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

#if FR_X86
bool has_f16c() {  // not every compiler's __builtin_cpu_supports knows it
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)) != 0;
}

// The tile registers are large, so Linux gives them only to processes that ask (all later threads have them then).
bool get_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kNeeded) != kNeeded) return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

Isa detect() {
#if FR_X86
  __builtin_cpu_init();  // also asks the operating system (XGETBV) whether it saves the wide registers
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return Isa::none;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  return get_amx() ? Isa::amx : Isa::avx512_bf16;
#else
  return Isa::none;
#endif
}

Isa choose() {
  const char* forced = std::getenv("FASTRESTORE_ISA");
  if (forced == nullptr || *forced == '\0') return cpu_isa();
  try {
    return usable_isa(forced);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("FASTRESTORE_ISA: ") + error.what());
  }
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
    case Isa::amx:
      return "amx";
    case Isa::none:
      break;
  }
  return "baseline";
}

Isa parse_isa(const std::string& name) {
  for (Isa isa : kAll)
    if (name == isa_name(isa)) return isa;
  throw std::invalid_argument("unknown instruction set '" + name + "': use baseline, avx2, avx512, avx512_bf16 or amx");
}

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa usable_isa(const std::string& name) {
  if (name.empty()) return host_isa();
  const Isa isa = parse_isa(name);
  if (!includes(cpu_isa(), isa))
    throw std::invalid_argument("instruction set '" + name + "': this CPU supports up to " + isa_name(cpu_isa()));
  return isa;
}

Isa host_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace fr
