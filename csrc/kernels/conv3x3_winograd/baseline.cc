#define FR_ISA baseline
#include "kernels/conv3x3_winograd/simd_impl.h"

void fr::conv3x3_winograd4_baseline(const PackedConv& packed, const ConvBand& band, float* workspace) {
  baseline::convolve_winograd4<baseline::Floats, float>(packed, band, workspace);
}
