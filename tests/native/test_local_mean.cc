#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/local_mean/local_mean.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;
constexpr double kSumGuard = 54321.0;

struct Variant {
  const char* name;
  Isa isa;
  const LocalMeanKernels* kernels;
};
const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, &name},
#include "kernels/local_mean/kernels.inc"
#undef FR_KERNEL
};

// A row whose pixels lie `pitch` values apart, those between the channels NaN.
struct Row {
  Row(int64_t width, int64_t channels, int64_t pitch, Element as, std::mt19937& random)
      : values(static_cast<size_t>(width * pitch), NAN), halves(values.size(), Bf16{0x7fc0}), element(as) {
    std::normal_distribution<float> normal(1.0f, 2.0f);
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < channels; ++c) {
        const size_t i = static_cast<size_t>(x * pitch + c);
        halves[i] = float_to_bf16(normal(random));
        values[i] = bf16_to_float(halves[i]);
      }
  }
  const void* data() const { return element == Element::f32 ? static_cast<const void*>(values.data()) : halves.data(); }

  std::vector<float> values;
  std::vector<Bf16> halves;
  Element element;
};

struct Shape {
  int64_t width, side, channels;
};

// One window's sum of what enters less what leaves, in double.
double window_sum(const Row& enter, const Row* leave, const Shape& s, int64_t pitch, int64_t x, int64_t c) {
  const int64_t begin = std::clamp<int64_t>(x - (s.side - 1) / 2, 0, s.width - s.side);
  double sum = 0;
  for (int64_t i = begin; i < begin + s.side; ++i) {
    const size_t place = static_cast<size_t>(i * pitch + c);
    sum += enter.values[place] - (leave != nullptr ? static_cast<double>(leave->values[place]) : 0.0);
  }
  return sum;
}

// Two rows enter, one of which leaves again as a third comes: the sums are those of the last two, the means within
// float's rounding, nothing beside them is touched, and a piece has the bits of the whole row.
void check(const Variant& variant, const Shape& s, Element element, std::mt19937& random) {
  const int64_t pitch = s.channels + 3, out_pitch = s.channels + 2;
  const std::string what = std::string(variant.name) + " width " + std::to_string(s.width) + " side " +
                           std::to_string(s.side) + " channels " + std::to_string(s.channels);
  const Row first(s.width, s.channels, pitch, element, random), second(s.width, s.channels, pitch, element, random);
  const Row third(s.width, s.channels, pitch, element, random);
  std::vector<double> sums(static_cast<size_t>(s.width * s.channels + 1), 0.0);
  sums.back() = kSumGuard;
  LocalMeanRow row;
  row.element = element;
  row.pitch = pitch;
  row.width = s.width;
  row.channels = s.channels;
  row.side = s.side;
  row.x_end = s.width;
  row.sums = sums.data();
  const auto add = [&](const Row& enter, const Row* leave) {
    row.enter = enter.data();
    row.leave = leave == nullptr ? nullptr : leave->data();
    variant.kernels->add(row);
  };
  add(first, nullptr);
  add(second, nullptr);
  add(third, &first);
  const double scale = 1.0 / static_cast<double>(2 * s.side);
  std::vector<float> out(static_cast<size_t>(s.width * out_pitch), kGuard);
  variant.kernels->write(row, {out.data(), out_pitch, Element::f32}, scale);
  std::vector<Bf16> narrow(out.size(), float_to_bf16(kGuard));
  variant.kernels->write(row, {narrow.data(), out_pitch, Element::bf16}, scale);
  bool fine = sums.back() == kSumGuard;
  for (int64_t x = 0; x < s.width; ++x)
    for (int64_t c = 0; c < out_pitch; ++c) {
      const size_t i = static_cast<size_t>(x * out_pitch + c);
      if (c >= s.channels) {
        fine &= out[i] == kGuard && narrow[i].bits == float_to_bf16(kGuard).bits;
        continue;
      }
      const double exact =
          (window_sum(second, nullptr, s, pitch, x, c) + window_sum(third, nullptr, s, pitch, x, c)) * scale;
      fine &= std::fabs(out[i] - exact) <= std::fabs(exact) * 0x1p-24 + 1e-13;
      fine &= narrow[i].bits == float_to_bf16(out[i]).bits;
    }
  CHECK_SAYING(fine, what);
  if (s.width <= kMeanGrid) return;
  std::vector<double> parts(sums.size(), 0.0);
  parts.back() = kSumGuard;
  row.sums = parts.data();
  for (row.x_begin = 0; row.x_begin < s.width; row.x_begin += kMeanGrid) {
    row.x_end = std::min(row.x_begin + kMeanGrid, s.width);
    add(first, nullptr);
    add(second, nullptr);
    add(third, &first);
  }
  CHECK_SAYING(variant.kernels == &local_mean_ref || parts == sums, what + " in pieces");
}

}  // namespace

int main() {
  std::mt19937 random(1);
  const Shape shapes[] = {{1, 1, 1},     {1, 1, 70},   {7, 7, 3},     {9, 1, 5},     {20, 6, 16},    {33, 32, 17},
                          {130, 12, 64}, {300, 48, 8}, {300, 299, 4}, {513, 384, 3}, {257, 129, 150}};
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    for (const Shape& shape : shapes)
      for (Element element : {Element::f32, Element::bf16}) check(variant, shape, element, random);
  }
  return fr::test::result();
}
