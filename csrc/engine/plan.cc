#include "engine/plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace fr {
namespace {

// A pixel of bfloat16 is padded to whole tiles of 32 channels, which is what the matrix units read at a time.
constexpr int64_t kBf16Pitch = 32;

// The convolution that makes one phase of a transposed one, with its share of the weights.
PackedConv pack_phase(const Node& node, int64_t phase_y, int64_t phase_x, Isa isa, Element input) {
  const ConvSpec& whole = node.conv;
  const Phase rows = transposed_phase(whole.kernel_h, whole.stride_h, whole.pad_top, phase_y);
  const Phase columns = transposed_phase(whole.kernel_w, whole.stride_w, whole.pad_left, phase_x);
  ConvSpec spec = whole;
  spec.kernel_h = rows.taps;
  spec.kernel_w = columns.taps;
  spec.stride_h = spec.stride_w = 1;
  spec.pad_top = rows.taps - 1 - rows.first_offset;
  spec.pad_left = columns.taps - 1 - columns.first_offset;
  if (rows.taps == 0 || columns.taps == 0 || spec.pad_top < 0 || spec.pad_left < 0)
    throw std::invalid_argument("conv_transpose2d: this kernel, stride and padding leave a phase without taps");
  std::vector<float> weight;
  weight.reserve(static_cast<size_t>(spec.out_channels * spec.in_channels * rows.taps * columns.taps));
  for (int64_t out = 0; out < spec.out_channels; ++out)
    for (int64_t in = 0; in < spec.in_channels; ++in)
      for (int64_t i = 0; i < rows.taps; ++i)
        for (int64_t j = 0; j < columns.taps; ++j) {  // taps run against the input's direction
          const int64_t ky = rows.first_tap + whole.stride_h * (rows.taps - 1 - i);
          const int64_t kx = columns.first_tap + whole.stride_w * (columns.taps - 1 - j);
          weight.push_back(node.weight[static_cast<size_t>(
              ((in * spec.out_channels + out) * whole.kernel_h + ky) * whole.kernel_w + kx)]);
        }
  // Direct always: the phases of one image may have different shapes, and all must share one grid of rows.
  const bool bf16 = input == Element::bf16 && includes(isa, Isa::avx512_bf16);
  return pack_conv(spec, bf16 ? ConvAlgorithm::bf16_direct : ConvAlgorithm::direct, isa, weight.data(),
                   node.bias.empty() ? nullptr : node.bias.data());
}

}  // namespace

const char* precision_name(Precision precision) { return precision == Precision::bfloat16 ? "bfloat16" : "float32"; }

Precision parse_precision(const std::string& name) {
  for (Precision precision : {Precision::float32, Precision::bfloat16})
    if (name == precision_name(precision)) return precision;
  throw std::invalid_argument("unknown precision '" + name + "': use float32 or bfloat16");
}

Plan::Plan(Graph graph, Precision precision, Isa isa)
    : graph_(std::move(graph)), precision_(precision), isa_(isa), steps_(graph_.nodes().size()) {
  if (graph_.output() < 0) throw std::invalid_argument("plan: the graph has no output");
  if (precision == Precision::bfloat16) choose_elements();
  grid_ = graph_.multiple_of();
  std::vector<bool> vector_pitch(steps_.size(), false);  // whether a pixel is padded to whole vectors of channels
  for (size_t n = 0; n < steps_.size(); ++n) {
    const Node& node = graph_.nodes()[n];
    Step& step = steps_[n];
    if (node.op == Op::conv2d) {
      const ConvAlgorithm algorithm = choose_conv_algorithm(
          node.conv, isa, steps_[static_cast<size_t>(node.inputs[0])].element);
      step.convs.push_back(
          pack_conv(node.conv, algorithm, isa, node.weight.data(), node.bias.empty() ? nullptr : node.bias.data()));
      if (algorithm == ConvAlgorithm::winograd4 || algorithm == ConvAlgorithm::bf16_winograd4) {
        step.row_grid = 4;
        vector_pitch[static_cast<size_t>(node.inputs[0])] = true;
      }
      vector_pitch[n] = true;
    } else if (node.op == Op::conv_transpose2d) {
      for (int64_t y = 0; y < node.conv.stride_h; ++y)
        for (int64_t x = 0; x < node.conv.stride_w; ++x) step.convs.push_back(pack_phase(node, y, x, isa, steps_[static_cast<size_t>(node.inputs[0])].element));
      step.row_grid = node.conv.stride_h;
      vector_pitch[n] = true;
    } else if (node.op == Op::pixel_shuffle) {
      step.row_grid = node.factor;
    }
    grid_ = std::lcm(grid_, step.row_grid * node.stride);
    for (const PackedConv& conv : step.convs) workspace_floats_ = std::max(workspace_floats_, conv.workspace_floats);
  }
  for (size_t n = 0; n < steps_.size(); ++n) {
    const int64_t channels = graph_.nodes()[n].channels;
    steps_[n].pitch = vector_pitch[n] || channels >= 16 ? round_up(channels, 16) : channels;
    if (steps_[n].element == Element::bf16) steps_[n].pitch = round_up(channels, kBf16Pitch);
  }
  for (size_t n = 0; n < steps_.size(); ++n) {  // float copies of a piece of the images that a row operator touches
    if (!needs_scratch(n)) continue;
    const Node& node = graph_.nodes()[n];
    const Interval rows{0, steps_[n].row_grid}, columns{0, kPieceColumns};
    int64_t floats = rows.size() * columns.size() * steps_[n].pitch;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Interval r = needed(node, i, rows, Axis::rows), c = needed(node, i, columns, Axis::columns);
      floats += r.size() * c.size() * steps_[static_cast<size_t>(node.inputs[i])].pitch;
    }
    workspace_floats_ = std::max(workspace_floats_, floats);
  }
}

// bfloat16 is for what convolutions read. The picture, the result and what leads to it without another convolution
// stay float32: the residual of a whole network would lose more than all of its products.
void Plan::choose_elements() {
  const size_t count = steps_.size(), output = static_cast<size_t>(graph_.output());
  std::vector<bool> keep(count, true);  // float32, unless a consumer that comes later says otherwise
  for (size_t n = count; n-- > 0;) {
    const Node& node = graph_.nodes()[n];
    if (node.op == Op::input || node.op == Op::sigma_plane || n == output) keep[n] = true;
    if (!keep[n]) steps_[n].element = Element::bf16;
    const bool convolution = node.op == Op::conv2d || node.op == Op::conv_transpose2d;
    for (size_t i = 0; i < node.inputs.size(); ++i)
      if ((convolution && i == 0) || !keep[n]) keep[static_cast<size_t>(node.inputs[i])] = false;
  }
}

bool Plan::needs_scratch(size_t n) const {
  const Node& node = graph_.nodes()[n];
  if (node.op == Op::conv2d || node.op == Op::conv_transpose2d) return false;
  bool narrow = steps_[n].element == Element::bf16;
  for (int input : node.inputs) narrow = narrow || steps_[static_cast<size_t>(input)].element == Element::bf16;
  return narrow;
}

int64_t Plan::packed_bytes() const {
  int64_t bytes = 0;
  for (const Step& step : steps_)
    for (const PackedConv& conv : step.convs) bytes += conv.weights.bytes() + conv.bias.bytes();
  return bytes;
}

}  // namespace fr
