#include "kernels/fma_peak/fma_peak.h"

#include <stdexcept>

namespace fr {
namespace {

constexpr int kChains = 12;

#if FR_X86
// Assembly, so that no compiler can shorten it. The register numbers are the same for both widths.
#define FR_CHAIN(reg, n) "vfmadd231ps %%" reg "12, %%" reg "12, %%" reg n "\n"
#define FR_CHAINS(reg)                                                                                                \
  asm volatile(FR_CHAIN(reg, "0") FR_CHAIN(reg, "1") FR_CHAIN(reg, "2") FR_CHAIN(reg, "3") FR_CHAIN(reg, "4")         \
                   FR_CHAIN(reg, "5") FR_CHAIN(reg, "6") FR_CHAIN(reg, "7") FR_CHAIN(reg, "8") FR_CHAIN(reg, "9")     \
                       FR_CHAIN(reg, "10") FR_CHAIN(reg, "11")::                                                      \
                           : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
                             "xmm11", "xmm12")

__attribute__((target("avx512f"))) void chains_512(int64_t iterations) {
  asm volatile("vpxorq %%zmm12, %%zmm12, %%zmm12" ::: "xmm12");
  for (int64_t i = 0; i < iterations; ++i) FR_CHAINS("zmm");
  asm volatile("vzeroupper");  // else older instructions that follow pay for the dirty upper halves
}

__attribute__((target("avx2,fma"))) void chains_256(int64_t iterations) {
  asm volatile("vxorps %%ymm12, %%ymm12, %%ymm12" ::: "xmm12");
  for (int64_t i = 0; i < iterations; ++i) FR_CHAINS("ymm");
  asm volatile("vzeroupper");
}
#endif

// Four lanes, a product and a sum each: what the portable code has.
int64_t chains_portable(int64_t iterations) {
  using Lanes = float __attribute__((vector_size(16)));
  Lanes sums[kChains] = {}, factor = {1.0f, 1.0f, 1.0f, 1.0f};
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      sums[c] = sums[c] * factor + factor;
      asm volatile("" : "+x"(sums[c]));  // keeps every round
    }
  }
  return iterations * kChains * 4 * 2;
}

}  // namespace

int64_t fma_chains(Isa isa, int64_t iterations) {
  if (!includes(cpu_isa(), isa)) throw std::invalid_argument(std::string("this CPU lacks ") + isa_name(isa));
#if FR_X86
  if (includes(isa, Isa::avx512)) {
    chains_512(iterations);
    return iterations * kChains * 16 * 2;
  }
  if (includes(isa, Isa::avx2)) {
    chains_256(iterations);
    return iterations * kChains * 8 * 2;
  }
#endif
  return chains_portable(iterations);
}

}  // namespace fr
