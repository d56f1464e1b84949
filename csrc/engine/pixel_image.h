// Pixel kernels over whole batches of dense NHWC images, shared among threads.
#pragma once
#include <cstdint>

#include "kernels/convert/convert.h"

namespace fr {

// packed: [images, height, width, channels * r * r]; out: [images, height * r, width * r, channels].
void pixel_shuffle_images(const float* packed, float* out, int64_t images, int64_t height, int64_t width,
                          int64_t channels, int64_t r, int threads);

// in: [images, height * r, width * r, channels]; packed: [images, height, width, channels * r * r].
void pixel_unshuffle_images(const float* in, float* packed, int64_t images, int64_t height, int64_t width,
                            int64_t channels, int64_t r, int threads);

// image, out: [values].
void convert_in_values(Pixel type, const void* image, float* out, int64_t values, int threads);

// restored, out: [values].
void convert_out_values(Pixel type, const float* restored, void* out, int64_t values, bool clip, int threads);

}  // namespace fr
