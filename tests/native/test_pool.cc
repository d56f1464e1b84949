#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/pool/pool.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;

struct Variant {
  const char* name;
  Isa isa;
  PoolFn* run;
};
const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, name},
#include "kernels/pool/kernels.inc"
#undef FR_KERNEL
};

struct Window {
  int64_t kernel_h, kernel_w, stride, pad, dilation, divisor;
};

// To the bit what the reference gives, from a piece of the row that begins anywhere, with rows missing.
void check(const Variant& variant, const Window& w, int64_t channels, std::mt19937& random) {
  const int64_t width = 13, in_pitch = channels + 2, out_pitch = channels + 1;
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> rows(static_cast<size_t>(w.kernel_h));
  std::vector<const float*> in;
  for (auto& row : rows) {
    row.resize(static_cast<size_t>(width * in_pitch));
    for (float& v : row) v = random() % 40 == 0 ? NAN : normal(random);
    in.push_back(w.kernel_h > 1 && random() % 4 == 0 ? nullptr : row.data());
  }
  for (int64_t x_begin : {0, 2}) {
    PoolRow row;
    row.in = in.data();
    row.kernel_h = w.kernel_h;
    row.kernel_w = w.kernel_w;
    row.in_end = width;
    row.in_pitch = in_pitch;
    row.out_pitch = out_pitch;
    row.x_begin = x_begin;
    row.x_end = width / w.stride;
    row.channels = channels;
    row.stride = w.stride;
    row.pad = w.pad;
    row.dilation = w.dilation;
    row.divisor = w.divisor;
    for (Pool pool : {Pool::max, Pool::average}) {
      std::vector<float> wanted(static_cast<size_t>(width * out_pitch), kGuard), got = wanted;
      row.out = wanted.data();
      pool_ref(pool, row);
      row.out = got.data();
      variant.run(pool, row);
      bool same = true;
      for (size_t i = 0; i < got.size(); ++i)
        same &= got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i]));
      CHECK_SAYING(same, std::string(variant.name) + " pool " + std::to_string(static_cast<int>(pool)) + " channels " +
                             std::to_string(channels) + " kernel " + std::to_string(w.kernel_w));
    }
  }
}

// The reference on windows whose results are known.
void check_reference() {
  const float top[] = {1, -2, 3, 4}, bottom[] = {5, -6, NAN, 8};
  const float* in[] = {top, bottom};
  float out[2];
  PoolRow row;
  row.in = in;
  row.kernel_h = row.kernel_w = row.stride = 2;
  row.in_end = 4;
  row.in_pitch = row.out_pitch = row.channels = 1;
  row.out = out;
  row.x_end = 2;
  pool_ref(Pool::max, row);
  CHECK(out[0] == 5 && std::isnan(out[1]));
  row.divisor = 4;
  pool_ref(Pool::average, row);
  CHECK(out[0] == -0.5f && std::isnan(out[1]));
  in[1] = nullptr;
  row.divisor = 0;
  row.pad = 1;  // columns -1 and 0, then 1 and 2, of the top row
  pool_ref(Pool::average, row);
  CHECK(out[0] == 1 && out[1] == 0.5f);
  row.divisor = 4;
  pool_ref(Pool::average, row);
  CHECK(out[0] == 0.25f && out[1] == 0.25f);
}

}  // namespace

int main() {
  check_reference();
  std::mt19937 random(1);
  const Window windows[] = {{2, 2, 2, 0, 1, 4}, {3, 3, 1, 1, 1, 0}, {3, 3, 2, 1, 1, 9}, {1, 5, 1, 2, 1, 0},
                            {2, 3, 1, 2, 2, 0}, {1, 1, 1, 0, 1, 1}, {5, 5, 3, 2, 1, 7}};
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    for (const Window& window : windows)
      for (int64_t channels : {1, 3, 8, 15, 16, 17, 40}) check(variant, window, channels, random);
  }
  return fr::test::result();
}
