// The loops of every instruction set: written plainly, for the compiler to vectorise. Interleaved pixels are
// handled as one long run of values wherever they lie together; else they pass through a chunk on the stack, so
// that the arithmetic still runs over whole vectors.
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "base/half.h"
#include "kernels/convert/convert.h"

namespace fr {
namespace FR_ISA {
namespace {

constexpr int64_t kChunk = 1024;    // values on the stack: 4 KiB, a part of the first-level cache
constexpr int64_t kLongPixel = 64;  // a pixel of more channels is a run by itself

// Rows of a foreign picture may begin anywhere. (As a template argument a type would lose these attributes.)
using U8 __attribute__((may_alias)) = uint8_t;
using U16 __attribute__((aligned(1), may_alias)) = uint16_t;
using F32 __attribute__((aligned(1), may_alias)) = float;

template <Pixel T>
constexpr int64_t bytes = T == Pixel::u8    ? 1
                          : T == Pixel::f32 ? 4
                                            : 2;

template <Pixel T>
void load(const void* from, float* __restrict to, int64_t count) {
  if constexpr (T == Pixel::u8) {
    const U8* in = static_cast<const U8*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(in[i]) / 255.0f;
  } else if constexpr (T == Pixel::u16) {
    const U16* in = static_cast<const U16*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(in[i]) / 65535.0f;
  } else if constexpr (T == Pixel::f16) {
    const U16* in = static_cast<const U16*>(from);
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
#endif
    for (; i < count; ++i) to[i] = half_to_float(in[i]);
  } else {
    const F32* in = static_cast<const F32*>(from);
    for (int64_t i = 0; i < count; ++i) to[i] = in[i];
  }
}

// Scales and saturates; NaN becomes 0. Two loops, because GCC turns two comparisons with constants in one loop
// into branches, which it does not vectorise.
inline void saturate(float* values, int64_t count, float top) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = values[i] * top;
    values[i] = value > 0.0f ? value : 0.0f;
  }
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] < top ? values[i] : top;
}

// Half to even, for values below 2^22: the last place of the sum with 1.5 * 2^23 is 1, so the addition rounds.
inline int32_t round_to_int(float value) { return static_cast<int32_t>((value + 12582912.0f) - 12582912.0f); }

// values: overwritten.
template <Pixel T>
void store(float* __restrict values, void* to, int64_t count) {
  if constexpr (T == Pixel::u8) {
    U8* out = static_cast<U8*>(to);
    saturate(values, count, 255.0f);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(round_to_int(values[i]));
  } else if constexpr (T == Pixel::u16) {
    U16* out = static_cast<U16*>(to);
    saturate(values, count, 65535.0f);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint16_t>(round_to_int(values[i]));
  } else if constexpr (T == Pixel::f16) {
    U16* out = static_cast<U16*>(to);
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; ++i) out[i] = float_to_half(values[i]);
  } else {
    F32* out = static_cast<F32*>(to);
    for (int64_t i = 0; i < count; ++i) out[i] = values[i];
  }
}

inline int64_t count_not_finite(const float* from, int64_t count) {
  int32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += !(__builtin_fabsf(from[i]) <= __FLT_MAX__);
  return found;
}

template <Pixel T>
void convert_in(const void* image, int64_t image_channels, float* out, int64_t channels, int64_t out_pitch,
                int64_t pixels) {
  const char* from = static_cast<const char*>(image);
  if (image_channels == channels && out_pitch == channels) return load<T>(from, out, pixels * channels);
  if (image_channels > kLongPixel) {
    for (int64_t p = 0; p < pixels; ++p, out += out_pitch) {
      load<T>(from + p * image_channels * bytes<T>, out, channels);
      for (int64_t c = channels; c < out_pitch; ++c) out[c] = 0.0f;
    }
    return;
  }
  alignas(64) float chunk[kChunk];
  const int64_t step = kChunk / image_channels;
  for (int64_t begin = 0; begin < pixels; begin += step) {
    const int64_t count = pixels - begin < step ? pixels - begin : step;
    load<T>(from + begin * image_channels * bytes<T>, chunk, count * image_channels);
    const float* pixel = chunk;
    for (int64_t p = 0; p < count; ++p, pixel += image_channels, out += out_pitch) {
      if (image_channels == 1)
        for (int64_t c = 0; c < channels; ++c) out[c] = pixel[0];
      else
        for (int64_t c = 0; c < channels; ++c) out[c] = pixel[c];
      for (int64_t c = channels; c < out_pitch; ++c) out[c] = 0.0f;
    }
  }
}

// values: changed in place; at most kChunk of them.
template <Pixel T>
void finish(float* __restrict values, const void* image, void* out, int64_t count, float strength, bool clip) {
  if (strength != 1.0f) {
    alignas(64) float original[kChunk];
    load<T>(image, original, count);
    for (int64_t i = 0; i < count; ++i) values[i] = original[i] + strength * (values[i] - original[i]);
  }
  if (clip)
    for (int64_t i = 0; i < count; ++i) {
      const float above = values[i] < 0.0f ? 0.0f : values[i];
      values[i] = above > 1.0f ? 1.0f : above;
    }
  store<T>(values, out, count);
}

template <Pixel T>
int64_t convert_run(const float* restored, const char* image, char* out, int64_t count, float strength, bool clip) {
  alignas(64) float chunk[kChunk];
  int64_t not_finite = 0;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    const int64_t n = count - begin < kChunk ? count - begin : kChunk;
    not_finite += count_not_finite(restored + begin, n);
    for (int64_t i = 0; i < n; ++i) chunk[i] = restored[begin + i];
    finish<T>(chunk, image ? image + begin * bytes<T> : nullptr, out + begin * bytes<T>, n, strength, clip);
  }
  return not_finite;
}

template <Pixel T>
int64_t convert_out(const float* restored, int64_t in_pitch, int64_t channels, const void* image, void* out,
                    int64_t image_channels, int64_t pixels, float strength, bool clip) {
  const char* original = strength != 1.0f ? static_cast<const char*>(image) : nullptr;
  char* to = static_cast<char*>(out);
  if (image_channels == channels && in_pitch == channels)
    return convert_run<T>(restored, original, to, pixels * channels, strength, clip);
  const int64_t pixel = image_channels * bytes<T>;
  int64_t not_finite = 0;
  if (image_channels > kLongPixel) {
    for (int64_t p = 0; p < pixels; ++p)
      not_finite += convert_run<T>(restored + p * in_pitch, original ? original + p * pixel : nullptr, to + p * pixel,
                                   channels, strength, clip);
    return not_finite;
  }
  alignas(64) float chunk[kChunk];
  const int64_t step = kChunk / image_channels;
  for (int64_t begin = 0; begin < pixels; begin += step) {
    const int64_t count = pixels - begin < step ? pixels - begin : step;
    float* value = chunk;
    for (int64_t p = 0; p < count; ++p, restored += in_pitch, value += image_channels) {
      if (image_channels == channels) {
        for (int64_t c = 0; c < channels; ++c) value[c] = restored[c];
      } else {
        not_finite += count_not_finite(restored, channels);
        float sum = restored[0];
        for (int64_t c = 1; c < channels; ++c) sum += restored[c];
        value[0] = sum / static_cast<float>(channels);
      }
    }
    if (image_channels == channels) not_finite += count_not_finite(chunk, count * channels);
    finish<T>(chunk, original ? original + begin * pixel : nullptr, to + begin * pixel, count * image_channels,
              strength, clip);
  }
  return not_finite;
}

void widen(const Bf16* in, float* out, int64_t values) {
  for (int64_t i = 0; i < values; ++i) out[i] = bf16_to_float(in[i]);
}

void narrow(const float* in, Bf16* out, int64_t values) {
  for (int64_t i = 0; i < values; ++i) out[i] = float_to_bf16(in[i]);
}

void widen_levels(const uint8_t* in, float* out, int64_t values, Levels levels) {
  for (int64_t i = 0; i < values; ++i) out[i] = level_to_float(in[i], levels);
}

void narrow_levels(const float* in, uint8_t* out, int64_t values, Levels levels) {
  const float zero = static_cast<float>(levels.zero);
  for (int64_t i = 0; i < values; ++i) out[i] = nearest_level(in[i] / levels.scale + zero);
}

constexpr ConvertKernels kernels = {
    {convert_in<Pixel::u8>, convert_in<Pixel::u16>, convert_in<Pixel::f16>, convert_in<Pixel::f32>},
    {convert_out<Pixel::u8>, convert_out<Pixel::u16>, convert_out<Pixel::f16>, convert_out<Pixel::f32>},
    widen,
    narrow,
    widen_levels,
    narrow_levels};

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
