// How to compute a graph on this CPU: an algorithm for every node, with its weights packed. Immutable once made;
// threads share it. Nothing here depends on an image's size.
#pragma once
#include <memory>
#include <vector>

#include "graph/graph.h"

namespace fr {

struct Step {
  // conv2d: one convolution. conv_transpose2d: one for each phase, row by row of the stride x stride grid.
  std::vector<PackedConv> convs;
  int64_t row_grid = 1;  // rows are produced in multiples of this, counted from the image's top, or to its end
  int64_t pitch = 0;     // floats from pixel to pixel
};

class Plan {
 public:
  explicit Plan(Graph graph, Isa isa = host_isa());

  const Graph& graph() const { return graph_; }
  const Node& node(size_t n) const { return graph_.nodes()[n]; }
  const Step& step(size_t n) const { return steps_[n]; }
  size_t size() const { return steps_.size(); }
  Isa isa() const { return isa_; }
  int64_t grid() const { return grid_; }  // input pixels; a strip or a band may begin at multiples of it
  int64_t workspace_floats() const { return workspace_floats_; }  // scratch of one thread
  int64_t packed_bytes() const;

 private:
  Graph graph_;
  Isa isa_;
  std::vector<Step> steps_;
  int64_t grid_ = 1;
  int64_t workspace_floats_ = 0;
};

}  // namespace fr
