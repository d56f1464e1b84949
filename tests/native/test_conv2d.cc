// Every variant of every convolution kernel: against a double-precision convolution, cut into bands, with
// values that are not finite, and with memory that ends where it must not be read or written.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "kernels/conv2d/conv2d.h"

namespace fr {
namespace {

constexpr float kGuard = -54321.25f;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Random = std::mt19937;

int64_t pick(Random& random, std::initializer_list<int64_t> values) { return values.begin()[random() % values.size()]; }

// One image in rows of exact size, so that the address sanitizer sees every step beyond them. Gaps between
// pixels hold `gap`. The last pixel has its gap only if readers may count on it.
struct Plane {
  std::vector<std::vector<float>> rows;
  int64_t height, width, channels, pitch;

  Plane(int64_t height, int64_t width, int64_t channels, int64_t pitch, float fill)
      : height(height), width(width), channels(channels), pitch(pitch) {
    const bool whole_chunks = pitch >= round_up(channels, 16);
    for (int64_t y = 0; y < height; ++y) {
      const int64_t size = width == 0 ? 0 : (width - 1) * pitch + (whole_chunks ? pitch : channels);
      rows.emplace_back(size, fill);
      rows.back().shrink_to_fit();
    }
  }
  float& at(int64_t y, int64_t x, int64_t c) { return rows[y][x * pitch + c]; }
  float at(int64_t y, int64_t x, int64_t c) const { return rows[y][x * pitch + c]; }
  void randomize(Random& random) {
    std::normal_distribution<float> normal;
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        for (int64_t c = 0; c < channels; ++c) at(y, x, c) = normal(random);
  }
};

struct Case {
  ConvSpec spec;
  int64_t out_height, out_width;
  Plane in, residual;
  int64_t out_pitch;
  std::vector<float> weight, bias;

  Case(const ConvSpec& spec, int64_t height, int64_t width, int64_t in_pitch, int64_t out_pitch, Random& random)
      : spec(spec),
        out_height(out_size(height, spec.kernel_h, spec.stride_h, spec.pad_top, spec.dilation_h)),
        out_width(out_size(width, spec.kernel_w, spec.stride_w, spec.pad_left, spec.dilation_w)),
        in(height, width, spec.in_channels, in_pitch, kNan),
        residual(out_height, out_width, spec.out_channels, spec.out_channels + random() % 3, kNan),
        out_pitch(out_pitch) {
    in.randomize(random);
    residual.randomize(random);
    const int64_t products = spec.in_channels / spec.groups * spec.kernel_h * spec.kernel_w;
    std::normal_distribution<float> normal(0.0f, std::sqrt(2.0f / products));
    weight.resize(spec.out_channels * products);
    for (float& w : weight) w = normal(random);
    bias.resize(spec.out_channels);
    for (float& b : bias) b = normal(random);
  }

  // The padding is symmetric, and at least one pixel comes out.
  static int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    return std::max<int64_t>(0, size + 2 * pad - (kernel - 1) * dilation - 1) / stride + 1;
  }

  Plane output() const { return Plane(out_height, out_width, spec.out_channels, out_pitch, kGuard); }

  std::string text(const char* variant) const {
    const auto n = [](int64_t value) { return std::to_string(value); };
    return std::string(variant) + " " + n(spec.in_channels) + "->" + n(spec.out_channels) + " kernel " +
           n(spec.kernel_h) + "x" + n(spec.kernel_w) + " stride " + n(spec.stride_h) + "x" + n(spec.stride_w) +
           " dilation " + n(spec.dilation_h) + "x" + n(spec.dilation_w) + " pad " + n(spec.pad_top) + "x" +
           n(spec.pad_left) + " groups " + n(spec.groups) + " input " + n(in.height) + "x" + n(in.width) + " pitch " +
           n(in.pitch) + "," + n(out_pitch) + " activation " + n(static_cast<int64_t>(spec.activation)) + " residual " +
           n(static_cast<int64_t>(spec.residual));
  }
};

// Computes output rows [y_begin, y_end) and columns [x_begin, x_end) into out, which lacks its columns before
// out_begin.
void run_band(const Case& c, const PackedConv& packed, int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end,
              Plane& out, int64_t out_begin = 0, const Plane* residual = nullptr) {
  const ConvSpec& s = c.spec;
  const int64_t rows = y_end - y_begin;
  int64_t entries = (rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  if (packed.algorithm == ConvAlgorithm::winograd4) entries = round_up(rows, 4) + 2;
  std::vector<const void*> in, res;
  std::vector<void*> destination;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t y = y_begin * s.stride_h - s.pad_top + i;
    in.push_back(y >= 0 && y < c.in.height ? c.in.rows[y].data() : nullptr);
  }
  const Plane& residual_plane = residual != nullptr ? *residual : c.residual;
  for (int64_t y = y_begin; y < y_end; ++y) {
    destination.push_back(out.rows[y].data());
    res.push_back(residual_plane.rows[y].data());
  }
  ConvBand band;
  band.in = in.data();
  band.in_begin = 0;
  band.in_end = c.in.width;
  band.in_pitch = c.in.pitch;
  band.out = destination.data();
  band.out_begin = out_begin;
  band.out_pitch = out.pitch;
  if (s.residual != Residual::none) {
    band.residual = res.data();
    band.residual_pitch = residual_plane.pitch;
  }
  band.rows = rows;
  band.x_begin = x_begin;
  band.x_end = x_end;
  Buffer<float> workspace(packed.workspace_floats);
  std::fill(workspace.data(), workspace.data() + workspace.size(), kNan);  // what lies there must not matter
  packed.run(packed, band, workspace.data());
}

Plane run_whole(const Case& c, const PackedConv& packed) {
  Plane out = c.output();
  run_band(c, packed, 0, c.out_height, 0, c.out_width, out);
  return out;
}

double exact_value(const Case& c, int64_t y, int64_t x, int64_t co) {
  const ConvSpec& s = c.spec;
  const int64_t in_channels = s.in_channels / s.groups;
  const int64_t first = co / (s.out_channels / s.groups) * in_channels;
  double sum = c.bias[co];
  for (int64_t ky = 0; ky < s.kernel_h; ++ky)
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t iy = y * s.stride_h - s.pad_top + ky * s.dilation_h;
      const int64_t ix = x * s.stride_w - s.pad_left + kx * s.dilation_w;
      if (iy < 0 || iy >= c.in.height || ix < 0 || ix >= c.in.width) continue;
      for (int64_t ci = 0; ci < in_channels; ++ci)
        sum += static_cast<double>(c.weight[((co * in_channels + ci) * s.kernel_h + ky) * s.kernel_w + kx]) *
               c.in.at(iy, ix, first + ci);
    }
  const double residual = s.residual == Residual::none ? 0.0 : c.residual.at(y, x, co);
  if (s.residual == Residual::before_activation) sum += residual;
  if (s.activation == Activation::relu && sum < 0) sum = 0;
  if (s.activation == Activation::leaky_relu && sum < 0) sum *= s.slope;
  if (s.activation == Activation::gelu) sum *= 0.5 + 0.5 * std::erf(sum / std::sqrt(2.0));
  sum *= s.scale;
  return s.residual == Residual::after_scale ? sum + residual : sum;
}

double max_error(const Case& c, const Plane& out, const std::vector<double>& exact) {
  double worst = 0.0;
  size_t i = 0;
  for (int64_t y = 0; y < c.out_height; ++y)
    for (int64_t x = 0; x < c.out_width; ++x)
      for (int64_t co = 0; co < c.spec.out_channels; ++co, ++i) {
        const double error = std::fabs(out.at(y, x, co) - exact[i]);
        if (!(error <= worst)) worst = std::isnan(error) ? kInfinity : error;
      }
  return worst;
}

bool same_bits(const Plane& a, const Plane& b) {
  for (int64_t y = 0; y < a.height; ++y)
    for (int64_t x = 0; x < a.width; ++x)
      if (std::memcmp(&a.rows[y][x * a.pitch], &b.rows[y][x * b.pitch], a.channels * sizeof(float)) != 0) return false;
  return true;
}

// From row y_begin on: between pixels there may be anything finite; below y_end and from x_end on nothing may
// have been written.
bool guards_hold(const Plane& out, int64_t y_begin, int64_t y_end, int64_t x_end) {
  for (int64_t y = y_begin; y < out.height; ++y)
    for (int64_t i = 0; i < static_cast<int64_t>(out.rows[y].size()); ++i) {
      const float value = out.rows[y][i];
      const bool inside = y < y_end && i / out.pitch < x_end;
      if (inside ? i % out.pitch >= out.channels && !std::isfinite(value) : value != kGuard) return false;
    }
  return true;
}

ConvSpec random_spec(Random& random, ConvAlgorithm algorithm) {
  ConvSpec s;
  s.in_channels = pick(random, {1, 3, 5, 12, 13, 16, 17, 31, 48, 64, 96, 144});
  s.out_channels = pick(random, {1, 2, 3, 4, 5, 12, 13, 16, 17, 31, 48, 64, 80, 96, 144});
  if (algorithm == ConvAlgorithm::winograd4) {
    s.kernel_h = s.kernel_w = 3;
    s.pad_top = s.pad_left = 1;
  } else {
    s.kernel_h = pick(random, {1, 2, 3, 5, 7});
    s.kernel_w = pick(random, {s.kernel_h, 1, 2, 3, 5, 7});
    s.stride_h = pick(random, {1, 1, 2});
    s.stride_w = pick(random, {1, 1, 2, 3});
    s.dilation_h = pick(random, {1, 1, 2, 3});
    s.dilation_w = pick(random, {1, 1, 2, 3});
    s.pad_top = pick(random, {0, (s.kernel_h - 1) * s.dilation_h / 2, s.kernel_h + 3});
    s.pad_left = pick(random, {0, (s.kernel_w - 1) * s.dilation_w / 2, s.kernel_w + 3});
  }
  if (algorithm == ConvAlgorithm::grouped) {
    s.groups = pick(random, {1, 2, 3, 5, 16, 33});
    if (random() % 2 == 0) {
      s.groups = s.in_channels = s.out_channels;  // depthwise
    } else {
      s.in_channels = s.groups * pick(random, {1, 2, 7, 16});
      s.out_channels = s.groups * pick(random, {1, 3, 4, 16, 19});
    }
  }
  s.activation = static_cast<Activation>(random() % 4);
  s.slope = 0.2f;
  s.scale = random() % 2 == 0 ? 1.0f : 0.7f;
  s.residual = static_cast<Residual>(random() % 3);
  return s;
}

Case random_case(Random& random, ConvAlgorithm algorithm) {
  const ConvSpec s = random_spec(random, algorithm);
  int64_t height = 1 + random() % 67, width = 1 + random() % 67;
  const int64_t work = s.in_channels / s.groups * s.out_channels * s.kernel_h * s.kernel_w;
  while (height > 1 && height * width * work > 6'000'000) height = height / 2;
  while (width > 1 && height * width * work > 6'000'000) width = width / 2;
  const int64_t in_pitch = pick(random, {s.in_channels, s.in_channels + 1, round_up(s.in_channels, 16)});
  const int64_t out_pitch = pick(random, {s.out_channels, s.out_channels + 3, round_up(s.out_channels, 16)});
  return Case(s, height, width, in_pitch, out_pitch, random);
}

const ConvVariant& reference() { return conv_variants().back(); }

std::vector<ConvVariant> runnable_variants() {
  std::vector<ConvVariant> variants;
  for (const ConvVariant& variant : conv_variants())
    if (includes(cpu_isa(), variant.isa)) variants.push_back(variant);
  return variants;
}

// One pixel's error may by chance be small for one order of summing and large for another; the largest of
// all pixels is steadier, and a unit in the last place of the largest value is always allowed. Direct kernels
// sum in the reference's order (but round less often), dot products over vectors in a shallower one. Winograd
// is bounded by test_winograd_error over more pixels; its transforms add rounding that a handful of products
// per pixel has not, hence the larger factor here.
void test_against_exact(const ConvVariant& variant, const Case& c) {
  std::vector<double> exact;
  double largest = 1.0;
  for (int64_t y = 0; y < c.out_height; ++y)
    for (int64_t x = 0; x < c.out_width; ++x)
      for (int64_t co = 0; co < c.spec.out_channels; ++co) {
        exact.push_back(exact_value(c, y, x, co));
        largest = std::max(largest, std::fabs(exact.back()));
      }
  const Plane out = run_whole(c, pack_conv(c.spec, variant, c.weight.data(), c.bias.data()));
  const Plane plain = run_whole(c, pack_conv(c.spec, reference(), c.weight.data(), c.bias.data()));
  const double error = max_error(c, out, exact), plain_error = max_error(c, plain, exact);
  const double unit = largest * std::numeric_limits<float>::epsilon();
  const double bound =
      variant.algorithm == ConvAlgorithm::winograd4 ? 3.0 * plain_error + 8.0 * unit : 1.5 * plain_error + unit;
  CHECK_SAYING(error <= bound, c.text(variant.name) + ": error " + std::to_string(error / unit) +
                                   " units, the reference's " + std::to_string(plain_error / unit));
  CHECK_SAYING(guards_hold(out, 0, c.out_height, c.out_width), c.text(variant.name));
}

void test_cuts(const ConvVariant& variant, const Case& c, Random& random) {
  const PackedConv packed = pack_conv(c.spec, variant, c.weight.data(), c.bias.data());
  const Plane whole = run_whole(c, packed);
  const int64_t grid = variant.algorithm == ConvAlgorithm::winograd4 ? 4 : 1;
  const auto cut = [&](int64_t begin, int64_t end) {
    return std::min(end, (begin / grid + 1 + static_cast<int64_t>(random() % 12)) * grid);
  };
  Plane out = c.output();
  for (int64_t y = 0; y < c.out_height;) {
    const int64_t y_end = cut(y, c.out_height);
    for (int64_t x = 0; x < c.out_width;) {
      const int64_t x_end = cut(x, c.out_width);
      run_band(c, packed, y, y_end, x, x_end, out);
      CHECK_SAYING(guards_hold(out, y, y_end, x_end), c.text(variant.name));
      x = x_end;
    }
    y = y_end;
  }
  CHECK_SAYING(same_bits(whole, out), c.text(variant.name));
}

// The input's own columns may be cut too, as long as all that an output needs is there; and the output's
// memory may begin at the first column written.
void test_cut_memory(const ConvVariant& variant, Random& random) {
  ConvSpec s;
  s.in_channels = 19;
  s.out_channels = 21;
  s.kernel_h = s.kernel_w = 3;
  s.pad_top = s.pad_left = 1;
  if (!conv_supports(s, variant.algorithm)) return;
  const Case whole_case(s, 9, 60, 32, 21, random);
  const PackedConv packed = pack_conv(s, variant, whole_case.weight.data(), whole_case.bias.data());
  const Plane whole = run_whole(whole_case, packed);
  const int64_t x_begin = 20, x_end = 48, in_begin = 19, in_end = 49;
  std::vector<std::vector<float>> rows;
  std::vector<const void*> in;
  for (int64_t y = -1; y < 13; ++y) {
    const bool inside = y >= 0 && y < 9;
    if (inside)
      rows.emplace_back(whole_case.in.rows[y].begin() + in_begin * 32, whole_case.in.rows[y].begin() + in_end * 32);
    in.push_back(inside ? rows.back().data() : nullptr);
  }
  for (int64_t i = 0, row = 0; i < static_cast<int64_t>(in.size()); ++i)
    if (in[i] != nullptr) in[i] = rows[row++].data();
  Plane part(9, x_end - x_begin, 21, 21, kGuard);
  std::vector<void*> out;
  for (auto& row : part.rows) out.push_back(row.data());
  ConvBand band;
  band.in = in.data();
  band.in_begin = in_begin;
  band.in_end = in_end;
  band.in_pitch = 32;
  band.out = out.data();
  band.out_begin = x_begin;
  band.out_pitch = 21;
  band.rows = 9;
  band.x_begin = x_begin;
  band.x_end = x_end;
  Buffer<float> workspace(packed.workspace_floats);
  packed.run(packed, band, workspace.data());
  bool same = true;
  for (int64_t y = 0; y < 9; ++y)
    same = same &&
           std::memcmp(&part.rows[y][0], &whole.rows[y][x_begin * 21], (x_end - x_begin) * 21 * sizeof(float)) == 0;
  CHECK_SAYING(same, variant.name);
}

// A value that is not finite reaches exactly the outputs that see it (Winograd: whole tiles), as NaN through
// relu as well.
void test_not_finite(const ConvVariant& variant, Random& random) {
  for (Activation activation : {Activation::none, Activation::relu, Activation::leaky_relu, Activation::gelu})
    for (float value : {kNan, kInfinity}) {
      ConvSpec s;
      s.in_channels = s.out_channels = 20;
      if (variant.algorithm == ConvAlgorithm::grouped) s.groups = 20;
      s.kernel_h = s.kernel_w = 3;
      s.pad_top = s.pad_left = 1;
      s.activation = activation;
      s.slope = 0.1f;
      Case c(s, 13, 41, 32, 20, random);
      const int64_t at_y = 6, at_x = 21;
      for (int64_t channel = 0; channel < 20; ++channel) c.in.at(at_y, at_x, channel) = value;
      const Plane out = run_whole(c, pack_conv(s, variant, c.weight.data(), c.bias.data()));
      const int64_t spread = variant.algorithm == ConvAlgorithm::winograd4 ? 5 : 1;
      for (int64_t y = 0; y < 13; ++y)
        for (int64_t x = 0; x < 41; ++x)
          for (int64_t channel = 0; channel < 20; ++channel) {
            const float got = out.at(y, x, channel);
            const bool sees = std::abs(y - at_y) <= 1 && std::abs(x - at_x) <= 1;
            const bool near = std::abs(y - at_y) <= spread && std::abs(x - at_x) <= spread;
            if (sees && std::isnan(value)) CHECK_SAYING(std::isnan(got), variant.name);
            if (sees && activation == Activation::none) CHECK_SAYING(!std::isfinite(got), variant.name);
            if (!near) CHECK_SAYING(std::isfinite(got), variant.name);
          }
    }
}

// The residual may be the output itself.
void test_residual_in_place(const ConvVariant& variant, Random& random) {
  ConvSpec s;
  s.in_channels = 16;
  s.out_channels = 37;
  s.kernel_h = s.kernel_w = 3;
  s.pad_top = s.pad_left = 1;
  s.residual = Residual::after_scale;
  if (!conv_supports(s, variant.algorithm)) return;
  const Case c(s, 11, 23, 16, 37, random);
  const PackedConv packed = pack_conv(s, variant, c.weight.data(), c.bias.data());
  const Plane apart = run_whole(c, packed);
  Plane together(c.out_height, c.out_width, 37, c.residual.pitch, 0.0f);
  together.rows = c.residual.rows;
  run_band(c, packed, 0, c.out_height, 0, c.out_width, together, 0, &together);
  CHECK_SAYING(same_bits(apart, together), variant.name);
}

void test_empty(const ConvVariant& variant, Random& random) {
  ConvSpec s;
  s.in_channels = s.out_channels = 16;
  s.kernel_h = s.kernel_w = 3;
  s.pad_top = s.pad_left = 1;
  const Case c(s, 5, 9, 16, 16, random);
  const PackedConv packed = pack_conv(s, variant, c.weight.data(), nullptr);
  Plane out = c.output();
  run_band(c, packed, 0, 5, 4, 4, out);
  run_band(c, packed, 4, 4, 0, 9, out);
  CHECK_SAYING(guards_hold(out, 0, 0, 0), variant.name);
}

void test_refusals() {
  const float weight[9] = {};
  ConvSpec s;
  s.in_channels = s.out_channels = 1;
  s.kernel_h = s.kernel_w = 3;
  CHECK_THROWS(pack_conv(s, ConvAlgorithm::winograd4, Isa::none, weight, nullptr), std::invalid_argument);
  s.groups = 2;
  CHECK_THROWS(pack_conv(s, ConvAlgorithm::grouped, Isa::none, weight, nullptr), std::invalid_argument);
  s.groups = 1;
  s.stride_h = 0;
  CHECK_THROWS(pack_conv(s, ConvAlgorithm::direct, Isa::none, weight, nullptr), std::invalid_argument);
  s.stride_h = 1;
  s.out_channels = int64_t{1} << 62;
  CHECK_THROWS(pack_conv(s, ConvAlgorithm::direct, Isa::none, weight, nullptr), std::length_error);
}

// What the product picks is a fast kernel that can do the convolution.
void test_choice(Random& random) {
  for (int i = 0; i < 200; ++i) {
    const ConvSpec s = random_spec(random, static_cast<ConvAlgorithm>(1 + i % 3));
    const ConvAlgorithm algorithm = choose_conv_algorithm(s, cpu_isa());
    CHECK(algorithm != ConvAlgorithm::reference);
    CHECK(conv_supports(s, algorithm));
  }
}

// The transforms' own rounding weighs less the more products there are: 16 channels sum 144, which plain float32
// does well; from 64 channels on the error is to be about plain float32's. On top of what was measured (2.9, 1.64
// and 1.17 times at most) the bounds leave a little for another order of random numbers.
void test_winograd_error(const ConvVariant& variant, Random& random) {
  for (int64_t channels : {16, 64, 144}) {
    ConvSpec s;
    s.in_channels = s.out_channels = channels;
    s.kernel_h = s.kernel_w = 3;
    s.pad_top = s.pad_left = 1;
    Case c(s, 40, 40, channels, channels, random);
    for (auto& row : c.in.rows)
      for (float& value : row) value = std::max(value, 0.0f);
    const Plane out = run_whole(c, pack_conv(s, variant, c.weight.data(), c.bias.data()));
    const Plane plain = run_whole(c, pack_conv(s, reference(), c.weight.data(), c.bias.data()));
    double squares = 0.0, plain_squares = 0.0, worst = 0.0, plain_worst = 0.0;
    for (int64_t y = 0; y < 40; ++y)
      for (int64_t x = 0; x < 40; ++x)
        for (int64_t co = 0; co < channels; co += 7) {
          const double exact = exact_value(c, y, x, co);
          const double e = std::fabs(out.at(y, x, co) - exact), p = std::fabs(plain.at(y, x, co) - exact);
          squares += e * e;
          plain_squares += p * p;
          worst = std::max(worst, e);
          plain_worst = std::max(plain_worst, p);
        }
    std::printf("%s %d channels: error / plain float32's: rms %.2f, max %.2f\n", variant.name,
                static_cast<int>(channels), std::sqrt(squares / plain_squares), worst / plain_worst);
    const double allowed = channels == 16 ? 3.0 : channels == 64 ? 1.75 : 1.25;
    CHECK_SAYING(std::sqrt(squares) <= allowed * std::sqrt(plain_squares), variant.name);
  }
}

float rounded(float value) { return bf16_to_float(float_to_bf16(value)); }

// A case's images in bfloat16, pixels padded to 32 channels with values that must not matter.
struct NarrowCase {
  Case c;
  std::vector<std::vector<Bf16>> in, residual;
  int64_t in_pitch, residual_pitch;

  // The case's own numbers are rounded, and its weights if the products are of bfloat16.
  NarrowCase(Case given, bool round_weights, Random& random) : c(std::move(given)) {
    in_pitch = round_up(c.spec.in_channels, 32);
    residual_pitch = round_up(c.spec.out_channels, 32);
    in = narrow(c.in, in_pitch, random);
    residual = narrow(c.residual, residual_pitch, random);
    if (round_weights)
      for (float& w : c.weight) w = rounded(w);
  }

  static std::vector<std::vector<Bf16>> narrow(Plane& plane, int64_t pitch, Random& random) {
    std::vector<std::vector<Bf16>> rows;
    for (int64_t y = 0; y < plane.height; ++y) {
      rows.emplace_back(plane.width * pitch);
      for (Bf16& value : rows.back()) value = float_to_bf16(static_cast<float>(random() % 1000));
      for (int64_t x = 0; x < plane.width; ++x)
        for (int64_t channel = 0; channel < plane.channels; ++channel) {
          rows.back()[x * pitch + channel] = float_to_bf16(plane.at(y, x, channel));
          plane.at(y, x, channel) = rounded(plane.at(y, x, channel));
        }
    }
    return rows;
  }
};

// As run_band, with images of bfloat16 in, and out where `out16` is given.
void run_narrow(const NarrowCase& n, const PackedConv& packed, int64_t y_begin, int64_t y_end, int64_t x_begin,
                int64_t x_end, Plane& out, std::vector<std::vector<Bf16>>* out16 = nullptr) {
  const ConvSpec& s = n.c.spec;
  const bool winograd = s.kernel_h == 3 && (packed.algorithm == ConvAlgorithm::winograd4 ||
                                            packed.algorithm == ConvAlgorithm::bf16_winograd4);
  const int64_t rows = y_end - y_begin;
  const int64_t entries =
      winograd ? round_up(rows, 4) + 2 : (rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  std::vector<const void*> in, residual;
  std::vector<void*> destination;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t y = y_begin * s.stride_h - s.pad_top + i;
    in.push_back(y >= 0 && y < n.c.in.height ? n.in[y].data() : nullptr);
  }
  for (int64_t y = y_begin; y < y_end; ++y) {
    destination.push_back(out16 != nullptr ? static_cast<void*>((*out16)[y].data()) : out.rows[y].data());
    residual.push_back(n.residual[y].data());
  }
  ConvBand band;
  band.in = in.data();
  band.in_end = n.c.in.width;
  band.in_pitch = n.in_pitch;
  band.in_element = band.residual_element = Element::bf16;
  band.out = destination.data();
  band.out_pitch = out16 != nullptr ? n.residual_pitch : out.pitch;
  band.out_element = out16 != nullptr ? Element::bf16 : Element::f32;
  if (s.residual != Residual::none) {
    band.residual = residual.data();
    band.residual_pitch = n.residual_pitch;
  }
  band.rows = rows;
  band.x_begin = x_begin;
  band.x_end = x_end;
  Buffer<float> workspace(packed.workspace_floats);
  std::fill(workspace.data(), workspace.data() + workspace.size(), kNan);
  packed.run(packed, band, workspace.data());
}

// The sum of a pixel's products and other terms without their signs: what rounding is relative to. For Winograd the
// largest of its tile's.
class Magnitudes {
 public:
  explicit Magnitudes(const Case& given) : c_(given) {
    c_.spec.activation = Activation::none;
    for (float& w : c_.weight) w = std::fabs(w);
    for (float& b : c_.bias) b = std::fabs(b);
    for (Plane* plane : {&c_.in, &c_.residual})
      for (auto& row : plane->rows)
        for (float& value : row) value = std::fabs(value);
  }
  double at(int64_t y, int64_t x, int64_t co, bool tile) const {
    if (!tile) return exact_value(c_, y, x, co);
    double most = 0.0;
    for (int64_t i = y / 4 * 4; i < std::min(y / 4 * 4 + 4, c_.out_height); ++i)
      for (int64_t j = x / 4 * 4; j < std::min(x / 4 * 4 + 4, c_.out_width); ++j)
        most = std::max(most, exact_value(c_, i, j, co));
    return most;
  }

 private:
  Case c_;
};

// Images of bfloat16: exact products and float sums, so nearly the exact result of the rounded numbers; Winograd by
// pairs rounds the transformed numbers too. Results in bfloat16 are those in float, rounded; cuts change nothing.
void test_narrow(const ConvVariant& variant, const Case& plain, Random& random) {
  if (!conv_supports(plain.spec, variant.algorithm)) return;
  NarrowCase n(plain, variant.algorithm == ConvAlgorithm::bf16_direct, random);
  const Case& c = n.c;
  const PackedConv packed = pack_conv(c.spec, variant, c.weight.data(), c.bias.data());
  Plane out = c.output(), cut = c.output();
  run_narrow(n, packed, 0, c.out_height, 0, c.out_width, out);
  CHECK_SAYING(guards_hold(out, 0, c.out_height, c.out_width), c.text(variant.name));
  // Units of a float sum's rounding; of bfloat16's where the transforms, whose coefficients reach 4, round to it: with
  // few channels a tile's far corner may outweigh all that an output sees.
  const double unit = variant.algorithm == ConvAlgorithm::bf16_winograd4 ? (c.spec.in_channels < 16 ? 6.0 : 1.0) / 128
                      : variant.algorithm == ConvAlgorithm::winograd4    ? 64.0 * kEpsilon
                                                                         : 8.0 * kEpsilon;
  const bool grid = variant.algorithm == ConvAlgorithm::winograd4 || variant.algorithm == ConvAlgorithm::bf16_winograd4;
  const Magnitudes magnitudes(c);
  double worst = 0.0;
  for (int i = 0; i < 100; ++i) {
    const int64_t y = random() % c.out_height, x = random() % c.out_width, co = random() % c.spec.out_channels;
    const double error = std::fabs(out.at(y, x, co) - exact_value(c, y, x, co));
    worst = std::max(worst, error / (unit * magnitudes.at(y, x, co, grid)));
    if (std::isnan(error)) worst = kInfinity;
  }
  CHECK_SAYING(worst <= 1.0, c.text(variant.name) + ": " + std::to_string(worst) + " of what rounding explains");
  const int64_t y_cut = std::min<int64_t>(c.out_height, grid ? 4 : 3), x_cut = std::min<int64_t>(c.out_width, 20);
  for (int64_t y : {int64_t{0}, y_cut})
    for (int64_t x : {int64_t{0}, x_cut})
      run_narrow(n, packed, y, y == 0 ? y_cut : c.out_height, x, x == 0 ? x_cut : c.out_width, cut);
  CHECK_SAYING(same_bits(out, cut), c.text(variant.name));
  std::vector<std::vector<Bf16>> narrow(c.out_height, std::vector<Bf16>(c.out_width * n.residual_pitch));
  run_narrow(n, packed, 0, c.out_height, 0, c.out_width, out, &narrow);
  bool same = true;
  for (int64_t y = 0; y < c.out_height; ++y)
    for (int64_t x = 0; x < c.out_width; ++x)
      for (int64_t co = 0; co < c.spec.out_channels; ++co)
        same = same && narrow[y][x * n.residual_pitch + co].bits == float_to_bf16(out.at(y, x, co)).bits;
  CHECK_SAYING(same, c.text(variant.name));
}

Case random_narrow_case(const ConvVariant& variant, Random& random) {
  return random_case(random, variant.algorithm == ConvAlgorithm::bf16_winograd4 ? ConvAlgorithm::winograd4
                             : variant.algorithm == ConvAlgorithm::bf16_direct  ? ConvAlgorithm::direct
                                                                                : variant.algorithm);
}

// Layers so wide that a kernel may take their weights in another order: some on more rows than it does at once.
Case wide_case(int64_t channels, Random& random) {
  ConvSpec s;
  s.in_channels = channels;
  s.out_channels = channels + 13;
  s.kernel_h = s.kernel_w = 3;
  s.pad_top = s.pad_left = 1;
  s.activation = Activation::relu;
  s.residual = Residual::before_activation;
  return Case(s, 18, 70, channels, channels + 13, random);
}

}  // namespace
}  // namespace fr

int main() {
  using namespace fr;
  CHECK(reference().algorithm == ConvAlgorithm::reference);
  test_refusals();
  Random random(20260101);
  test_choice(random);
  for (const ConvVariant& variant : runnable_variants()) {
    if (variant.algorithm == ConvAlgorithm::int8_direct) continue;  // test_conv2d_int8.cc
    for (int i = 0; i < 60 && variant.algorithm != ConvAlgorithm::reference; ++i)
      test_narrow(variant, random_narrow_case(variant, random), random);
    if (reads_bf16(variant.algorithm)) {
      for (int64_t channels : {130, 256, 480}) test_narrow(variant, wide_case(channels, random), random);
      continue;
    }
    const int cases = variant.algorithm == ConvAlgorithm::reference ? 20 : 120;
    for (int i = 0; i < cases; ++i) {
      const Case c = random_case(random, variant.algorithm);
      test_against_exact(variant, c);
      test_cuts(variant, c, random);
    }
    test_cut_memory(variant, random);
    test_not_finite(variant, random);
    test_residual_in_place(variant, random);
    test_empty(variant, random);
    if (variant.algorithm == ConvAlgorithm::winograd4) test_winograd_error(variant, random);
  }
  return test::result();
}
