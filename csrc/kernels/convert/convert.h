// Pixels of a picture to float and back, one row at a time.
//
//   in:   u8 v -> v / 255, u16 v -> v / 65535 (correctly rounded), f16 and f32 as they are
//   out:  v = image + strength * (restored - image); clipped to [0, 1] if asked; u8/u16 round half to even and
//         saturate whether or not clipping is asked; NaN becomes 0 in u8/u16 and stays NaN in f16/f32
//
// A picture has 1 or 3 (in general: any) interleaved channels. One of 1 channel goes into a network of more with
// its plane repeated, and comes out as the mean of the network's channels.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"
#include "base/isa.h"
#include "base/levels.h"

namespace fr {

enum class Pixel : int32_t { u8, u16, f16, f32 };

constexpr int64_t pixel_bytes(Pixel type) { return type == Pixel::u8 ? 1 : type == Pixel::f32 ? 4 : 2; }

// image: `pixels` pixels of image_channels; out: pixels of out_pitch floats, of which `channels` are written and
// those up to out_pitch set to 0. image_channels == channels, or 1.
using ConvertInFn = void(const void* image, int64_t image_channels, float* out, int64_t channels, int64_t out_pitch,
                         int64_t pixels);

// restored: pixels of in_pitch floats, of which `channels` are read; image: the original row (read when
// strength != 1); out: the row to write, of image_channels. Returns how many restored values were not finite.
using ConvertOutFn = int64_t(const float* restored, int64_t in_pitch, int64_t channels, const void* image, void* out,
                             int64_t image_channels, int64_t pixels, float strength, bool clip);

// One variant's functions, by Pixel.
struct ConvertKernels {
  ConvertInFn* in[4];
  ConvertOutFn* out[4];
  void (*widen)(const Bf16* in, float* out, int64_t values);   // exact
  void (*narrow)(const float* in, Bf16* out, int64_t values);  // to nearest even, NaN made quiet
  void (*widen_levels)(const uint8_t* in, float* out, int64_t values, Levels levels);
  void (*narrow_levels)(const float* in, uint8_t* out, int64_t values, Levels levels);  // to nearest even
};
#define FR_KERNEL(name, isa) extern const ConvertKernels name;
#include "kernels/convert/kernels.inc"
#undef FR_KERNEL

const ConvertKernels& get_convert(Isa allowed = host_isa());
ConvertInFn* get_convert_in(Pixel type, Isa allowed = host_isa());
ConvertOutFn* get_convert_out(Pixel type, Isa allowed = host_isa());

}  // namespace fr
