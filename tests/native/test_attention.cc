// Layer norm, partial sums, window attention and channel attention: every variant against sums in double.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels/channel_attention/channel_attention.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/partial_sum/partial_sum.h"
#include "kernels/warp/warp.h"
#include "kernels/window_attention/window_attention.h"

using namespace fr;

namespace {

constexpr float kGuard = 12345.0f;

template <class Kernel>
struct Variant {
  const char* name;
  Isa isa;
  Kernel run;
};
#define FR_KERNEL(name, isa) {#name, isa, name},
const Variant<LayerNormFn*> kNorms[] = {
#include "kernels/layer_norm/kernels.inc"
};
const Variant<PartialSumFn*> kSums[] = {
#include "kernels/partial_sum/kernels.inc"
};
const Variant<WindowAttentionFn*> kWindows[] = {
#include "kernels/window_attention/kernels.inc"
};
const Variant<WarpFn*> kWarps[] = {
#include "kernels/warp/kernels.inc"
};
#undef FR_KERNEL
#define FR_KERNEL(name, isa) {#name, isa, &name},
const Variant<const ChannelAttentionKernels*> kChannels[] = {
#include "kernels/channel_attention/kernels.inc"
};
#undef FR_KERNEL

std::vector<float> sample(int64_t count, std::mt19937& random, float offset = 0.0f) {
  std::normal_distribution<float> normal(offset);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

size_t at(int64_t i) { return static_cast<size_t>(i); }

bool near(float value, double wanted, double tolerance) { return std::fabs(value - wanted) <= tolerance; }

// Scratch as the engine gives it: aligned, with whatever was in it before.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : values_(at(floats + 16), NAN) {}
  float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(values_.data()) + 63) / 64 * 64); }

 private:
  std::vector<float> values_;
};

// Numbers as they lie in an image of the element.
std::vector<char> packed(const std::vector<float>& values, Element element) {
  std::vector<char> bytes(values.size() * static_cast<size_t>(element_bytes(element)));
  for (size_t i = 0; i < values.size(); ++i)
    element == Element::f32 ? put(values[i], reinterpret_cast<float*>(bytes.data()) + i)
                            : put(values[i], reinterpret_cast<Bf16*>(bytes.data()) + i);
  return bytes;
}

std::vector<float> unpacked(const std::vector<char>& bytes, Element element) {
  std::vector<float> values(bytes.size() / static_cast<size_t>(element_bytes(element)));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = element == Element::f32 ? reinterpret_cast<const float*>(bytes.data())[i]
                                        : to_float(reinterpret_cast<const Bf16*>(bytes.data())[i]);
  return values;
}

// A mean of 10 beside a deviation of 1: the variance is not a difference of squares.
void check_norm(const Variant<LayerNormFn*>& variant, int64_t pixels, int64_t channels, bool centred, Element from,
                Element to, std::mt19937& random) {
  const int64_t in_pitch = channels + 3, out_pitch = channels + 1;
  const std::vector<char> source = packed(sample(pixels * in_pitch, random, 10.0f), from);
  const auto in = unpacked(source, from), scale = sample(channels, random), shift = sample(channels, random);
  std::vector<char> result = packed(std::vector<float>(at(pixels * out_pitch), kGuard), to);
  const float guard = unpacked(packed({kGuard}, to), to)[0];
  variant.run({source.data(), in_pitch, result.data(), out_pitch, from, to, pixels, channels, scale.data(),
               shift.data(), 1e-5f, centred});
  const std::vector<float> out = unpacked(result, to);
  bool fine = true;
  for (int64_t x = 0; x < pixels; ++x) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < channels; ++c) mean += in[at(x * in_pitch + c)] / static_cast<double>(channels);
    for (int64_t c = 0; c < channels; ++c)
      variance += std::pow(in[at(x * in_pitch + c)] - mean, 2) / static_cast<double>(channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double value = (in[at(x * in_pitch + c)] - (centred ? mean : 0)) / std::sqrt(variance + 1e-5);
      const double wanted = value * scale[at(c)] + shift[at(c)];
      // A pixel of one channel: nothing but rounding differs from the mean, and is divided by the root of epsilon.
      double tolerance = 2e-5 * (1 + std::fabs(value * scale[at(c)])) + (channels == 1 ? 1e-3 : 0);
      if (to == Element::bf16) tolerance += std::fabs(wanted) * 0x1p-8;  // half a unit in the last of its 8 places
      fine &= near(out[at(x * out_pitch + c)], wanted, tolerance);
    }
    fine &= out[at(x * out_pitch + channels)] == guard;
  }
  CHECK_SAYING(fine, std::string(variant.name) + " channels " + std::to_string(channels));
}

void check_sum(const Variant<PartialSumFn*>& variant, Element element, int64_t pixels, int64_t channels,
               std::mt19937& random) {
  const int64_t pitch = channels + 2, rows = 3;
  const auto in = sample(rows * pixels * pitch, random);
  std::vector<Bf16> narrow;
  for (float v : in) narrow.push_back(float_to_bf16(v));
  std::vector<const void*> pointers;
  for (int64_t i = 0; i < rows; ++i)
    pointers.push_back(element == Element::f32 ? static_cast<const void*>(in.data() + i * pixels * pitch)
                                               : narrow.data() + i * pixels * pitch);
  std::vector<float> out(at(channels + 1), kGuard);
  variant.run({pointers.data(), rows, element, pixels, pitch, channels, out.data()});
  bool fine = out[at(channels)] == kGuard;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < rows * pixels; ++i)
      sum += element == Element::f32 ? in[at(i * pitch + c)] : bf16_to_float(narrow[at(i * pitch + c)]);
    fine &= near(out[at(c)], sum, 1e-6 * static_cast<double>(rows * pixels));
  }
  CHECK_SAYING(fine, std::string(variant.name) + " channels " + std::to_string(channels));
}

void check_window(const Variant<WindowAttentionFn*>& variant, int64_t side, int64_t rows, int64_t columns,
                  int64_t heads, int64_t each, float spread, std::mt19937& random) {
  const int64_t channels = heads * each, in_pitch = 3 * channels + 1, out_pitch = channels + 2, pixels = rows * columns;
  auto in = sample(pixels * in_pitch, random);
  for (float& v : in) v *= spread;
  const auto by_distance = sample(heads * (2 * side - 1) * (2 * side - 1), random);
  const auto bias = attention_bias(by_distance, heads, side);
  std::vector<float> out(at(pixels * out_pitch), kGuard);
  std::vector<const float*> in_rows;
  std::vector<float*> out_rows;
  for (int64_t i = 0; i < rows; ++i) {
    in_rows.push_back(in.data() + i * columns * in_pitch);
    out_rows.push_back(out.data() + i * columns * out_pitch);
  }
  Scratch scratch(window_scratch_floats(side, each));
  variant.run({in_rows.data(), in_pitch, out_rows.data(), out_pitch, rows, columns, side, heads, each, bias.data()},
              scratch.data());
  bool fine = true;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t i = 0; i < pixels; ++i) {
      std::vector<double> weights(at(pixels));
      double most = -INFINITY, total = 0;
      for (int64_t j = 0; j < pixels; ++j) {
        double score = 0;
        for (int64_t c = head * each; c < (head + 1) * each; ++c)
          score += static_cast<double>(in[at(i * in_pitch + c)]) * in[at(j * in_pitch + channels + c)];
        const int64_t dy = i / columns - j / columns + side - 1, dx = i % columns - j % columns + side - 1;
        weights[at(j)] = score / std::sqrt(static_cast<double>(each)) +
                         by_distance[at((head * (2 * side - 1) + dy) * (2 * side - 1) + dx)];
        most = std::max(most, weights[at(j)]);
      }
      for (double& w : weights) total += w = std::exp(w - most);
      for (int64_t c = head * each; c < (head + 1) * each; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < pixels; ++j) sum += weights[at(j)] / total * in[at(j * in_pitch + 2 * channels + c)];
        // A score of hundreds is rounded in its seventh digit, which the exponential turns into a factor.
        fine &= near(out[at(i * out_pitch + c)], sum, 2e-6 * spread * (1 + spread * spread));
      }
    }
  for (int64_t i = 0; i < pixels; ++i) fine &= out[at(i * out_pitch + channels)] == kGuard;
  CHECK_SAYING(fine, std::string(variant.name) + " side " + std::to_string(side) + " of " + std::to_string(rows) + "x" +
                         std::to_string(columns) + " heads " + std::to_string(heads) + "x" + std::to_string(each));
}

void check_channels(const Variant<const ChannelAttentionKernels*>& variant, Element element, int64_t heads,
                    int64_t each, int64_t pixels, std::mt19937& random) {
  const int64_t all = heads * each, pitch = 3 * all + 1, rows = 2, sums = each * (each + 2);
  auto in = sample(rows * pixels * pitch, random);
  std::vector<Bf16> narrow;
  for (float& v : in) {
    narrow.push_back(float_to_bf16(v));
    if (element == Element::bf16) v = bf16_to_float(narrow.back());
  }
  const auto temperature = sample(heads, random);
  std::vector<float> partial(at(heads * sums + 1), kGuard);
  Scratch scratch(gram_scratch_floats(each));
  for (int64_t head = 0; head < heads; ++head) {
    std::vector<const void*> pointers;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t first = i * pixels * pitch + head * each;
      pointers.push_back(element == Element::f32 ? static_cast<const void*>(in.data() + first) : narrow.data() + first);
    }
    variant.run->gram({pointers.data(), rows, element, all, pixels, pitch, each, partial.data() + head * sums},
                      scratch.data());
  }
  std::vector<double> doubles(at(heads * sums));
  std::vector<float> weights(at(heads * each * each), NAN), out(at(pixels * (all + 1)), kGuard);
  channel_softmax(partial.data(), 1, 0, heads, each, temperature.data(), doubles.data(), weights.data());
  variant.run->mix({in.data() + 2 * all, pitch, out.data(), all + 1, pixels, heads, each, weights.data()});
  bool fine = partial.back() == kGuard;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t i = 0; i < each; ++i) {
      std::vector<double> score(at(each));
      double most = -INFINITY, total = 0;
      const auto value = [&](int64_t pixel, int64_t part, int64_t c) {
        return static_cast<double>(in[at(pixel * pitch + part * all + head * each + c)]);
      };
      for (int64_t j = 0; j < each; ++j) {
        double product = 0, q = 0, k = 0;
        for (int64_t x = 0; x < rows * pixels; ++x) {
          product += value(x, 0, i) * value(x, 1, j);
          q += value(x, 0, i) * value(x, 0, i);
          k += value(x, 1, j) * value(x, 1, j);
        }
        score[at(j)] = temperature[at(head)] * product / (std::sqrt(q) * std::sqrt(k));
        most = std::max(most, score[at(j)]);
      }
      for (double& s : score) total += s = std::exp(s - most);
      for (int64_t x = 0; x < pixels; ++x) {
        double sum = 0;
        for (int64_t j = 0; j < each; ++j) sum += score[at(j)] / total * value(x, 2, j);
        fine &= near(out[at(x * (all + 1) + head * each + i)], sum, 1e-5);
      }
    }
  for (int64_t x = 0; x < pixels; ++x) fine &= out[at(x * (all + 1) + all)] == kGuard;
  CHECK_SAYING(fine, std::string(variant.name) + " heads " + std::to_string(heads) + "x" + std::to_string(each));
}

void check_warp(const Variant<WarpFn*>& variant, int64_t height, int64_t width, int64_t channels,
                std::mt19937& random) {
  const int64_t pitch = channels + 1, in_row = width * pitch + 5;
  const auto in = sample(height * in_row, random);
  auto flow = sample(width * 3, random);
  for (float& v : flow) v *= 3;
  flow[0] = NAN;
  flow[1] = INFINITY;
  std::vector<float> out(at(width * (channels + 2)), kGuard);
  for (int64_t y = 0; y < height; ++y) {
    variant.run(
        {in.data(), height, width, in_row, pitch, flow.data(), 3, out.data(), channels + 2, y, 0, width, channels});
    bool fine = true;
    for (int64_t x = 0; x < width; ++x) {
      const auto place = [](double p, int64_t size) {
        return std::isnan(p) ? 0.0 : std::min(std::max(p, 0.0), static_cast<double>(size - 1));
      };
      const double across = place(static_cast<double>(x) + flow[at(3 * x)], width);
      const double down = place(static_cast<double>(y) + flow[at(3 * x + 1)], height);
      const auto pixel = [&](double row, double column, int64_t c) {
        return static_cast<double>(
            in[at(static_cast<int64_t>(row) * in_row + static_cast<int64_t>(column) * pitch + c)]);
      };
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (double row : {std::floor(down), std::ceil(down)})
          for (double column : {std::floor(across), std::ceil(across)}) {
            const double share_y = row == std::floor(down) ? 1 - (down - std::floor(down)) : down - std::floor(down);
            const double share_x =
                column == std::floor(across) ? 1 - (across - std::floor(across)) : across - std::floor(across);
            sum += (std::floor(down) == std::ceil(down) ? 0.5 : share_y) *
                   (std::floor(across) == std::ceil(across) ? 0.5 : share_x) * pixel(row, column, c);
          }
        fine &= near(out[at(x * (channels + 2) + c)], sum, 2e-5);
      }
      fine &= out[at(x * (channels + 2) + channels)] == kGuard;
    }
    CHECK_SAYING(fine, std::string(variant.name) + " channels " + std::to_string(channels));
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (const auto& variant : kNorms)
    if (includes(cpu_isa(), variant.isa))
      for (int64_t channels : {1, 3, 16, 17, 48, 60, 180})
        for (int64_t pixels : {0, 1, 5, 9})
          for (Element from : {Element::f32, Element::bf16})
            for (Element to : {Element::f32, Element::bf16})
              check_norm(variant, pixels, channels, pixels % 2 == 1, from, to, random);
  for (const auto& variant : kSums)
    if (includes(cpu_isa(), variant.isa))
      for (Element element : {Element::f32, Element::bf16})
        for (int64_t channels : {1, 15, 16, 40}) check_sum(variant, element, 37, channels, random);
  for (const auto& variant : kWindows)
    if (includes(cpu_isa(), variant.isa)) {
      for (int64_t side : {1, 2, 3, 7, 8})
        for (int64_t each : {1, 10, 16, 30, 33, 48}) {
          check_window(variant, side, side, side, 2, each, 1.0f, random);
          check_window(variant, side, std::max<int64_t>(1, side - 2), (side + 1) / 2, 3, each, 1.0f, random);
        }
      check_window(variant, 8, 8, 8, 1, 32, 20.0f, random);  // scores of hundreds
    }
  for (const auto& variant : kChannels)
    if (includes(cpu_isa(), variant.isa))
      for (Element element : {Element::f32, Element::bf16})
        for (int64_t each : {1, 4, 17, 48, 96})
          for (int64_t pixels : {1, 70, 131}) check_channels(variant, element, 2, each, pixels, random);
  for (const auto& variant : kWarps)
    if (includes(cpu_isa(), variant.isa))
      for (int64_t channels : {1, 3, 16, 21})
        for (int64_t side : {1, 2, 9}) check_warp(variant, side, side + 2, channels, random);
  return fr::test::result();
}
