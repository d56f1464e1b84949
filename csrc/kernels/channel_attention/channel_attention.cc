#include "kernels/channel_attention/channel_attention.h"

#include <algorithm>
#include <cmath>

namespace fr {
namespace {

constexpr int64_t kChunk = 64;          // pixels that the kernels copy at a time
constexpr double kLeastLength = 1e-12;  // of queries and keys, as torch.nn.functional.normalize has it

float value_at(const void* row, int64_t place, Element element) {
  return element == Element::f32 ? static_cast<const float*>(row)[place]
                                 : bf16_to_float(static_cast<const Bf16*>(row)[place]);
}

void gram_ref(const GramRows& g, float*) {
  const int64_t n = g.channels;
  std::fill_n(g.out, n * (n + 2), 0.0f);
  for (int64_t row = 0; row < g.row_count; ++row)
    for (int64_t x = 0; x < g.pixels; ++x)
      for (int64_t i = 0; i < n; ++i) {
        const float q = value_at(g.queries[row], x * g.pitch + i, g.element);
        const float k = value_at(g.queries[row], x * g.pitch + g.keys + i, g.element);
        for (int64_t j = 0; j < n; ++j)
          g.out[i * n + j] += q * value_at(g.queries[row], x * g.pitch + g.keys + j, g.element);
        g.out[n * n + i] += q * q;
        g.out[n * (n + 1) + i] += k * k;
      }
}

void mix_ref(const MixRow& m) {
  const int64_t n = m.channels;
  for (int64_t x = 0; x < m.pixels; ++x)
    for (int64_t head = 0; head < m.heads; ++head)
      for (int64_t i = 0; i < n; ++i) {
        float sum = 0.0f;
        for (int64_t j = 0; j < n; ++j) sum += m.weights[(head * n + j) * n + i] * m.in[x * m.in_pitch + head * n + j];
        m.out[x * m.out_pitch + head * n + i] = sum;
      }
}

}  // namespace

const ChannelAttentionKernels channel_attention_ref = {gram_ref, mix_ref};

int64_t gram_scratch_floats(int64_t channels) { return 2 * kChunk * ((channels + 15) / 16 * 16); }

const ChannelAttentionKernels& get_channel_attention(Isa allowed) {
#define FR_KERNEL(name, isa) \
  if (includes(allowed, isa)) return name;
#include "kernels/channel_attention/kernels.inc"
#undef FR_KERNEL
  return channel_attention_ref;
}

void channel_softmax(const float* partial, int64_t rows, int64_t pitch, int64_t heads, int64_t channels,
                     const float* temperature, double* scratch, float* weights) {
  const int64_t n = channels, each = n * (n + 2);
  std::fill_n(scratch, heads * each, 0.0);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t i = 0; i < heads * each; ++i) scratch[i] += static_cast<double>(partial[y * pitch + i]);
  for (int64_t head = 0; head < heads; ++head) {
    const double* gram = scratch + head * each;
    const auto length = [](double squares) { return std::max(std::sqrt(squares), kLeastLength); };
    for (int64_t i = 0; i < n; ++i) {
      float* out = weights + head * n * n + i;  // column i
      const double query = length(gram[n * n + i]);
      double most = -INFINITY, total = 0.0;
      const auto score = [&](int64_t j) {
        return static_cast<double>(temperature[head]) * gram[i * n + j] / (query * length(gram[n * (n + 1) + j]));
      };
      for (int64_t j = 0; j < n; ++j) most = std::max(most, score(j));
      for (int64_t j = 0; j < n; ++j) total += std::exp(score(j) - most);
      for (int64_t j = 0; j < n; ++j) out[j * n] = static_cast<float>(std::exp(score(j) - most) / total);
    }
  }
}

}  // namespace fr
