// What packing (compiled once) and the kernels (compiled per instruction set) must agree on. Functions are
// static: each object keeps its own copy, so no wide instruction reaches an older CPU through a shared one.
#pragma once
#include <cstdint>

#include "kernels/conv2d/conv2d.h"

namespace fr {

#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  void name(const PackedConv& packed, const ConvBand& band, float* workspace);
#include "kernels/conv2d/kernels.inc"
#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  void name(const PackedConv& packed, const ConvBand& band, float* workspace);
#include "kernels/conv3x3_winograd/kernels.inc"
#define FR_CONV(name, algorithm, isa, width, block_vectors) \
  void name(const PackedConv& packed, const ConvBand& band, float* workspace);
#include "kernels/conv2d_int8/kernels.inc"

// Not inline, for the reason above: Buffer's accessors are shared symbols.
const float* packed_weights(const PackedConv& packed);
const float* packed_bias(const PackedConv& packed);

// A group's output channels, in vectors, are cut into blocks of nearly equal size, the larger ones first.
static inline int64_t channel_block_count(int64_t vectors, int64_t most) { return (vectors + most - 1) / most; }
// The first vector of a block; of block == count: the number of vectors.
static inline int64_t channel_block_begin(int64_t vectors, int64_t count, int64_t block) {
  const int64_t larger = vectors % count;
  return block * (vectors / count) + (block < larger ? block : larger);
}

// Direct: the most output pixels that one register tile holds.
constexpr int64_t kMaxTilePixels = 16;

// Direct with so few outputs that vectors of output channels would be mostly empty: vectors of input channels
// are multiplied and their lanes added up at the end.
static inline bool uses_dot_products(const ConvSpec& spec, int64_t width) {
  return spec.groups == 1 && spec.out_channels <= 4 && spec.out_channels < width && spec.in_channels % width == 0;
}

// bf16_direct: pairs of input channels, the last of which may hold zero weights only. Few outputs take whole vectors.
static inline int64_t channel_pairs(const ConvSpec& spec) {
  return spec.out_channels <= 4 ? (spec.in_channels + 31) / 32 * 16 : (spec.in_channels + 1) / 2;
}

constexpr int64_t kAmxPixels = 32;  // that a block of tiles computes
static inline int64_t amx_pairs(const ConvSpec& spec) { return (spec.in_channels + 31) / 32 * 16; }
// Two blocks' sums of two vectors of outputs, and copies of two tiles of pixels.
constexpr int64_t amx_workspace_floats(int64_t width) { return 2 * kAmxPixels * 2 * width + 2 * 16 * 16; }

static inline bool is_depthwise(const ConvSpec& spec) {
  return spec.groups == spec.in_channels && spec.groups == spec.out_channels;
}

// Input columns that `pixels` neighbouring outputs look at.
static inline int64_t patch_columns(const ConvSpec& spec, int64_t pixels) {
  return (pixels - 1) * spec.stride_w + (spec.kernel_w - 1) * spec.dilation_w + 1;
}

// Winograd: activations are transformed in chunks of 16 channels. A block of tiles has one slot per
// transformed position and chunk: tiles * 16 floats, and one line more so that slots do not share cache sets.
constexpr int64_t kChunk = 16;
constexpr int64_t kPositions = 36;
constexpr int64_t kPatchTiles = 4;
constexpr int64_t kPatchFloats = 6 * (4 * kPatchTiles + 2) * kChunk;

constexpr int64_t slot_floats(int64_t tiles) { return tiles * kChunk + kChunk; }
// One slot more than positions: products of position p are written where position p - 1 has been read.
constexpr int64_t chunk_floats(int64_t tiles) { return (kPositions + 1) * slot_floats(tiles); }

// Tiles in a block. Each block reads all transformed weights once, so wide layers, whose weights do not stay
// in the second-level cache, take larger ones; narrow layers leave the cache to the rows around the block.
// Measured on a CPU with 2 MB of second-level and slow third-level cache; it does not change the result.
static inline int64_t winograd_block_tiles(const ConvSpec& spec) {
  const int64_t products = spec.in_channels * spec.out_channels;
  return products <= 96 * 96 ? 12 : products <= 128 * 128 ? 24 : products <= 192 * 192 ? 48 : 96;
}

}  // namespace fr
