#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/half.h"
#include "check.h"
#include "kernels/convert/convert.h"

using namespace fr;

namespace {

constexpr Pixel kTypes[] = {Pixel::u8, Pixel::u16, Pixel::f16, Pixel::f32};
const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

struct Variant {
  const char* name;
  Isa isa;
  const ConvertKernels* kernels;
};

const Variant kVariants[] = {
#define FR_KERNEL(name, isa) {#name, isa, &name},
#include "kernels/convert/kernels.inc"
#undef FR_KERNEL
};

uint32_t bits(float value) {
  uint32_t result;
  std::memcpy(&result, &value, 4);
  return result;
}

float value_of(uint32_t bits) {
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

// The definitions themselves, on a few values whose results are known.
void check_reference() {
  const uint8_t bytes[] = {0, 1, 51, 255};
  float out[4];
  convert_ref.in[0](bytes, 1, out, 1, 1, 4);
  CHECK(out[0] == 0.0f && out[1] == static_cast<float>(1.0 / 255) && out[2] == 0.2f && out[3] == 1.0f);
  const float restored[] = {-0.5f, 0.5f / 255, 1.5f / 255, 2.5f / 255, 2.0f, kNan, kInf, -kInf};
  const uint8_t wanted[] = {0, 0, 2, 2, 255, 0, 255, 0};
  uint8_t stored[8];
  for (bool clip : {false, true}) {
    CHECK(convert_ref.out[0](restored, 1, 1, nullptr, stored, 1, 8, 1.0f, clip) == 3);
    CHECK(std::memcmp(stored, wanted, 8) == 0);
  }
  uint16_t half;
  convert_ref.out[2](restored + 5, 1, 1, nullptr, &half, 1, 1, 1.0f, true);
  CHECK(std::isnan(half_to_float(half)));
  // Half of the way from the picture to what was restored; one plane out of three channels.
  const float picture = 0.25f, rgb[] = {0.5f, 0.75f, 1.0f};
  float blended;
  CHECK(convert_ref.out[3](rgb, 3, 3, &picture, &blended, 1, 1, 0.5f, false) == 0);
  CHECK(blended == 0.5f);
}

// Every half there is, and around each the floats on both sides of where rounding changes.
void check_half() {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const uint16_t half = static_cast<uint16_t>(h);
    const float value = half_to_float(half);
    if ((h & 0x7fff) > 0x7c00) {
      CHECK(std::isnan(value) && float_to_half(value) == (half | 0x200));
      continue;
    }
    CHECK(float_to_half(value) == half);
    if ((h & 0x7fff) >= 0x7bff) continue;
    const float next = half_to_float(half + 1), middle = (value + next) / 2;
    CHECK(float_to_half(middle) == (h % 2 == 0 ? half : half + 1));
    CHECK(float_to_half(std::nextafter(middle, value)) == half);
    CHECK(float_to_half(std::nextafter(middle, next)) == half + 1);
  }
  CHECK(float_to_half(65519.996f) == 0x7bff);
  CHECK(float_to_half(65520.0f) == 0x7c00);
  CHECK(float_to_half(-kInf) == 0xfc00);
  CHECK(float_to_half(value_of(1)) == 0);
}

struct Sizes {
  int64_t channels, image_channels, pitch, pixels;
};

std::vector<Sizes> sizes() {
  std::vector<Sizes> result;
  for (int64_t pixels : {0, 1, 7, 16, 33, 1025})
    for (int64_t channels : {1, 2, 3, 4, 17, 65})
      for (int64_t pad : {0, 1, 13}) {
        result.push_back({channels, channels, channels + pad, pixels});
        if (channels > 1) result.push_back({channels, 1, channels + pad, pixels});
      }
  result.push_back({1500, 1500, 1500, 3});
  result.push_back({1500, 1500, 1504, 3});
  return result;
}

// A variant against the reference to the bit, from and to rows at odd addresses.
void check_variant(const Variant& variant, Pixel type, const Sizes& s, std::mt19937& random) {
  const int64_t bytes = pixel_bytes(type), values = s.pixels * s.image_channels;
  const auto say = std::string(variant.name) + " type " + std::to_string(static_cast<int>(type)) + " channels " +
                   std::to_string(s.channels) + "/" + std::to_string(s.image_channels) + " pixels " +
                   std::to_string(s.pixels);
  std::vector<char> image(values * bytes + 1);
  for (char& byte : image) byte = static_cast<char>(random());
  const char* picture = image.data() + 1;
  std::vector<float> wanted(s.pixels * s.pitch, 5.0f), got(wanted);
  convert_ref.in[static_cast<int>(type)](picture, s.image_channels, wanted.data(), s.channels, s.pitch, s.pixels);
  variant.kernels->in[static_cast<int>(type)](picture, s.image_channels, got.data(), s.channels, s.pitch, s.pixels);
  bool same = true;
  for (size_t i = 0; i < got.size(); ++i) same &= bits(wanted[i]) == bits(got[i]);
  CHECK_SAYING(same, "in, " + say);

  const float special[] = {kNan, kInf, -kInf, -0.0f, 1.0f, 1.5f / 255, -3.0f, 1e30f, 65519.0f, 1e-7f};
  std::vector<float> restored(s.pixels * s.pitch);
  for (float& value : restored)
    value = random() % 16 == 0 ? special[random() % 10] : static_cast<float>(random() % 5000) / 4000.0f - 0.125f;
  for (float strength : {1.0f, 0.7f})
    for (bool clip : {false, true}) {
      std::vector<char> out(values * bytes + 2, 'x'), out_wanted(out);
      const void* original = strength == 1.0f ? nullptr : picture;
      const int64_t n =
          convert_ref.out[static_cast<int>(type)](restored.data(), s.pitch, s.channels, original, out_wanted.data() + 1,
                                                  s.image_channels, s.pixels, strength, clip);
      CHECK_SAYING(
          n == variant.kernels->out[static_cast<int>(type)](restored.data(), s.pitch, s.channels, original,
                                                            out.data() + 1, s.image_channels, s.pixels, strength, clip),
          "count, " + say);
      bool equal = out.front() == 'x' && out.back() == 'x';
      for (int64_t i = 0; i < values; ++i) {
        const char *a = out.data() + 1 + i * bytes, *b = out_wanted.data() + 1 + i * bytes;
        float x, y;  // which NaN an operation on two yields is not defined
        std::memcpy(&x, a, type == Pixel::f32 ? 4 : 0);
        std::memcpy(&y, b, type == Pixel::f32 ? 4 : 0);
        uint16_t p = 0, q = 0;
        if (type == Pixel::f16) std::memcpy(&p, a, 2), std::memcpy(&q, b, 2);
        const bool nans =
            (type == Pixel::f32 && std::isnan(x) && std::isnan(y)) || ((p & 0x7fff) > 0x7c00 && (q & 0x7fff) > 0x7c00);
        equal &= nans || std::memcmp(a, b, bytes) == 0;
      }
      CHECK_SAYING(equal, "out, " + say);
    }
}

// Each 8-bit and 16-bit value comes back from float as it was.
void check_round_trip(const Variant& variant) {
  std::vector<uint16_t> words(65536), words_back(65536);
  std::vector<uint8_t> bytes(256), bytes_back(256);
  std::vector<float> values(65536);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint16_t>(i);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
  variant.kernels->in[1](words.data(), 1, values.data(), 1, 1, 65536);
  for (size_t i = 0; i < words.size(); ++i) CHECK(values[i] == static_cast<float>(static_cast<double>(i) / 65535.0));
  variant.kernels->out[1](values.data(), 1, 1, nullptr, words_back.data(), 1, 65536, 1.0f, true);
  CHECK(words == words_back);
  variant.kernels->in[0](bytes.data(), 1, values.data(), 1, 1, 256);
  for (size_t i = 0; i < bytes.size(); ++i) CHECK(values[i] == static_cast<float>(static_cast<double>(i) / 255.0));
  variant.kernels->out[0](values.data(), 1, 1, nullptr, bytes_back.data(), 1, 256, 1.0f, true);
  CHECK(bytes == bytes_back);
}

}  // namespace

int main() {
  check_reference();
  check_half();
  std::mt19937 random(1);
  for (const Variant& variant : kVariants) {
    if (!includes(cpu_isa(), variant.isa)) continue;
    check_round_trip(variant);
    for (Pixel type : kTypes)
      for (const Sizes& s : sizes()) check_variant(variant, type, s, random);
  }
  return fr::test::result();
}
