#include "engine/cuda_types.h"

#include <algorithm>

namespace fr {
namespace {

bool is_delicate(const Node& node) { return has_poles(node) || compares(node, 0); }

// What is done on tensor cores.
bool multiplies_matrices(const Node& node) {
  return node.op == Op::conv2d || node.op == Op::conv_transpose2d || node.op == Op::window_attention ||
         node.op == Op::partial_gram || node.op == Op::mix;
}

}  // namespace

std::vector<cuda::Type> cuda_types(const Graph& graph, cuda::Type type) {
  const std::vector<Node>& nodes = graph.nodes();
  std::vector<cuda::Type> types(nodes.size(), type);
  if (std::none_of(nodes.begin(), nodes.end(), is_delicate)) return types;
  std::vector<bool> compared(nodes.size(), false);
  for (const Node& node : nodes)
    for (size_t i = 0; i < node.inputs.size(); ++i)
      if (compares(node, i)) compared[static_cast<size_t>(node.inputs[i])] = true;
  std::vector<bool> leads(nodes.size(), false);    // to a result without a convolution between
  std::vector<bool> narrows(nodes.size(), false);  // to a convolution, without a delicate node between
  for (size_t n = nodes.size(); n-- > 0;) {
    const Node& node = nodes[n];
    const bool matrices = multiplies_matrices(node);
    leads[n] = leads[n] || graph.is_result(n);
    const bool wide = node.inputs.empty() || node.op == Op::sigma_plane || leads[n] || compared[n] || has_poles(node);
    if (matrices) narrows[n] = true;
    if (!matrices && (wide || !narrows[n])) types[n] = cuda::Type::f32;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const size_t input = static_cast<size_t>(node.inputs[i]);
      const bool operand = matrices && !is_residual(node, i);
      if (operand || types[n] == type) narrows[input] = true;
      if (!operand && leads[n]) leads[input] = true;
    }
  }
  for (size_t pass = 0; pass < graph.states().size(); ++pass)  // one state's successor may be another state
    for (const State& state : graph.states())
      types[static_cast<size_t>(state.now)] = types[static_cast<size_t>(state.next)];
  return types;
}

}  // namespace fr
