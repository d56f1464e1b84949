// Convolution kernels in GFLOP/s and as a share of the machine's measured FMA peak for the same vectors.
//
//   conv_peak [name part] [rounds]      only the variants and shapes whose line contains the part
//
// Each variant is first compared with the reference on the rows it computes last. Times are this process's
// CPU time; rounds of all candidates and of the peak are interleaved (the clock and a neighbour on the same
// core change the peak from second to second), medians are shown. GFLOP/s count the products of a
// plain convolution, also for Winograd. The whole image passes through memory: one call per band of 16 rows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/conv2d/conv2d.h"
#include "kernels/fma_peak/fma_peak.h"

namespace fr {
namespace {

double cpu_seconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// GFLOP/s of the instruction set's widest FMA.
double fma_rate(Isa isa) {
  const double start = cpu_seconds();
  const int64_t operations = fma_chains(isa, 1'000'000);
  return operations / (cpu_seconds() - start) * 1e-9;
}

struct Shape {
  int64_t in_channels, out_channels, kernel, stride, height, width, groups;
};

constexpr Shape kShapes[] = {
    {64, 64, 3, 1, 512, 512, 1},   {48, 48, 3, 1, 512, 512, 1},   {96, 96, 3, 1, 256, 256, 1},
    {128, 128, 3, 1, 256, 256, 1}, {144, 144, 3, 1, 192, 192, 1}, {256, 256, 3, 1, 128, 128, 1},
    {512, 512, 3, 1, 64, 64, 1},   {32, 32, 3, 1, 512, 512, 1},   {16, 16, 3, 1, 512, 512, 1},
    {3, 64, 3, 1, 512, 512, 1},    {13, 64, 3, 1, 512, 512, 1},   {13, 96, 3, 1, 256, 256, 1},
    {64, 3, 3, 1, 512, 512, 1},    {64, 12, 3, 1, 512, 512, 1},   {96, 12, 3, 1, 256, 256, 1},
    {64, 1, 3, 1, 512, 512, 1},    {8, 64, 3, 1, 512, 512, 1},    {64, 64, 1, 1, 512, 512, 1},
    {64, 128, 2, 2, 512, 512, 1},  {64, 64, 3, 2, 512, 512, 1},   {256, 256, 1, 1, 128, 128, 1},
    {256, 512, 2, 2, 64, 64, 1},   {64, 64, 3, 1, 512, 512, 64},  {64, 64, 3, 1, 256, 256, 4},
};

ConvSpec spec_of(const Shape& shape) {
  ConvSpec s;
  s.in_channels = shape.in_channels;
  s.out_channels = shape.out_channels;
  s.kernel_h = s.kernel_w = shape.kernel;
  s.stride_h = s.stride_w = shape.stride;
  s.pad_top = s.pad_left = shape.kernel == 3 ? 1 : 0;
  s.groups = shape.groups;
  s.activation = Activation::relu;
  return s;
}

class Candidate {
 public:
  Candidate(const ConvVariant& variant, const Shape& shape)
      : shape_(shape), in_pitch_(round_up(shape.in_channels, shape.in_channels < 4 ? 1 : 16)) {
    const ConvSpec s = spec_of(shape);
    out_height_ = shape.height / shape.stride;
    out_width_ = shape.width / shape.stride;
    out_pitch_ = round_up(shape.out_channels, shape.out_channels < 4 ? 1 : 16);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const int64_t products = shape.in_channels / shape.groups * shape.kernel * shape.kernel;
    std::vector<float> weight(shape.out_channels * products), bias(shape.out_channels);
    for (float& w : weight) w = normal(random) * std::sqrt(2.0f / products);
    for (float& b : bias) b = normal(random);
    packed_ = pack_conv(s, variant, weight.data(), bias.data());
    reference_ = pack_conv(s, conv_variants().back(), weight.data(), bias.data());
    in_ = Buffer<float>(shape.height * shape.width * in_pitch_);
    for (int64_t i = 0; i < in_.size(); ++i) in_[i] = std::max(0.0f, normal(random));
    out_ = Buffer<float>(out_height_ * out_width_ * out_pitch_);
    std::fill(out_.data(), out_.data() + out_.size(), 0.0f);
    workspace_ = Buffer<float>(packed_.workspace_floats);
  }

  double flops() const {
    return 2.0 * out_height_ * out_width_ * shape_.out_channels * shape_.in_channels / shape_.groups * shape_.kernel *
           shape_.kernel;
  }

  void run() {
    for (int64_t y = 0; y < out_height_; y += kBandRows) run_band(packed_, y, std::min(kBandRows, out_height_ - y));
  }

  // The largest difference from the reference in the last rows.
  double difference() {
    const int64_t rows = std::min<int64_t>(4, out_height_), first = out_height_ - rows;
    float* last = out_.data() + first * out_width_ * out_pitch_;
    const int64_t size = rows * out_width_ * out_pitch_;
    const std::vector<float> got(last, last + size);
    run_band(reference_, first, rows);
    double worst = 0.0;
    for (int64_t i = 0; i < size; ++i) worst = std::max<double>(worst, std::fabs(got[i] - last[i]));
    return worst;
  }

 private:
  static constexpr int64_t kBandRows = 16;

  void run_band(const PackedConv& packed, int64_t y, int64_t rows) {
    const ConvSpec& s = packed.spec;
    const void* in[kBandRows * 2 + 8];
    void* out[kBandRows];
    for (int64_t i = 0; i < kBandRows * 2 + 8; ++i) {
      const int64_t row = y * s.stride_h - s.pad_top + i;
      in[i] = row >= 0 && row < shape_.height ? in_.data() + row * shape_.width * in_pitch_ : nullptr;
    }
    for (int64_t i = 0; i < rows; ++i) out[i] = out_.data() + (y + i) * out_width_ * out_pitch_;
    ConvBand band;
    band.in = in;
    band.in_end = shape_.width;
    band.in_pitch = in_pitch_;
    band.out = out;
    band.out_pitch = out_pitch_;
    band.rows = rows;
    band.x_end = out_width_;
    packed.run(packed, band, workspace_.data());
  }

  Shape shape_;
  int64_t in_pitch_, out_pitch_, out_height_, out_width_;
  PackedConv packed_, reference_;
  Buffer<float> in_, out_, workspace_;
};

std::string line_name(const Shape& s, const char* variant) {
  char text[160];
  std::snprintf(text, sizeof(text), "%3d->%-3d %dx%d/%d g%-2d %4dx%-4d %s", static_cast<int>(s.in_channels),
                static_cast<int>(s.out_channels), static_cast<int>(s.kernel), static_cast<int>(s.kernel),
                static_cast<int>(s.stride), static_cast<int>(s.groups), static_cast<int>(s.height),
                static_cast<int>(s.width), variant);
  return text;
}

int benchmark(const char* part, int rounds) {
  bool right = true;
  for (const Shape& shape : kShapes) {
    std::vector<const ConvVariant*> variants;
    std::vector<std::unique_ptr<Candidate>> candidates;
    for (const ConvVariant& variant : conv_variants()) {
      const ConvSpec s = spec_of(shape);
      if (variant.isa == Isa::none || !includes(cpu_isa(), variant.isa)) continue;
      if (reads_bf16(variant.algorithm) || variant.algorithm == ConvAlgorithm::int8_direct) continue;  // not of floats
      if (!conv_supports(s, variant.algorithm) || (variant.algorithm == ConvAlgorithm::grouped) != (shape.groups > 1))
        continue;
      if (line_name(shape, variant.name).find(part) == std::string::npos) continue;
      variants.push_back(&variant);
      candidates.push_back(std::make_unique<Candidate>(variant, shape));
    }
    std::vector<std::vector<double>> times(candidates.size()), shares(candidates.size());
    for (int round = -1; round < rounds; ++round)  // the first one warms up
      for (size_t i = 0; i < candidates.size(); ++i) {
        const double before = fma_rate(variants[i]->isa);
        const double start = cpu_seconds();
        int repeats = 0;
        double seconds = 0.0;
        for (; seconds < 0.02; ++repeats, seconds = cpu_seconds() - start) candidates[i]->run();
        seconds /= repeats;
        const double peak = (before + fma_rate(variants[i]->isa)) / 2;
        if (round < 0) continue;
        times[i].push_back(seconds);
        shares[i].push_back(candidates[i]->flops() / seconds * 1e-9 / peak);
      }
    for (size_t i = 0; i < candidates.size(); ++i) {
      const double difference = candidates[i]->difference();
      const double rate = candidates[i]->flops() / median(times[i]) * 1e-9;
      std::printf("%-60s %6.0f GFLOP/s %4.0f %% of peak (%.0f) %8.2f ms  difference %.1e\n",
                  line_name(shape, variants[i]->name).c_str(), rate, 100 * median(shares[i]), rate / median(shares[i]),
                  median(times[i]) * 1e3, difference);
      std::fflush(stdout);
      if (!(difference < 1e-3)) right = false;
    }
  }
  if (!right) std::fprintf(stderr, "a variant differs from the reference\n");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace fr

int main(int argc, char** argv) { return fr::benchmark(argc > 1 ? argv[1] : "", argc > 2 ? std::atoi(argv[2]) : 9); }
