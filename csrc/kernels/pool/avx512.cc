#define FR_ISA avx512
#include "kernels/pool/simd_impl.h"
void fr::pool_avx512(Pool pool, const PoolRow& row) {
  pool == Pool::max ? FR_ISA::pool<true>(row) : FR_ISA::pool<false>(row);
}
