#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/channel_pool/channel_pool.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;

// The greatest to the bit and the average within its sum's rounding; nothing beside the result is written.
void check(int64_t channels, int64_t pixels, std::mt19937& random) {
  const int64_t pitch = channels + 2, out_pitch = 3;
  std::normal_distribution<float> normal;
  std::vector<float> in(static_cast<size_t>(pixels * pitch));
  for (float& v : in) v = random() % 60 == 0 ? NAN : random() % 60 == 0 ? INFINITY : normal(random);
  for (Pool pool : {Pool::max, Pool::average}) {
    std::vector<float> out(static_cast<size_t>(pixels * out_pitch), kGuard);
    channel_pool_row(pool, in.data(), pitch, channels, out.data(), out_pitch, pixels);
    bool fine = true;
    for (int64_t x = 0; x < pixels; ++x) {
      double most = -INFINITY, sum = 0, room = 0;
      for (int64_t c = 0; c < channels; ++c) {
        const double v = in[static_cast<size_t>(x * pitch + c)];
        most = std::isnan(v) || v > most ? v : most;
        sum += v;
        room += std::fabs(v);
      }
      const double wanted = pool == Pool::max ? most : sum / static_cast<double>(channels);
      const float got = out[static_cast<size_t>(x * out_pitch)];
      fine &= std::isnan(wanted)   ? std::isnan(got)
              : std::isinf(wanted) ? got == wanted
                                   : std::fabs(got - wanted) <= (pool == Pool::max ? 0.0 : room * 0x1p-23);
      for (int64_t i = 1; i < out_pitch; ++i) fine &= out[static_cast<size_t>(x * out_pitch + i)] == kGuard;
    }
    CHECK_SAYING(fine, "pool " + std::to_string(static_cast<int>(pool)) + " channels " + std::to_string(channels));
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int64_t channels : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 64, 67})
    for (int64_t pixels : {0, 1, 50}) check(channels, pixels, random);
  return fr::test::result();
}
