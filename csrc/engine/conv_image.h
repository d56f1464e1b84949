// A convolution over a batch of NHWC images: cuts it into bands of rows and shares these among threads.
#pragma once
#include <cstdint>

#include "kernels/conv2d/conv2d.h"

namespace fr {

// Where a batch of NHWC images lies; pitches in floats. A pixel's channels are contiguous.
template <class T>
struct NhwcView {
  T* data = nullptr;
  int64_t image_pitch = 0, row_pitch = 0, pixel_pitch = 0;
  T* row(int64_t image, int64_t y) const { return data + image * image_pitch + y * row_pitch; }
};

struct ConvImages {
  int64_t images = 0, in_height = 0, in_width = 0, out_height = 0, out_width = 0;
  NhwcView<const float> in, residual;  // residual: unused when spec.residual is none
  NhwcView<float> out;                 // must not overlap `in`
};

// Output pixels along one side, for padding at both ends; 0 for an empty input.
// Throws std::invalid_argument when the kernel does not fit into a padded input that is not empty.
int64_t conv_out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation);

// Computes all of `out`. The result does not depend on `threads`.
void conv_images(const PackedConv& conv, const ConvImages& images, int threads);

}  // namespace fr
