#include "kernels/pixel_shuffle/pixel_shuffle.h"

namespace fr {
namespace {

// Channels outermost but for the rows: then both pointers advance by a constant, and for a known R the compiler
// unrolls the R values that lie together.
template <int64_t R>
void shuffle(const float* packed, int64_t in_pitch, float* const* out, int64_t out_pitch, int64_t channels,
             int64_t any_r, int64_t cells) {
  const int64_t r = R ? R : any_r;
  for (int64_t a = 0; a < r; ++a) {
    for (int64_t x = 0; x < cells; ++x) {
      const float* from = packed + x * in_pitch + a * r;
      float* to = out[a] + x * r * out_pitch;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t b = 0; b < r; ++b) to[b * out_pitch + c] = from[c * r * r + b];
    }
  }
}

template <int64_t R>
void unshuffle(const float* const* in, int64_t in_pitch, float* packed, int64_t out_pitch, int64_t channels,
               int64_t any_r, int64_t cells) {
  const int64_t r = R ? R : any_r;
  for (int64_t a = 0; a < r; ++a) {
    for (int64_t x = 0; x < cells; ++x) {
      const float* from = in[a] + x * r * in_pitch;
      float* to = packed + x * out_pitch + a * r;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t b = 0; b < r; ++b) to[c * r * r + b] = from[b * in_pitch + c];
    }
  }
}

}  // namespace

void pixel_shuffle_row(const float* packed, int64_t in_pitch, float* const* out, int64_t out_pitch, int64_t channels,
                       int64_t r, int64_t cells) {
  auto* kernel = r == 2 ? shuffle<2> : r == 3 ? shuffle<3> : r == 4 ? shuffle<4> : shuffle<0>;
  kernel(packed, in_pitch, out, out_pitch, channels, r, cells);
}

void pixel_unshuffle_row(const float* const* in, int64_t in_pitch, float* packed, int64_t out_pitch, int64_t channels,
                         int64_t r, int64_t cells) {
  auto* kernel = r == 2 ? unshuffle<2> : r == 3 ? unshuffle<3> : r == 4 ? unshuffle<4> : unshuffle<0>;
  kernel(in, in_pitch, packed, out_pitch, channels, r, cells);
}

}  // namespace fr
