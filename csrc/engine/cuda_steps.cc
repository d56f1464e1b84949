#include "engine/cuda_steps.h"

#include <algorithm>

namespace fr {
namespace {

// Looks for nodes that follow one another, each read by nobody else.
class Finder {
 public:
  Finder(const Graph& graph, const std::vector<cuda::Type>& types, const cuda::Device& device)
      : graph_(graph), types_(types), device_(device), readers_(graph.nodes().size()) {
    for (size_t n = 0; n < readers_.size(); ++n)
      for (const int input : graph.nodes()[n].inputs) {
        std::vector<size_t>& readers = readers_[static_cast<size_t>(input)];
        if (readers.empty() || readers.back() != n) readers.push_back(n);
      }
  }

  // Each gives the nodes of a step that ends at node n, or nothing.
  std::vector<size_t> gated_front(size_t n) const {
    const bool summed = node(n).op == Op::partial_sum;
    const size_t gate = summed ? input(n, 0) : n;
    const size_t deep = gate_of(gate), wide = deep == kNone ? kNone : depthwise_of(deep);
    const size_t norm = wide == kNone ? kNone : widening_of(wide);
    if (norm == kNone || !gated_block_fits(gate)) return {};
    if (!summed) return checked({norm, wide, deep, gate}, {gate});
    // The product is written here too: nobody may have read it before.
    for (const size_t reader : readers_[gate])
      if (reader < n) return {};
    return checked({norm, wide, deep, gate, n}, {gate, n});
  }

  std::vector<size_t> gated_back(size_t n) const {
    if (!adds_to(n)) return {};
    const size_t gate = input(n, 0), image = input(n, 1);
    const size_t wide = gate_of(gate), norm = wide == kNone ? kNone : widening_of(wide);
    if (norm == kNone || input(norm, 0) != image || !adds_to(image)) return {};
    const size_t scaled = input(image, 0);
    const Node& product = node(scaled);
    if (product.op != Op::multiply || product.parts[0].count != product.channels ||
        product.parts[1].count != product.channels || product.parts[0].first != 0 || product.parts[1].first != 0)
      return {};
    if (!gated_block_fits(scaled) || readers_[image] != std::vector<size_t>{norm, n}) return {};
    return checked({scaled, image, norm, wide, gate, n}, {image, n});
  }

  std::vector<size_t> folded_mix(size_t n) const {
    if (node(n).op != Op::conv2d || !is_pointwise(node(n).conv)) return {};
    const size_t mix = input(n, 0);
    if (node(mix).op != Op::mix || node(mix).parts[1].first % 8 != 0) return {};
    return checked({mix, n}, {n});
  }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  const Node& node(size_t n) const { return graph_.nodes()[n]; }
  size_t input(size_t n, size_t which) const { return static_cast<size_t>(node(n).inputs[which]); }

  static bool is_pointwise(const ConvSpec& spec) {
    return spec.kernel_h == 1 && spec.kernel_w == 1 && spec.stride_h == 1 && spec.stride_w == 1 && spec.pad_top == 0 &&
           spec.pad_left == 0 && spec.groups == 1;
  }

  bool gated_block_fits(size_t n) const { return cuda::gated_block_supports(types_[n], node(n).channels, device_); }

  // A 1x1 convolution of as many channels as it has, added to another image.
  bool adds_to(size_t n) const {
    const ConvSpec& spec = node(n).conv;
    return node(n).op == Op::conv2d && is_pointwise(spec) && spec.in_channels == spec.out_channels &&
           spec.activation == Activation::none && spec.residual != Residual::none &&
           (spec.residual == Residual::after_scale || spec.scale == 1.0f);
  }

  // The node whose halves n multiplies.
  size_t gate_of(size_t n) const {
    const Node& product = node(n);
    const int64_t channels = product.channels;
    const bool halves = product.op == Op::multiply && product.broadcast < 0 && product.inputs[0] == product.inputs[1] &&
                        product.parts[0].count == channels && product.parts[1].count == channels &&
                        product.parts[0].first + product.parts[1].first == channels &&
                        node(input(n, 0)).channels == 2 * channels;
    return halves ? input(n, 0) : kNone;
  }

  // What a depthwise 3x3 convolution reads.
  size_t depthwise_of(size_t n) const {
    const ConvSpec& s = node(n).conv;
    const bool fits = node(n).op == Op::conv2d && s.groups == s.in_channels && s.groups == s.out_channels &&
                      s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 && s.dilation_h == 1 &&
                      s.dilation_w == 1 && s.pad_top == 1 && s.pad_left == 1 && node(n).border == Border::zero &&
                      s.activation == Activation::none && s.residual == Residual::none && s.scale == 1.0f;
    return fits ? input(n, 0) : kNone;
  }

  // The norm before a 1x1 convolution to twice the channels.
  size_t widening_of(size_t n) const {
    const ConvSpec& s = node(n).conv;
    const bool fits = node(n).op == Op::conv2d && is_pointwise(s) && s.out_channels == 2 * s.in_channels &&
                      s.activation == Activation::none && s.residual == Residual::none &&
                      node(input(n, 0)).op == Op::layer_norm && node(input(n, 0)).centred;
    return fits ? input(n, 0) : kNone;
  }

  // The nodes, if they and what they read are of one type, and all but `kept` are read by one node, which is among them
  // too, and are no result.
  std::vector<size_t> checked(std::vector<size_t> nodes, const std::vector<size_t>& kept) const {
    for (const size_t n : nodes) {
      for (const int input : node(n).inputs)
        if (types_[static_cast<size_t>(input)] != types_[nodes.back()]) return {};
      if (n != nodes.back() && graph_.is_result(n)) return {};
      if (std::find(kept.begin(), kept.end(), n) != kept.end()) continue;
      if (readers_[n].size() != 1 || std::find(nodes.begin(), nodes.end(), readers_[n][0]) == nodes.end()) return {};
    }
    return nodes;
  }

  const Graph& graph_;
  const std::vector<cuda::Type>& types_;
  cuda::Device device_;
  std::vector<std::vector<size_t>> readers_;  // of each node, ascending
};

}  // namespace

const char* cuda_way_name(CudaWay way) {
  constexpr const char* kNames[] = {"node", "gated_front", "gated_back", "folded_mix"};
  return kNames[static_cast<int>(way)];
}

std::vector<CudaStep> cuda_steps(const Graph& graph, const std::vector<cuda::Type>& types, const cuda::Device& device) {
  const Finder finder(graph, types, device);
  std::vector<bool> taken(graph.nodes().size(), false);
  std::vector<CudaStep> steps;
  for (size_t n = graph.nodes().size(); n-- > 0;) {  // what a step takes lies before its end
    const Op op = graph.nodes()[n].op;
    if (taken[n] || op == Op::input || op == Op::state || op == Op::sigma_plane) continue;
    CudaStep step{CudaWay::node, {n}};
    const auto take = [&](CudaWay way, const std::vector<size_t>& nodes) {
      if (step.way == CudaWay::node && !nodes.empty()) step = {way, nodes};
    };
    take(CudaWay::gated_front, finder.gated_front(n));
    take(CudaWay::gated_back, finder.gated_back(n));
    take(CudaWay::folded_mix, finder.folded_mix(n));
    for (const size_t node : step.nodes) taken[node] = true;
    steps.push_back(std::move(step));
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

}  // namespace fr
