#include "engine/int8.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/conv2d_int8/conv2d_int8.h"

namespace fr {
namespace {

bool is_convolution(const Node& node) { return node.op == Op::conv2d || node.op == Op::conv_transpose2d; }

// Whether node `reader` allows its input number `which` to be levels.
bool reads_levels(const Node& reader, size_t which, bool last) {
  if (is_residual(reader, which)) return true;
  if (!is_convolution(reader))
    return reader.fold == 0 && !reader.whole && reader.op != Op::local_mean && !compares(reader, which);
  return reader.op == Op::conv2d && reader.conv.groups == 1 && !last && int8_sums_fit(reader.conv);
}

}  // namespace

std::vector<bool> images_for_levels(const Graph& graph) {
  const std::vector<Node>& nodes = graph.nodes();
  const size_t count = nodes.size();
  std::vector<bool> behind(count, false);    // a convolution leads to it, or it is one
  std::vector<bool> followed(count, false);  // a convolution comes after it
  std::vector<bool> allowed(count, true), read(count, false);
  for (size_t n = 0; n < count; ++n) {
    behind[n] = is_convolution(nodes[n]);
    for (int input : nodes[n].inputs) behind[n] = behind[n] || behind[static_cast<size_t>(input)];
  }
  for (size_t n = count; n-- > 0;)
    for (size_t i = 0; i < nodes[n].inputs.size(); ++i) {
      const size_t input = static_cast<size_t>(nodes[n].inputs[i]);
      const bool convolved = is_convolution(nodes[n]) && !is_residual(nodes[n], i);
      if (followed[n] || convolved) followed[input] = true;
      if (convolved) read[input] = true;
      if (!reads_levels(nodes[n], i, !followed[n])) allowed[input] = false;
    }
  for (size_t n = 0; n < count; ++n)
    allowed[n] = allowed[n] && read[n] && behind[n] && !nodes[n].whole && nodes[n].fold == 0 &&
                 nodes[n].op != Op::local_mean && !graph.is_result(n);
  return allowed;
}

void check_levels(const Graph& graph, const std::vector<ImageLevels>& images) {
  const std::vector<bool> allowed = images_for_levels(graph);
  int before = -1;
  for (const ImageLevels& image : images) {
    const std::string name = "int8: image " + std::to_string(image.node);
    if (image.node <= before || image.node >= static_cast<int>(allowed.size()))
      throw std::invalid_argument(name + " is no node, or not in their order");
    if (!allowed[static_cast<size_t>(image.node)])
      throw std::invalid_argument(name + " must stay wide: not all that read it are convolutions of 8 bits");
    if (!(image.levels.scale > 0.0f) || !std::isnormal(image.levels.scale) || !std::isnormal(1.0f / image.levels.scale))
      throw std::invalid_argument(name + "'s scale must be positive and finite, and so must its inverse");
    if (image.levels.zero < 0 || image.levels.zero > 255)
      throw std::invalid_argument(name + "'s zero must be within 0 to 255");
    before = image.node;
  }
}

}  // namespace fr
