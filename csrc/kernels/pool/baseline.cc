#define FR_ISA baseline
#include "kernels/pool/simd_impl.h"
void fr::pool_baseline(Pool pool, const PoolRow& row) {
  pool == Pool::max ? FR_ISA::pool<true>(row) : FR_ISA::pool<false>(row);
}
