#include "kernels/channel_pool/channel_pool.h"

namespace fr {
namespace {

constexpr int64_t kParts = 4;  // sums that do not wait for one another

float greatest(const float* values, int64_t count) {
  float most = values[0];
  for (int64_t c = 1; c < count; ++c)
    if (values[c] > most || values[c] != values[c]) most = values[c];
  return most;
}

float average(const float* values, int64_t count) {
  float parts[kParts] = {};
  int64_t c = 0;
  for (; c + kParts <= count; c += kParts)
    for (int64_t i = 0; i < kParts; ++i) parts[i] += values[c + i];
  for (; c < count; ++c) parts[c % kParts] += values[c];
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) / static_cast<float>(count);
}

}  // namespace

void channel_pool_row(Pool pool, const float* in, int64_t in_pitch, int64_t channels, float* out, int64_t out_pitch,
                      int64_t pixels) {
  for (int64_t x = 0; x < pixels; ++x)
    out[x * out_pitch] = (pool == Pool::max ? greatest : average)(in + x * in_pitch, channels);
}

}  // namespace fr
