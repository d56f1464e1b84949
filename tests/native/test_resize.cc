#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/resize/resize.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;

struct Variant {
  const char* name;
  Isa isa;
  ResizeFn* run;
};
const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, name},
#include "kernels/resize/kernels.inc"
#undef FR_KERNEL
};

std::vector<ResizeTaps> taps_of(Resize mode, bool enlarge, int64_t factor) {
  std::vector<ResizeTaps> taps;
  for (int64_t phase = 0; phase < (enlarge ? factor : 1); ++phase)
    taps.push_back(resize_taps(mode, enlarge, factor, phase));
  return taps;
}

// Weights sum to 1 and, but for the nearest pixel, have their centre where the output pixel stands.
void check_taps() {
  for (int m = 0; m < kResizes; ++m)
    for (bool enlarge : {true, false})
      for (int64_t factor = 1; factor <= kMaxResize; ++factor) {
        const Resize mode = static_cast<Resize>(m);
        const std::vector<ResizeTaps> all = taps_of(mode, enlarge, factor);
        for (size_t phase = 0; phase < all.size(); ++phase) {
          const ResizeTaps& taps = all[phase];
          double sum = 0, centre = 0;
          for (int64_t i = 0; i < taps.count; ++i) {
            sum += taps.weight[i];
            centre += taps.weight[i] * static_cast<double>(taps.first + i);
            CHECK(taps.weight[i] != 0);
          }
          const double place = enlarge ? (static_cast<double>(phase) + 0.5) / static_cast<double>(factor) - 0.5
                                       : 0.5 * static_cast<double>(factor) - 0.5;
          CHECK(std::fabs(sum - 1) < 1e-6);
          CHECK(mode == Resize::nearest ? taps.first == 0 : std::fabs(centre - place) <= (taps.count == 1 ? 0.5 : 0.2));
          if (mode == Resize::bilinear) CHECK(std::fabs(centre - place) < 1e-6);
        }
      }
  const ResizeTaps half = resize_taps(Resize::bicubic, false, 2, 0);  // Keys' kernel at 1/2 and 3/2
  CHECK(half.first == -1 && half.count == 4 && half.weight[0] == -0.09375f && half.weight[1] == 0.59375f);
}

// Every variant against double, from pieces that begin anywhere; columns outside are those at the edge.
void check(const Variant& variant, Resize mode, bool enlarge, int64_t factor, int64_t channels, std::mt19937& random) {
  const int64_t width = enlarge ? 5 : 5 * factor, out_width = enlarge ? width * factor : 5;
  const int64_t in_pitch = channels + 2, out_pitch = channels + 1;
  const std::vector<ResizeTaps> taps = taps_of(mode, enlarge, factor);
  std::normal_distribution<float> normal;
  std::vector<float> rows[4];
  ResizeRow row;
  row.taps_y = taps.back().count;
  for (int64_t i = 0; i < row.taps_y; ++i) {
    rows[i].resize(static_cast<size_t>(width * in_pitch));
    for (float& v : rows[i]) v = normal(random);
    row.in[i] = rows[i].data();
    row.weight_y[i] = taps.back().weight[i];
  }
  row.taps_x = taps.data();
  row.enlarge = enlarge;
  row.factor = factor;
  row.in_end = width;
  row.in_pitch = in_pitch;
  row.out_pitch = out_pitch;
  row.x_end = out_width;
  row.channels = channels;
  std::vector<float> whole(static_cast<size_t>(out_width * out_pitch), kGuard);
  row.out = whole.data();
  variant.run(row);
  const std::string say = std::string(variant.name) + " " + resize_name(mode) + (enlarge ? " up by " : " down by ") +
                          std::to_string(factor) + " channels " + std::to_string(channels);
  bool close = true;
  for (int64_t x = 0; x < out_width; ++x)
    for (int64_t c = 0; c < out_pitch; ++c) {
      const ResizeTaps& t = taps[static_cast<size_t>(enlarge ? x % factor : 0)];
      double sum = c < channels ? 0 : kGuard;
      for (int64_t i = 0; i < row.taps_y && c < channels; ++i)
        for (int64_t j = 0; j < t.count; ++j) {
          int64_t column = (enlarge ? x / factor : x * factor) + t.first + j;
          column = std::max<int64_t>(0, std::min(column, width - 1));
          sum +=
              static_cast<double>(row.weight_y[i]) * t.weight[j] * rows[i][static_cast<size_t>(column * in_pitch + c)];
        }
      close &= std::fabs(whole[static_cast<size_t>(x * out_pitch + c)] - sum) <= 1e-6 * std::max(1.0, std::fabs(sum));
    }
  CHECK_SAYING(close, say);
  row.x_begin = out_width / 2;
  std::vector<float> part(static_cast<size_t>(out_pitch * (out_width - row.x_begin)), kGuard);
  row.out = part.data();
  variant.run(row);
  bool same = true;
  for (size_t i = 0; i < part.size(); ++i) same &= part[i] == whole[static_cast<size_t>(row.x_begin * out_pitch) + i];
  CHECK_SAYING(same, "a part, " + say);
}

}  // namespace

int main() {
  check_taps();
  for (int m = 0; m < kResizes; ++m) CHECK(parse_resize(resize_name(static_cast<Resize>(m))) == static_cast<Resize>(m));
  CHECK_THROWS(parse_resize("lanczos"), std::invalid_argument);
  std::mt19937 random(1);
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    for (int m = 0; m < kResizes; ++m)
      for (int64_t factor : {1, 2, 3, 4, 5})
        for (int64_t channels : {1, 3, 15, 16, 17, 40})
          for (bool enlarge : {true, false}) check(variant, static_cast<Resize>(m), enlarge, factor, channels, random);
  }
  return fr::test::result();
}
