#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/arithmetic/arithmetic.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;

struct Variant {
  const char* name;
  Isa isa;
  const ArithmeticKernels* kernels;
};
const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, &name},
#include "kernels/arithmetic/kernels.inc"
#undef FR_KERNEL
};

std::vector<float> some(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = random() % 50 == 0 ? (random() % 2 ? NAN : INFINITY) : normal(random);
  return values;
}

// The reference's bits, with either operand one value a pixel; the values between the pixels stay.
void check_formulas(const Variant& variant, const std::vector<float>& a, const std::vector<float>& b, int64_t channels,
                    int64_t pixels, int64_t pitch) {
  const int64_t out_pitch = channels + 1;
  for (int f = 0; f < kFormulas; ++f)
    for (int single = 0; single < 4; ++single) {
      const Operand left{a.data(), pitch, (single & 1) != 0}, right{b.data(), pitch, (single & 2) != 0};
      std::vector<float> wanted(static_cast<size_t>(pixels * out_pitch), kGuard), got = wanted;
      arithmetic_ref.combine(static_cast<Formula>(f), left, right, {wanted.data(), out_pitch}, channels, pixels);
      variant.kernels->combine(static_cast<Formula>(f), left, right, {got.data(), out_pitch}, channels, pixels);
      bool same = true;
      for (size_t i = 0; i < got.size(); ++i)
        same &= got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i]));
      CHECK_SAYING(same, std::string(variant.name) + " " + formula_name(static_cast<Formula>(f)) + " channels " +
                             std::to_string(channels));
    }
}

// The reference on values whose results are known.
void check_known() {
  const float a[] = {6, -1, 2, NAN, 3, 0, -INFINITY}, b[] = {-4, -1, INFINITY, 1, NAN, 0, 5};
  const float wanted[kFormulas][7] = {{-1.5f, 1, 0, NAN, NAN, NAN, -INFINITY},
                                      {-4, -1, 2, NAN, NAN, 0, -INFINITY},
                                      {6, -1, INFINITY, NAN, NAN, 0, 5},
                                      {1, 0, 0, 0, 0, 0, 0}};
  for (int f = 0; f < kFormulas; ++f) {
    CHECK(parse_formula(formula_name(static_cast<Formula>(f))) == static_cast<Formula>(f));
    float out[7];
    arithmetic_ref.combine(static_cast<Formula>(f), {a, 7}, {b, 7}, {out, 7}, 7, 1);
    for (int i = 0; i < 7; ++i) CHECK(out[i] == wanted[f][i] || (std::isnan(out[i]) && std::isnan(wanted[f][i])));
  }
  CHECK_THROWS(parse_formula("power"), std::invalid_argument);
}

// Against the formula in double, whose two roundings fma saves; the values between the pixels stay.
void check(const Variant& variant, int64_t channels, int64_t pixels, std::mt19937& random) {
  const int64_t pitch = channels + 3, out_pitch = channels + 1;
  const std::vector<float> a = some(pixels * pitch, random), b = some(pixels * pitch, random);
  const std::vector<float> scale = some(channels, random), shift = some(channels, random);
  const auto run = [&](const char* what, auto kernel, auto formula) {
    std::vector<float> out(static_cast<size_t>(pixels * out_pitch), kGuard);
    kernel(out.data());
    bool fine = true;
    for (int64_t x = 0; x < pixels; ++x)
      for (int64_t c = 0; c < out_pitch; ++c) {
        const float got = out[static_cast<size_t>(x * out_pitch + c)];
        double room = 0;
        const double exact = c < channels ? formula(x, c, room) : kGuard;
        fine &= std::isfinite(exact) ? std::fabs(got - exact) <= room * 0x1p-23
                : std::isnan(exact)  ? std::isnan(got)
                                     : got == exact;
      }
    CHECK_SAYING(fine, std::string(variant.name) + " " + what + " channels " + std::to_string(channels));
  };
  const auto at = [&](const std::vector<float>& v, int64_t x, int64_t c) {
    return static_cast<double>(v[static_cast<size_t>(x * pitch + c)]);
  };
  const auto of = [](const std::vector<float>& v, int64_t c) { return static_cast<double>(v[static_cast<size_t>(c)]); };
  const Operand first{a.data(), pitch, false}, second{b.data(), pitch, false};
  run(
      "affine",
      [&](float* out) {
        variant.kernels->affine(scale.data(), shift.data(), channels, first, {out, out_pitch}, channels, pixels);
      },
      [&](int64_t x, int64_t c, double& room) {
        room = std::fabs(at(a, x, c) * of(scale, c)) + std::fabs(of(shift, c));
        return at(a, x, c) * of(scale, c) + of(shift, c);
      });
  run(
      "add", [&](float* out) { variant.kernels->add(0.5f, first, -3.0f, second, {out, out_pitch}, channels, pixels); },
      [&](int64_t x, int64_t c, double& room) {
        room = std::fabs(at(a, x, c)) + 6 * std::fabs(at(b, x, c));
        return 0.5 * at(a, x, c) - 3 * at(b, x, c);
      });
  check_formulas(variant, a, b, channels, pixels, pitch);
  for (int single = 0; single < 3; ++single) {  // neither, the first, the second
    const Operand left{a.data(), pitch, single == 1}, right{b.data(), pitch, single == 2};
    run(
        "multiply", [&](float* out) { variant.kernels->multiply(left, right, {out, out_pitch}, channels, pixels); },
        [&](int64_t x, int64_t c, double& room) {
          const double product = at(a, x, single == 1 ? 0 : c) * at(b, x, single == 2 ? 0 : c);
          room = std::fabs(product);
          return product;
        });
  }
}

// Values of an image in either element.
struct Image {
  Image(int64_t count, Element as, std::mt19937& random) : values(static_cast<size_t>(count)), element(as) {
    std::normal_distribution<float> normal(0.0f, 2.0f);
    for (size_t i = 0; i < values.size(); ++i)
      as == Element::f32 ? put(normal(random), &values[i]) : put(normal(random), &halves()[i]);
  }
  Bf16* halves() { return reinterpret_cast<Bf16*>(values.data()); }

  std::vector<float> values;
  Element element;
};

// In every mixture of elements the bits of the reference, which are rounded once to float and once to the element.
void check_elements(const Variant& variant, int64_t channels, std::mt19937& random) {
  constexpr int64_t kPixels = 5;
  const int64_t pitch = channels + 3;
  for (int mixture = 0; mixture < 8; ++mixture) {
    const auto element = [&](int bit) { return mixture >> bit & 1 ? Element::bf16 : Element::f32; };
    Image a(kPixels * pitch, element(0), random), b(kPixels * pitch, element(1), random);
    Image got(kPixels * pitch, element(2), random), wanted = got;
    for (int what = 0; what < 3; ++what) {  // a product, a product by one value a pixel, a sum
      const auto run = [&](const ArithmeticKernels& kernels, Image& out) {
        const Operand first{a.values.data(), pitch, false, a.element};
        const Operand second{b.values.data(), pitch, what == 1, b.element};
        const Result result{out.values.data(), pitch, out.element};
        if (what < 2)
          kernels.multiply(first, second, result, channels, kPixels);
        else
          kernels.add(0.5f, first, -3.0f, second, result, channels, kPixels);
      };
      run(*variant.kernels, got);
      run(arithmetic_ref, wanted);
      CHECK_SAYING(got.values == wanted.values, std::string(variant.name) + " elements " + std::to_string(mixture) +
                                                    " operation " + std::to_string(what) + " channels " +
                                                    std::to_string(channels));
    }
  }
}

// A long run takes the table again and again, and gives the bits that its pixels give one by one.
void check_run(const Variant& variant, std::mt19937& random) {
  const std::vector<float> in = some(960, random), scale = some(48, random), shift = some(48, random);
  std::vector<float> run(960), pixels(960);
  variant.kernels->affine(scale.data(), shift.data(), 48, {in.data(), 960, false}, {run.data(), 960}, 960, 1);
  variant.kernels->affine(scale.data(), shift.data(), 48, {in.data(), 48, false}, {pixels.data(), 48}, 48, 20);
  for (size_t i = 0; i < run.size(); ++i) CHECK(run[i] == pixels[i] || (std::isnan(run[i]) && std::isnan(pixels[i])));
}

}  // namespace

int main() {
  check_known();
  std::mt19937 random(1);
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    for (int64_t channels : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 67})
      for (int64_t pixels : {0, 1, 5}) check(variant, channels, pixels, random);
    for (int64_t channels : {1, 7, 16, 33, 64}) check_elements(variant, channels, random);
    check_run(variant, random);
  }
  return fr::test::result();
}
