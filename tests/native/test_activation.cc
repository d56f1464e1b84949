#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/activation/activation.h"

using namespace fr;

namespace {

const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = 12345.0f;

struct Variant {
  const char* name;
  Isa isa;
  ActivationFn* run;
};
const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, name},
#include "kernels/activation/kernels.inc"
#undef FR_KERNEL
};

// Where a formula takes the difference of nearly equal numbers, its error is in units of the argument instead.
bool cancels(Curve curve) {
  return curve == Curve::gelu || curve == Curve::gelu_tanh || curve == Curve::hard_sigmoid ||
         curve == Curve::hard_swish;
}

CurveSpec spec_of(Curve curve) {
  switch (curve) {
    case Curve::leaky_relu:
      return {curve, 0.2f, 0.0f, 0.0f};
    case Curve::clamp:
      return {curve, -0.5f, 0.75f, 0.0f};
    case Curve::elu:
      return {curve, 1.5f, 0.5f, 1.0f};
    case Curve::softplus:
      return {curve, 1.0f, 20.0f, 0.0f};
    case Curve::above:
      return {curve, 0.25f, 0.0f, 0.0f};
    default:
      return {curve, 0.0f, 0.0f, 0.0f};
  }
}

std::vector<float> arguments() {
  std::vector<float> values = {0.0f, -0.0f, kInf, -kInf, kNan, 1.0f, -1.0f, 1e-40f, -1e-40f, 1e30f, -1e30f};
  for (float v : {0.25f, 1e-45f, 3e38f, 0x1p-126f, 0x1p24f, std::nextafter(1.0f, 0.0f), std::nextafter(-1.0f, 0.0f)})
    values.push_back(v);
  for (int i = 0; i < 200000; ++i) values.push_back(-110.0f + 0.0011f * static_cast<float>(i));
  for (int exponent = -60; exponent < 8; ++exponent)
    for (int i = 0; i < 500; ++i) {
      const float v = std::ldexp(1.0f + static_cast<float>(i) / 500.0f, exponent);
      values.push_back(v);
      values.push_back(-v);
    }
  return values;
}

float ulp(float value) {  // what is nearer to 0 than 1e-30 is as good as 0
  const float magnitude = std::max(std::fabs(value), 1e-30f);
  return std::nextafter(magnitude, kInf) - magnitude;
}

// Every variant within a few units in the last place of the formula in double precision.
void check_accuracy(const Variant& variant) {
  const std::vector<float> values = arguments();
  const int64_t count = static_cast<int64_t>(values.size());
  std::vector<float> exact(values.size()), got(values.size()), slope(16, 0.3f);
  for (int c = 0; c < kCurves; ++c) {
    const Curve curve = static_cast<Curve>(c);
    const float* slopes = curve == Curve::prelu ? slope.data() : nullptr;
    activation_ref(spec_of(curve), slopes, 16, values.data(), count, exact.data(), count, count, 1);
    variant.run(spec_of(curve), slopes, 16, values.data(), count, got.data(), count, count, 1);
    double worst = 0;
    float at = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const bool same = std::isfinite(exact[i])
                            ? std::isfinite(got[i])
                            : std::isnan(exact[i]) == std::isnan(got[i]) && (std::isnan(got[i]) || got[i] == exact[i]);
      CHECK_SAYING(same, std::string(variant.name) + " " + curve_name(curve) + " of " + std::to_string(values[i]));
      if (!std::isfinite(exact[i])) continue;
      const float unit = cancels(curve) ? std::max(ulp(exact[i]), ulp(values[i])) : ulp(exact[i]);
      const double error = std::fabs(static_cast<double>(got[i]) - exact[i]) / unit;
      if (error > worst) worst = error, at = values[i];
    }
    CHECK_SAYING(worst <= 4.0, std::string(variant.name) + " " + curve_name(curve) + ": " + std::to_string(worst) +
                                   " units at " + std::to_string(at));
    if (std::getenv("FR_PRINT") != nullptr)
      std::printf("%s %s: %.2f units in the last place, at %g\n", variant.name, curve_name(curve), worst, at);
  }
}

// The same bits wherever a value stands; nothing written beyond a pixel's channels; each channel its own slope.
void check_places(const Variant& variant, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (int64_t channels : {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 67})
    for (int64_t pixels : {0, 1, 3}) {
      const int64_t pitch = channels + 5, out_pitch = channels + 2;
      std::vector<float> in(static_cast<size_t>(pixels * pitch)), slope(static_cast<size_t>(channels));
      for (float& v : in) v = normal(random);
      for (float& v : slope) v = normal(random);
      for (int c = 0; c < kCurves; ++c) {
        const Curve curve = static_cast<Curve>(c);
        std::vector<float> out(static_cast<size_t>(pixels * out_pitch), kGuard);
        const bool slopes = curve == Curve::prelu;
        variant.run(spec_of(curve), slopes ? slope.data() : nullptr, channels, in.data(), pitch, out.data(), out_pitch,
                    channels, pixels);
        bool same = true;
        for (int64_t x = 0; x < pixels; ++x)
          for (int64_t i = 0; i < out_pitch; ++i) {
            float alone = kGuard;
            if (i < channels)
              variant.run(spec_of(curve), slopes ? &slope[static_cast<size_t>(i)] : nullptr, 1,
                          &in[static_cast<size_t>(x * pitch + i)], 1, &alone, 1, 1, 1);
            same &= std::memcmp(&alone, &out[static_cast<size_t>(x * out_pitch + i)], 4) == 0;
          }
        CHECK_SAYING(same,
                     std::string(variant.name) + " " + curve_name(curve) + " channels " + std::to_string(channels));
      }
    }
}

// A table longer than a vector starts again at its end, in the middle of a long run.
void check_period(const Variant& variant) {
  std::vector<float> in(500, -1.0f), out(500), slope(48);
  for (size_t i = 0; i < slope.size(); ++i) slope[i] = static_cast<float>(i);
  variant.run({Curve::prelu, 0, 0, 0}, slope.data(), 48, in.data(), 500, out.data(), 500, 500, 1);
  for (size_t i = 0; i < out.size(); ++i) CHECK(out[i] == -static_cast<float>(i % 48));
}

}  // namespace

int main() {
  for (int c = 0; c < kCurves; ++c) CHECK(parse_curve(curve_name(static_cast<Curve>(c))) == static_cast<Curve>(c));
  CHECK_THROWS(parse_curve("softmax"), std::invalid_argument);
  std::mt19937 random(1);
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    check_accuracy(variant);
    check_places(variant, random);
    check_period(variant);
  }
  return fr::test::result();
}
