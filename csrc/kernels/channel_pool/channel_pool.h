// Pooling over the channels of each pixel of a row: the greatest, NaN if one of them is NaN, or the average.
#pragma once
#include <cstdint>

#include "kernels/pool/pool.h"

namespace fr {

// `pixels` pixels of `channels` >= 1 values, in_pitch apart, to one value each, out_pitch apart. A sum's order depends
// on the channels alone.
void channel_pool_row(Pool pool, const float* in, int64_t in_pitch, int64_t channels, float* out, int64_t out_pitch,
                      int64_t pixels);

}  // namespace fr
