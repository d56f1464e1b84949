#include "engine/conv_image.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"

namespace fr {
namespace {

constexpr int64_t kTile = 4;            // winograd4's grid, which every band must begin on
constexpr int64_t kMostRows = 16;       // of a band's input: it and the output stay near the core
constexpr int64_t kBandsPerThread = 4;  // so that one late thread does not leave the others idle for long

int64_t rows_per_band(const ConvImages& images, int64_t stride, int threads) {
  const int64_t most = std::max(kTile, kMostRows / stride / kTile * kTile);
  const int64_t shares = threads > 1 ? threads * kBandsPerThread : 1;
  const int64_t rows = ceil_div(images.images * images.out_height, shares);
  return std::min(most, round_up(std::max<int64_t>(rows, 1), kTile));
}

struct Scratch {
  Buffer<float> workspace;
  std::vector<const void*> in, residual;
  std::vector<void*> out;
};

void run_band(const PackedConv& conv, const ConvImages& images, int64_t image, int64_t y, int64_t rows,
              Scratch& scratch) {
  const ConvSpec& spec = conv.spec;
  const int64_t in_rows = conv.algorithm == ConvAlgorithm::winograd4
                              ? round_up(rows, kTile) + 2
                              : (rows - 1) * spec.stride_h + (spec.kernel_h - 1) * spec.dilation_h + 1;
  scratch.in.resize(in_rows);
  scratch.out.resize(rows);
  for (int64_t i = 0; i < in_rows; ++i) {
    const int64_t row = y * spec.stride_h - spec.pad_top + i;
    scratch.in[i] = row >= 0 && row < images.in_height ? images.in.row(image, row) : nullptr;
  }
  for (int64_t j = 0; j < rows; ++j) scratch.out[j] = images.out.row(image, y + j);
  if (spec.residual != Residual::none) {
    scratch.residual.resize(rows);
    for (int64_t j = 0; j < rows; ++j) scratch.residual[j] = images.residual.row(image, y + j);
  }
  ConvBand band;
  band.in = scratch.in.data();
  band.in_end = images.in_width;
  band.in_pitch = images.in.pixel_pitch;
  band.out = scratch.out.data();
  band.out_pitch = images.out.pixel_pitch;
  band.residual = scratch.residual.data();
  band.residual_pitch = images.residual.pixel_pitch;
  band.rows = rows;
  band.x_end = images.out_width;
  conv.run(conv, band, scratch.workspace.data());
}

}  // namespace

int64_t conv_out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  if (size < 0 || kernel < 1 || stride < 1 || padding < 0 || dilation < 1)
    throw std::invalid_argument(
        "conv2d: sizes and padding must not be negative; kernel, stride and dilation at least 1");
  const int64_t reach = checked_product(kernel - 1, dilation);
  int64_t padded;
  if (__builtin_mul_overflow(padding, 2, &padded) || __builtin_add_overflow(padded, size, &padded))
    throw std::length_error("conv2d: the padded size exceeds 63 bits");
  if (size == 0) return 0;
  if (padded <= reach)
    throw std::invalid_argument("conv2d: a kernel that spans " + std::to_string(reach) +
                                " + 1 pixels does not fit into " + std::to_string(size) + " + 2 * " +
                                std::to_string(padding));
  return (padded - reach - 1) / stride + 1;
}

void conv_images(const PackedConv& conv, const ConvImages& images, int threads) {
  if (images.images == 0 || images.out_height == 0 || images.out_width == 0) return;
  const int64_t band_rows = rows_per_band(images, conv.spec.stride_h, threads);
  const int64_t bands = ceil_div(images.out_height, band_rows);
  std::vector<Scratch> scratch(std::max(1, threads));
  parallel_for(images.images * bands, threads, [&](int64_t index, int thread) {
    Scratch& mine = scratch[thread];
    if (mine.workspace.size() != conv.workspace_floats) mine.workspace = Buffer<float>(conv.workspace_floats);
    const int64_t y = index % bands * band_rows;
    run_band(conv, images, index / bands, y, std::min(band_rows, images.out_height - y), mine);
  });
}

}  // namespace fr
