// Every variant of the convolution of levels against one in double precision, cut into bands, and the levels that other
// convolutions write and add.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "check.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/conv2d_int8/conv2d_int8.h"

namespace fr {
namespace {

using Random = std::mt19937;

int64_t within(Random& random, int64_t least, int64_t most) { return least + random() % (most - least + 1); }
float uniform(Random& random) { return static_cast<float>(random()) / 4294967296.0f * 2.0f - 1.0f; }

std::vector<const ConvVariant*> runnable(bool int8) {
  std::vector<const ConvVariant*> found;
  for (const ConvVariant& variant : conv_variants())
    if (includes(host_isa(), variant.isa) && (variant.algorithm == ConvAlgorithm::int8_direct) == int8 &&
        !reads_bf16(variant.algorithm))
      found.push_back(&variant);
  return found;
}

// Rows of an image of any element, with a line behind each row that kernels may read but not change.
struct Image {
  int64_t height, width, channels, pitch;
  Element element;
  Levels levels;
  std::vector<std::vector<uint8_t>> rows;

  static constexpr uint8_t kGuard = 0xa5;

  Image(int64_t h, int64_t w, int64_t c, int64_t p, Element e, Levels l)
      : height(h), width(w), channels(c), pitch(p), element(e), levels(l) {
    for (int64_t y = 0; y < height; ++y)
      rows.emplace_back(static_cast<size_t>(width * pitch * element_bytes(element) + 64), kGuard);
  }
  double at(int64_t y, int64_t x, int64_t c) const {
    const uint8_t* value = rows[y].data() + (x * pitch + c) * element_bytes(element);
    if (element == Element::u8) return static_cast<double>(*value - levels.zero) * levels.scale;
    if (element == Element::bf16) return bf16_to_float(*reinterpret_cast<const Bf16*>(value));
    return *reinterpret_cast<const float*>(value);
  }
  int level(int64_t y, int64_t x, int64_t c) const { return rows[y][x * pitch + c]; }
  void randomize(Random& random) {  // the padding channels too, with what is finite in every element
    for (auto& row : rows)
      for (int64_t i = 0; i < width * pitch; ++i) {
        if (element == Element::u8) row[i] = static_cast<uint8_t>(random());
        if (element == Element::bf16) reinterpret_cast<Bf16*>(row.data())[i] = float_to_bf16(uniform(random));
        if (element == Element::f32) reinterpret_cast<float*>(row.data())[i] = uniform(random);
      }
  }
  bool guards_hold() const {
    for (const auto& row : rows)
      for (size_t i = row.size() - 64; i < row.size(); ++i)
        if (row[i] != kGuard) return false;
    return true;
  }
};

Levels random_levels(Random& random) {
  const int32_t zeros[] = {0, 0, 3, 128, 255};
  return {std::ldexp(1.0f + 0.3f * uniform(random), -static_cast<int>(random() % 5) - 4), zeros[random() % 5]};
}

struct Case {
  ConvSpec spec;
  std::vector<float> weight, bias;
  Image in, residual;
  int64_t out_height, out_width;

  std::string text(const std::string& variant) const {
    const auto n = [](int64_t value) { return std::to_string(value); };
    return variant + ": " + n(spec.in_channels) + "->" + n(spec.out_channels) + " kernel " + n(spec.kernel_h) + "x" +
           n(spec.kernel_w) + " stride " + n(spec.stride_w) + " dilation " + n(spec.dilation_w) + " pitch " +
           n(in.pitch) + " zero " + n(in.levels.zero) + " image " + n(in.height) + "x" + n(in.width) + " residual " +
           n(static_cast<int64_t>(spec.residual)) + " activation " + n(static_cast<int64_t>(spec.activation));
  }
};

// Weights are whole multiples of 1/128 up to 127 of them, so that 8 bits hold them exactly.
Case random_case(Random& random, Element in_element) {
  ConvSpec s;
  s.kernel_h = within(random, 1, 5);
  s.kernel_w = within(random, 1, 5);
  s.in_channels = random() % 3 == 0 ? within(random, 1, 130) : 16 * within(random, 1, 6);
  s.out_channels = random() % 3 == 0 ? within(random, 1, 100) : 16 * within(random, 1, 6);
  s.dilation_h = s.dilation_w = random() % 4 == 0 ? 2 : 1;
  s.stride_h = s.stride_w = random() % 4 == 0 ? 2 : 1;
  if (random() % 3 == 0) {
    s.kernel_h = s.kernel_w = 3;
    s.stride_h = s.stride_w = s.dilation_h = s.dilation_w = 1;
  }
  s.pad_top = within(random, 0, (s.kernel_h - 1) * s.dilation_h);
  s.pad_left = within(random, 0, (s.kernel_w - 1) * s.dilation_w);
  if (random() % 3 == 0) s.pad_top = s.pad_left = s.kernel_h / 2 * (s.kernel_h == s.kernel_w);
  s.activation = static_cast<Activation>(random() % 4);
  s.slope = 0.125f;
  s.residual = static_cast<Residual>(random() % 3);
  if (random() % 3 == 0) s.scale = 0.5f;
  const int64_t height = within(random, (s.kernel_h - 1) * s.dilation_h + 1, 18);
  const int64_t width = within(random, (s.kernel_w - 1) * s.dilation_w + 1, 90);
  const int64_t out_height = (height + s.pad_top - (s.kernel_h - 1) * s.dilation_h - 1) / s.stride_h + 1;
  const int64_t out_width = (width + s.pad_left - (s.kernel_w - 1) * s.dilation_w - 1) / s.stride_w + 1;
  const int64_t depth = int8_depth(s) + (random() % 4 == 0 ? 16 : 0);
  const Element elements[] = {Element::f32, Element::bf16, Element::u8};
  Case c{
      s,
      {},
      {},
      Image(height, width, s.in_channels, depth, in_element, random_levels(random)),
      Image(out_height, out_width, s.out_channels, s.out_channels + 3, elements[random() % 3], random_levels(random)),
      out_height,
      out_width};
  const int64_t products = s.kernel_h * s.kernel_w * s.in_channels;
  for (int64_t i = 0; i < s.out_channels * products; ++i)
    c.weight.push_back(static_cast<float>(i % products == 0 ? 127 : within(random, -127, 127)) / 128.0f);
  for (int64_t i = 0; i < s.out_channels; ++i) c.bias.push_back(uniform(random));
  c.in.randomize(random);
  c.residual.randomize(random);
  return c;
}

// Rows [y_begin, y_end) and columns [x_begin, x_end) of the output.
void run(const Case& c, const PackedConv& packed, int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end,
         Image& out) {
  const ConvSpec& s = c.spec;
  const int64_t rows = y_end - y_begin;
  const int64_t entries = packed.algorithm == ConvAlgorithm::winograd4
                              ? round_up(rows, 4) + 2
                              : (rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  std::vector<const void*> in, residual;
  std::vector<void*> destination;
  for (int64_t i = 0; i < entries; ++i) {
    const int64_t y = y_begin * s.stride_h - s.pad_top + i;
    in.push_back(y >= 0 && y < c.in.height ? c.in.rows[y].data() : nullptr);
  }
  for (int64_t y = y_begin; y < y_end; ++y) {
    residual.push_back(c.residual.rows[y].data());
    destination.push_back(out.rows[y].data());
  }
  ConvBand band;
  band.in = in.data();
  band.in_end = c.in.width;
  band.in_pitch = c.in.pitch;
  band.in_element = c.in.element;
  band.out = destination.data();
  band.out_pitch = out.pitch;
  band.out_element = out.element;
  band.out_levels = out.levels;
  band.residual = residual.data();
  band.residual_pitch = c.residual.pitch;
  band.residual_element = c.residual.element;
  band.residual_levels = c.residual.levels;
  band.rows = rows;
  band.x_begin = x_begin;
  band.x_end = x_end;
  Buffer<float> workspace(packed.workspace_floats);
  std::fill(workspace.data(), workspace.data() + workspace.size(), std::nanf(""));
  packed.run(packed, band, workspace.data());
}

Image run_whole(const Case& c, const PackedConv& packed, Element element, Levels levels) {
  Image out(c.out_height, c.out_width, c.spec.out_channels, round_up(c.spec.out_channels, 16), element, levels);
  run(c, packed, 0, c.out_height, 0, c.out_width, out);
  return out;
}

// The exact result, and the sum of its terms without their signs.
struct Exact {
  double value, magnitude;
};

Exact exact(const Case& c, int64_t y, int64_t x, int64_t co) {
  const ConvSpec& s = c.spec;
  double sum = c.bias[co], magnitude = std::fabs(c.bias[co]);
  for (int64_t ky = 0; ky < s.kernel_h; ++ky)
    for (int64_t kx = 0; kx < s.kernel_w; ++kx) {
      const int64_t row = y * s.stride_h - s.pad_top + ky * s.dilation_h;
      const int64_t column = x * s.stride_w - s.pad_left + kx * s.dilation_w;
      if (row < 0 || row >= c.in.height || column < 0 || column >= c.in.width) continue;
      for (int64_t ci = 0; ci < s.in_channels; ++ci) {
        const double product =
            c.weight[((co * s.in_channels + ci) * s.kernel_h + ky) * s.kernel_w + kx] * c.in.at(row, column, ci);
        sum += product;
        magnitude += std::fabs(product);
      }
    }
  const double residual = s.residual == Residual::none ? 0.0 : c.residual.at(y, x, co);
  if (s.residual == Residual::before_activation) sum += residual;
  if (s.activation == Activation::relu) sum = std::max(sum, 0.0);
  if (s.activation == Activation::leaky_relu && sum < 0) sum *= s.slope;
  if (s.activation == Activation::gelu) sum *= 0.5 + 0.5 * std::erf(sum / std::sqrt(2.0));
  sum *= s.scale;
  if (s.residual == Residual::after_scale) sum += residual;
  return {sum, magnitude + std::fabs(residual)};
}

bool same_pixels(const Image& a, const Image& b) {
  for (int64_t y = 0; y < a.height; ++y)
    for (int64_t x = 0; x < a.width; ++x)
      for (int64_t i = 0; i < a.channels * element_bytes(a.element); ++i) {
        const size_t place = static_cast<size_t>(x * a.pitch * element_bytes(a.element) + i);
        if (a.rows[y][place] != b.rows[y][place]) return false;
      }
  return true;
}

// Floats within a few roundings of the exact result, levels the nearest ones, and the same however it is cut.
void test_variant(const ConvVariant& variant, Random& random) {
  const Case c = random_case(random, Element::u8);
  const std::string text = c.text(variant.name);
  const PackedConv packed = pack_conv(c.spec, variant, c.weight.data(), c.bias.data(), c.in.levels);
  const Image floats = run_whole(c, packed, Element::f32, {});
  const Levels levels = random_levels(random);
  const Image whole = run_whole(c, packed, Element::u8, levels);
  CHECK_SAYING(floats.guards_hold() && whole.guards_hold(), text);
  double worst = 0.0, off = 0.0;
  for (int i = 0; i < 150; ++i) {
    const int64_t y = random() % c.out_height, x = random() % c.out_width, co = random() % c.spec.out_channels;
    const Exact e = exact(c, y, x, co);
    const double unit = 1e-6 * e.magnitude + 1e-12;
    worst = std::max(worst, std::fabs(floats.at(y, x, co) - e.value) / unit);
    const double level = std::clamp(e.value / levels.scale + levels.zero, 0.0, 255.0);
    off = std::max(off, std::fabs(whole.level(y, x, co) - level) - unit / levels.scale);
  }
  CHECK_SAYING(worst <= 1.0, text + ": " + std::to_string(worst) + " of what rounding explains");
  CHECK_SAYING(off <= 0.5 + 1e-4, text + ": " + std::to_string(off) + " levels off");
  Image cut(c.out_height, c.out_width, whole.channels, whole.pitch, Element::u8, levels);
  const int64_t y_cut = within(random, 0, c.out_height), x_cut = within(random, 0, c.out_width);
  for (int part = 0; part < 4; ++part)
    run(c, packed, part & 1 ? y_cut : 0, part & 1 ? c.out_height : y_cut, part & 2 ? x_cut : 0,
        part & 2 ? c.out_width : x_cut, cut);
  CHECK_SAYING(same_pixels(whole, cut) && cut.guards_hold(), text);
}

// The largest possible sums, and what is no number or beyond all levels.
void test_extremes(const ConvVariant& variant) {
  ConvSpec s;
  s.kernel_h = s.kernel_w = 3;
  s.in_channels = 64;
  s.out_channels = 20;
  s.pad_top = s.pad_left = 1;
  Case c{s, {}, {}, Image(5, 40, 64, 64, Element::u8, {1.0f, 0}), Image(5, 40, 20, 20, Element::f32, {}), 5, 40};
  c.weight.assign(20 * 64 * 9, 1.0f);
  for (size_t i = 0; i < 10 * 64 * 9; ++i) c.weight[i] = -1.0f;
  c.bias.assign(20, 0.0f);
  c.bias[0] = std::nanf("");
  c.bias[1] = INFINITY;
  c.bias[2] = -INFINITY;
  c.bias[3] = 1e30f;
  for (auto& row : c.in.rows) std::fill(row.begin(), row.end(), uint8_t{255});
  const PackedConv packed = pack_conv(s, variant, c.weight.data(), c.bias.data(), c.in.levels);
  const Image floats = run_whole(c, packed, Element::f32, {}), levels = run_whole(c, packed, Element::u8, {1.0f, 128});
  const auto near = [&](int64_t y, int64_t x, int64_t co, double value) {
    return std::fabs(floats.at(y, x, co) - value) <= 1e-6 * std::fabs(value);
  };
  CHECK_SAYING(near(2, 7, 19, 255.0 * 576) && near(2, 7, 9, -255.0 * 576), variant.name);
  CHECK_SAYING(near(0, 0, 19, 255.0 * 256) && std::isnan(floats.at(2, 7, 0)), variant.name);
  const int wanted[] = {0, 255, 0, 255, 0};
  for (int co = 0; co < 5; ++co) CHECK_SAYING(levels.level(2, 7, co) == wanted[co], variant.name);
  CHECK_SAYING(levels.level(2, 7, 19) == 255, variant.name);
}

// Other convolutions: levels in the place of the result are those of the result in float.
void test_writer(const ConvVariant& variant, Random& random) {
  const Case c = random_case(random, Element::f32);
  if (!conv_supports(c.spec, variant.algorithm)) return;
  const PackedConv packed = pack_conv(c.spec, variant, c.weight.data(), c.bias.data());
  const Levels levels = random_levels(random);
  const Image floats = run_whole(c, packed, Element::f32, {}), whole = run_whole(c, packed, Element::u8, levels);
  double off = 0.0;
  for (int64_t y = 0; y < c.out_height; ++y)
    for (int64_t x = 0; x < c.out_width; ++x)
      for (int64_t co = 0; co < c.spec.out_channels; ++co) {
        const double level = std::clamp(floats.at(y, x, co) / levels.scale + levels.zero, 0.0, 255.0);
        off = std::max(off, std::fabs(whole.level(y, x, co) - level));
      }
  CHECK_SAYING(off <= 0.5 + 1e-3 && whole.guards_hold(), c.text(variant.name) + ": " + std::to_string(off));
}

void test_refusals() {
  ConvSpec s;
  s.in_channels = 70000;
  s.out_channels = 1;
  CHECK(!conv_supports(s, ConvAlgorithm::int8_direct));  // sums could leave 31 bits
  s.in_channels = 66311;
  CHECK(conv_supports(s, ConvAlgorithm::int8_direct));
  s.in_channels = 1;
  const float weight = INFINITY;
  CHECK_THROWS(pack_conv(s, ConvAlgorithm::int8_direct, Isa::none, &weight, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace fr

int main() {
  using namespace fr;
  Random random(20260102);
  test_refusals();
  CHECK(choose_conv_algorithm(ConvSpec(), host_isa(), Element::u8) == ConvAlgorithm::int8_direct);
  for (const ConvVariant* variant : runnable(true)) {
    for (int i = 0; i < 150; ++i) test_variant(*variant, random);
    test_extremes(*variant);
  }
  for (const ConvVariant* variant : runnable(false))
    for (int i = 0; i < 40; ++i) test_writer(*variant, random);
  return test::result();
}
