// What the kernels for the AMX matrix unit share: the tiles' shape, and sums that are finished while the unit computes
// the next.
#pragma once
#include "kernels/conv2d/epilogue.h"

namespace fr::amx {

constexpr int64_t kTilePixels = 16;
constexpr int64_t kTileFloats = 16 * kWidth;  // of a tile of sums, or of one of weights, whose cells are as large

// All tiles of 16 rows of 64 bytes, as the processor wants it described.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Sums of a block that has been computed. End: operator()(sum, spec, target) turns those of some pixels into results.
template <class End>
struct Pending {
  const float* sums = nullptr;
  int64_t pixels = 0, outputs = 0;  // that are left, and vectors of channels
  End end;
  Target target;
};

template <int kPixels, int kOutputs, class End>
FR_INLINE void finish_pixels(const ConvSpec& spec, Pending<End>& pending) {
  Vec sum[kPixels][kOutputs];
  FR_UNROLL
  for (int m = 0; m < kPixels; ++m) {
    FR_UNROLL
    for (int n = 0; n < kOutputs; ++n) sum[m][n] = load(pending.sums + (m * kOutputs + n) * kWidth);
  }
  pending.end(sum, spec, pending.target);
  pending.pixels -= kPixels;
  pending.sums += kPixels * kOutputs * kWidth;
  pending.target.out += kPixels * pending.target.out_step;
  pending.target.residual += kPixels * pending.target.residual_step;
}

// The next few pixels, if any are left: a step's worth, which the matrix unit's products hide.
template <class End>
__attribute__((noinline)) void finish_some(const ConvSpec& spec, Pending<End>& pending) {
  if (pending.pixels >= 4)
    pending.outputs == 2 ? finish_pixels<4, 2>(spec, pending) : finish_pixels<4, 1>(spec, pending);
  else if (pending.pixels > 0)
    pending.outputs == 2 ? finish_pixels<1, 2>(spec, pending) : finish_pixels<1, 1>(spec, pending);
}

template <class End>
FR_INLINE void finish_all(const ConvSpec& spec, Pending<End>& pending) {
  while (pending.pixels > 0) finish_some(spec, pending);
}

// Tiles 0 to 3 begin as zeros and end as sums: 0 and 1 of the first 16 pixels, 2 and 3 of the second, each for one
// vector of output channels, or for two.
template <int kOutputs>
FR_INLINE void clear_sums() {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (kOutputs == 2) {
    _tile_zero(1);
    _tile_zero(3);
  }
}

template <int kOutputs>
FR_INLINE void store_sums(float* sums) {
  constexpr int64_t kStride = kOutputs * 64;
  _tile_stored(0, sums, kStride);
  _tile_stored(2, sums + kTilePixels * kOutputs * kWidth, kStride);
  if constexpr (kOutputs == 2) {
    _tile_stored(1, sums + kWidth, kStride);
    _tile_stored(3, sums + kTilePixels * kOutputs * kWidth + kWidth, kStride);
  }
}

}  // namespace fr::amx
