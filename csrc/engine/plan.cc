#include "engine/plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace fr {
namespace {

// The convolution that makes one phase of a transposed one, with its share of the weights.
PackedConv pack_phase(const Node& node, int64_t phase_y, int64_t phase_x, Isa isa) {
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
  return pack_conv(spec, ConvAlgorithm::direct, isa, weight.data(), node.bias.empty() ? nullptr : node.bias.data());
}

}  // namespace

Plan::Plan(Graph graph, Isa isa) : graph_(std::move(graph)), isa_(isa), steps_(graph_.nodes().size()) {
  if (graph_.output() < 0) throw std::invalid_argument("plan: the graph has no output");
  grid_ = graph_.multiple_of();
  std::vector<bool> vector_pitch(steps_.size(), false);  // whether a pixel is padded to whole vectors of channels
  for (size_t n = 0; n < steps_.size(); ++n) {
    const Node& node = graph_.nodes()[n];
    Step& step = steps_[n];
    if (node.op == Op::conv2d) {
      const ConvAlgorithm algorithm = choose_conv_algorithm(node.conv, isa);
      step.convs.push_back(
          pack_conv(node.conv, algorithm, isa, node.weight.data(), node.bias.empty() ? nullptr : node.bias.data()));
      if (algorithm == ConvAlgorithm::winograd4) {
        step.row_grid = 4;
        vector_pitch[static_cast<size_t>(node.inputs[0])] = true;
      }
      vector_pitch[n] = true;
    } else if (node.op == Op::conv_transpose2d) {
      for (int64_t y = 0; y < node.conv.stride_h; ++y)
        for (int64_t x = 0; x < node.conv.stride_w; ++x) step.convs.push_back(pack_phase(node, y, x, isa));
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
  }
}

int64_t Plan::packed_bytes() const {
  int64_t bytes = 0;
  for (const Step& step : steps_)
    for (const PackedConv& conv : step.convs) bytes += conv.weights.bytes() + conv.bias.bytes();
  return bytes;
}

}  // namespace fr
