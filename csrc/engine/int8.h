// Which images of a graph may be kept as levels of 8 bits, for the convolutions that read them to be of 8 bits too.
#pragma once
#include <vector>

#include "base/levels.h"
#include "graph/graph.h"

namespace fr {

// A node whose image is kept as levels.
struct ImageLevels {
  int node = 0;
  Levels levels;
};

// By node: whether its image may be levels. All that read it through a kernel must be convolutions of one group, of
// which none is the picture's first or the result's last, and whose sums fit; others read it through a copy in float.
std::vector<bool> images_for_levels(const Graph& graph);

// Throws std::invalid_argument unless nodes ascend, may all be levels, and have sound ones.
void check_levels(const Graph& graph, const std::vector<ImageLevels>& images);

}  // namespace fr
