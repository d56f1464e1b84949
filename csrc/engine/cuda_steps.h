// What a GPU launches for a graph, in order: each node by itself, or a few nodes by one kernel that keeps what lies
// between them to itself.
//
//   gated_front   layer_norm, 1x1 to twice the channels, depthwise 3x3, the product of its halves and, if the mean is
//                 over the picture, partial_sum
//   gated_back    multiply, 1x1 + residual, layer_norm, 1x1 to twice the channels, the product of its halves, 1x1 +
//                 residual: with gated_front, and the mean and the 1x1 between them, a block of NAFNet
//   folded_mix    mix, 1x1: the mixture becomes part of the convolution's weights (Restormer's attention)
#pragma once
#include <vector>

#include "cuda/kernels.h"
#include "graph/graph.h"

namespace fr {

enum class CudaWay { node, gated_front, gated_back, folded_mix };
const char* cuda_way_name(CudaWay way);

struct CudaStep {
  CudaWay way = CudaWay::node;
  std::vector<size_t> nodes;  // ascending; the last is computed, and by gated_front the product before sums of it too
};

// Every node of the graph but the input, the states and the noise level is in one of the steps.
// types: of the nodes; those of one step are alike.
std::vector<CudaStep> cuda_steps(const Graph& graph, const std::vector<cuda::Type>& types, const cuda::Device& device);

}  // namespace fr
