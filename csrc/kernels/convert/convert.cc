#include "kernels/convert/convert.h"

#include <cmath>
#include <cstring>

#include "base/half.h"

namespace fr {
namespace {

float load_ref(Pixel type, const void* image, int64_t i) {
  const char* at = static_cast<const char*>(image) + i * pixel_bytes(type);
  uint16_t word;
  float value;
  switch (type) {
    case Pixel::u8:
      return static_cast<float>(*reinterpret_cast<const uint8_t*>(at)) / 255.0f;
    case Pixel::u16:
      std::memcpy(&word, at, 2);
      return static_cast<float>(word) / 65535.0f;
    case Pixel::f16:
      std::memcpy(&word, at, 2);
      return half_to_float(word);
    case Pixel::f32:
      break;
  }
  std::memcpy(&value, at, 4);
  return value;
}

float round_ref(float value, float top) {
  value *= top;
  if (!(value > 0.0f)) return 0.0f;  // NaN too
  return value < top ? std::nearbyint(value) : top;
}

void store_ref(Pixel type, void* image, int64_t i, float value) {
  char* at = static_cast<char*>(image) + i * pixel_bytes(type);
  uint16_t word;
  switch (type) {
    case Pixel::u8:
      *reinterpret_cast<uint8_t*>(at) = static_cast<uint8_t>(round_ref(value, 255.0f));
      return;
    case Pixel::u16:
      word = static_cast<uint16_t>(round_ref(value, 65535.0f));
      std::memcpy(at, &word, 2);
      return;
    case Pixel::f16:
      word = float_to_half(value);
      std::memcpy(at, &word, 2);
      return;
    case Pixel::f32:
      std::memcpy(at, &value, 4);
      return;
  }
}

template <Pixel T>
void in_ref(const void* image, int64_t image_channels, float* out, int64_t channels, int64_t out_pitch,
            int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < out_pitch; ++c)
      out[p * out_pitch + c] =
          c < channels ? load_ref(T, image, p * image_channels + (image_channels == 1 ? 0 : c)) : 0.0f;
}

template <Pixel T>
int64_t out_ref(const float* restored, int64_t in_pitch, int64_t channels, const void* image, void* out,
                int64_t image_channels, int64_t pixels, float strength, bool clip) {
  int64_t not_finite = 0;
  for (int64_t p = 0; p < pixels; ++p) {
    const float* pixel = restored + p * in_pitch;
    for (int64_t c = 0; c < channels; ++c) not_finite += !std::isfinite(pixel[c]);
    for (int64_t c = 0; c < image_channels; ++c) {
      float value = pixel[c];
      if (image_channels == 1 && channels > 1) {
        for (int64_t i = 1; i < channels; ++i) value += pixel[i];
        value /= static_cast<float>(channels);
      }
      if (strength != 1.0f) {
        const float original = load_ref(T, image, p * image_channels + c);
        value = original + strength * (value - original);
      }
      if (clip) value = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
      store_ref(T, out, p * image_channels + c, value);
    }
  }
  return not_finite;
}

void widen_ref(const Bf16* in, float* out, int64_t values) {
  for (int64_t i = 0; i < values; ++i) out[i] = bf16_to_float(in[i]);
}

void narrow_ref(const float* in, Bf16* out, int64_t values) {
  for (int64_t i = 0; i < values; ++i) out[i] = float_to_bf16(in[i]);
}

void widen_levels_ref(const uint8_t* in, float* out, int64_t values, Levels levels) {
  for (int64_t i = 0; i < values; ++i) out[i] = level_to_float(in[i], levels);
}

void narrow_levels_ref(const float* in, uint8_t* out, int64_t values, Levels levels) {
  for (int64_t i = 0; i < values; ++i) out[i] = nearest_level(in[i] / levels.scale + static_cast<float>(levels.zero));
}

}  // namespace

const ConvertKernels convert_ref = {{in_ref<Pixel::u8>, in_ref<Pixel::u16>, in_ref<Pixel::f16>, in_ref<Pixel::f32>},
                                    {out_ref<Pixel::u8>, out_ref<Pixel::u16>, out_ref<Pixel::f16>, out_ref<Pixel::f32>},
                                    widen_ref,
                                    narrow_ref,
                                    widen_levels_ref,
                                    narrow_levels_ref};

const ConvertKernels& get_convert(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/convert/kernels.inc"
#undef FR_KERNEL
  return convert_ref;
}

ConvertInFn* get_convert_in(Pixel type, Isa allowed) { return get_convert(allowed).in[static_cast<int>(type)]; }
ConvertOutFn* get_convert_out(Pixel type, Isa allowed) { return get_convert(allowed).out[static_cast<int>(type)]; }

}  // namespace fr
