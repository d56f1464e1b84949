#include "kernels/dot_peak/dot_peak.h"

#include <stdexcept>

#if FR_X86
#include <cpuid.h>
#endif

namespace fr {
namespace {

#if FR_X86
constexpr int kChains = 12, kTiles = 4;

// Assembly, so that no compiler can shorten it and the core's own flags do not matter.
#define FR_DOT(op, n) op " %%zmm12, %%zmm12, %%zmm" n "\n"
#define FR_DOTS(op)                                                                                                    \
  asm volatile(FR_DOT(op, "0") FR_DOT(op, "1") FR_DOT(op, "2") FR_DOT(op, "3") FR_DOT(op, "4") FR_DOT(op, "5")         \
                   FR_DOT(op, "6") FR_DOT(op, "7") FR_DOT(op, "8") FR_DOT(op, "9") FR_DOT(op, "10") FR_DOT(op, "11"):: \
                       : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",      \
                         "xmm11", "xmm12")

__attribute__((target("avx512f"))) void vectors(DotType type, int64_t iterations) {
  asm volatile("vpxorq %%zmm12, %%zmm12, %%zmm12" ::: "xmm12");
  if (type == DotType::bfloat16)
    for (int64_t i = 0; i < iterations; ++i) FR_DOTS("vdpbf16ps");
  else
    for (int64_t i = 0; i < iterations; ++i) FR_DOTS("vpdpbusd");
  asm volatile("vzeroupper");  // else older instructions that follow pay for the dirty upper halves
}

// The layout of the processor's tile configuration: palette 1, all tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define FR_TILES(op)                                                                                           \
  asm volatile(op " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op " %%tmm6, %%tmm5, %%tmm2\n" op \
                  " %%tmm7, %%tmm5, %%tmm3\n" ::)

void tiles(DotType type, int64_t iterations) {
  const TileConfig config;
  asm volatile("ldtilecfg %0" ::"m"(config));
  asm volatile(
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
      "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n" ::);
  if (type == DotType::bfloat16)
    for (int64_t i = 0; i < iterations; ++i) FR_TILES("tdpbf16ps");
  else
    for (int64_t i = 0; i < iterations; ++i) FR_TILES("tdpbusd");
  asm volatile("tilerelease" ::);
}

bool has_int8_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 25)) != 0;
}
#endif

}  // namespace

int64_t dot_chains(DotType type, Isa isa, int64_t iterations) {
  if (!includes(cpu_isa(), isa)) throw std::invalid_argument(std::string("this CPU lacks ") + isa_name(isa));
#if FR_X86
  const int64_t products = type == DotType::bfloat16 ? 2 : 4;  // in the 32 bits of a lane
  if (isa == Isa::amx && (type == DotType::bfloat16 || has_int8_tiles())) {
    tiles(type, iterations);
    return iterations * kTiles * 16 * 16 * 16 * products * 2;
  }
  if (isa == Isa::avx512_bf16) {
    vectors(type, iterations);
    return iterations * kChains * 16 * products * 2;
  }
#endif
  throw std::invalid_argument(std::string(isa_name(isa)) + " has no such dot products");
}

}  // namespace fr
