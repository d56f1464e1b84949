#include "engine/describe.h"

#include <algorithm>

namespace fr {
namespace {

// Calls visit(n, interval of node n, x) for each position x of one period of the grid, each axis and node.
template <class Visit>
void for_each_position(const Graph& graph, const Visit& visit) {
  const std::vector<Node>& nodes = graph.nodes();
  for (Axis axis : {Axis::rows, Axis::columns})
    for (int64_t x = 0; x < graph.multiple_of(); ++x) {
      std::vector<Interval> wanted(nodes.size());
      wanted[static_cast<size_t>(graph.output())] = {x, x + 1};
      for (size_t n = nodes.size(); n-- > 0;) {
        for (size_t i = 0; i < nodes[n].inputs.size(); ++i) {
          Interval& input = wanted[static_cast<size_t>(nodes[n].inputs[i])];
          input = hull(input, needed(nodes[n], i, wanted[n], axis));
        }
        visit(n, wanted[n], axis, x);
      }
    }
}

int64_t margin(Interval interval, int64_t stride, int64_t x) {
  if (interval.size() >= kEverything) return kEverything;
  return interval.empty() ? -1 : std::max({int64_t{0}, x - interval.begin * stride, interval.end * stride - 1 - x});
}

}  // namespace

std::vector<int64_t> margins(const Graph& graph) {
  std::vector<int64_t> found(graph.nodes().size(), -1);
  for_each_position(graph, [&](size_t n, Interval interval, Axis, int64_t x) {
    found[n] = std::max(found[n], margin(interval, graph.nodes()[n].stride, x));
  });
  return found;
}

std::vector<int64_t> margins_added(const Graph& graph) {
  const std::vector<Node>& nodes = graph.nodes();
  std::vector<int64_t> added(nodes.size(), 0);
  for_each_position(graph, [&](size_t n, Interval interval, Axis axis, int64_t x) {
    const int64_t own = margin(interval, nodes[n].stride, x);
    for (size_t i = 0; own >= 0 && i < nodes[n].inputs.size(); ++i) {
      const int64_t stride = nodes[static_cast<size_t>(nodes[n].inputs[i])].stride;
      added[n] = std::max(added[n], margin(needed(nodes[n], i, interval, axis), stride, x) - own);
    }
  });
  return added;
}

}  // namespace fr
