#include "kernels/conv3x3_winograd/winograd4.h"

#include <algorithm>
#include <cstring>

#include "kernels/conv2d/layout.h"

namespace fr {
namespace {

// G of U = G g G^T (Lavin and Gray, 2015) for the points 0, a, -a, b, -b and infinity, a = 1/sqrt(2),
// b = sqrt(2): half the rounding error of the customary 1 and 2. Row i belongs to point p_i; its scale
// 1 / prod_j(p_i - p_j) makes the input transform's coefficients simple.
struct WeightTransform {
  double g[6][3] = {};
  WeightTransform() {
    const double a = 0.70710678118654752440, b = 1.41421356237309504880;
    const double points[5] = {0.0, a, -a, b, -b};
    for (int i = 0; i < 5; ++i) {
      double scale = 1.0;
      for (int j = 0; j < 5; ++j)
        if (j != i) scale /= points[i] - points[j];
      g[i][0] = scale;
      g[i][1] = scale * points[i];
      g[i][2] = scale * points[i] * points[i];
    }
    g[5][2] = 1.0;
  }
};

}  // namespace

void pack_winograd4(const ConvSpec& spec, const ConvVariant& variant, const float* weight, const float* bias,
                    PackedConv* packed) {
  const WeightTransform transform;
  const int64_t in_channels = spec.in_channels;
  const int64_t vectors = ceil_div(spec.out_channels, variant.width);
  const int64_t blocks = channel_block_count(vectors, variant.block_vectors);
  const int64_t out_channels = vectors * variant.width;
  const bool pairs = reads_bf16(variant.algorithm);  // of bfloat16, in the places of floats
  const int64_t depth = pairs ? round_up(in_channels, kChunk) / 2 : in_channels;
  packed->weights = Buffer<float>(checked_product(kPositions, depth, out_channels));
  std::memset(packed->weights.data(), 0, static_cast<size_t>(packed->weights.bytes()));
  packed->bias = Buffer<float>(out_channels);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = channel_block_begin(vectors, blocks, block) * variant.width;
    const int64_t end = channel_block_begin(vectors, blocks, block + 1) * variant.width;
    for (int64_t co = begin; co < end; ++co) {
      const bool real = co < spec.out_channels;
      packed->bias[co] = real && bias != nullptr ? bias[co] : 0.0f;
      for (int64_t ci = 0; ci < in_channels; ++ci) {
        const int64_t place = depth * begin + (pairs ? ci / 2 : ci) * (end - begin) + (co - begin);
        const float* w = weight + (co * in_channels + ci) * 9;
        double half[6][3] = {};
        for (int i = 0; i < 6; ++i)
          for (int x = 0; x < 3; ++x)
            for (int y = 0; y < 3; ++y)
              if (real) half[i][x] += transform.g[i][y] * w[y * 3 + x];
        for (int i = 0; i < 6; ++i)
          for (int j = 0; j < 6; ++j) {
            double sum = 0.0;
            for (int x = 0; x < 3; ++x) sum += half[i][x] * transform.g[j][x];
            float* u = packed->weights.data() + place + (i * 6 + j) * depth * out_channels;
            if (pairs)
              reinterpret_cast<Bf16*>(u)[ci % 2] = float_to_bf16(static_cast<float>(sum));
            else
              *u = static_cast<float>(sum);
          }
      }
    }
  }
  const int64_t chunks = ceil_div(std::max(in_channels, spec.out_channels), kChunk);
  packed->workspace_floats = checked_product(chunks, chunk_floats(winograd_block_tiles(spec))) + kPatchFloats;
}

}  // namespace fr
