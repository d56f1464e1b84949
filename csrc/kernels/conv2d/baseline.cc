#define FR_ISA baseline
#include "kernels/conv2d/simd_impl.h"

void fr::conv2d_direct_baseline(const PackedConv& packed, const ConvBand& band, float* workspace) {
  baseline::convolve_direct(packed, band, workspace);
}

void fr::conv2d_grouped_baseline(const PackedConv& packed, const ConvBand& band, float* workspace) {
  baseline::convolve_grouped(packed, band, workspace);
}
