// Space to channels and back, one row of input cells at a time, NHWC, in PyTorch's channel order:
//
//   shuffled[y * r + a][x * r + b][c] = packed[y][x][c * r * r + a * r + b]
//
// Sizes may be 0. Channel pads beyond those named are left untouched. Input and output must not overlap.
#pragma once
#include <cstdint>

namespace fr {

// packed: [cells] pixels of channels * r * r, in_pitch floats apart; out: r rows of cells * r pixels.
void pixel_shuffle_row(const float* packed, int64_t in_pitch, float* const* out, int64_t out_pitch, int64_t channels,
                       int64_t r, int64_t cells);

// in: r rows of cells * r pixels of `channels`; packed: [cells] pixels of channels * r * r.
void pixel_unshuffle_row(const float* const* in, int64_t in_pitch, float* packed, int64_t out_pitch, int64_t channels,
                         int64_t r, int64_t cells);

}  // namespace fr
