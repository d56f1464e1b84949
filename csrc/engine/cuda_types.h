// In which type each node's image is held on a GPU.
#pragma once
#include <vector>

#include "cuda/kernels.h"
#include "graph/graph.h"

namespace fr {

// `type` for all, unless the graph divides, takes roots or logarithms, or compares: then that, what it is done to and
// what of it reaches a result or a state without a convolution between are float32, as in a plan of 16 bits on the CPU.
// What convolutions read and write, and attention, stays `type`. A state has its successor's.
std::vector<cuda::Type> cuda_types(const Graph& graph, cuda::Type type);

}  // namespace fr
