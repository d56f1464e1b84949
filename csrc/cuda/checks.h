// Checks that the kernels' launchers share.
#pragma once
#include <string>

#include "base/buffer.h"
#include "cuda/kernels.h"

namespace fr::cuda {

constexpr int64_t kMostPixels = int64_t(1) << 30;  // of one launch: kernels count them in 32 bits
constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

inline void check_extent(const Extent& extent, const char* what) {
  const bool sizes = extent.images >= 0 && extent.height >= 0 && extent.width >= 0 && extent.channels >= 1 &&
                     extent.images < (1 << 24) && extent.height < (1 << 24) && extent.width < (1 << 24) &&
                     extent.channels < (1 << 20);
  if (!sizes || checked_product(extent.images, extent.height, extent.width) >= kMostPixels)
    throw std::invalid_argument(std::string(what) + ": sizes are out of range");
}

// An image's address, pitches and extent.
template <class Data>
void check_images(const ImagesOf<Data>& images, const Extent& extent, const char* what) {
  check_extent(extent, what);
  if (extent.pixels() == 0) return;
  if (images.data == nullptr || reinterpret_cast<uintptr_t>(images.data) % 16 != 0)
    throw std::invalid_argument(std::string(what) + ": data must be aligned to 16 bytes");
  if ((images.pixel_pitch | images.row_pitch | images.image_pitch) % 8 != 0 || images.pixel_pitch < extent.channels)
    throw std::invalid_argument(std::string(what) + ": pitches must be multiples of 8 values and hold the channels");
}

// Blocks that give each item a thread.
inline int64_t blocks_for(int64_t items, int threads) {
  const int64_t blocks = ceil_div(items, threads);
  require(blocks <= kMostBlocks, "cuda: too many values for one launch");
  return blocks;
}

}  // namespace fr::cuda
