// How a graph is computed on a GPU: its weights there, the kernels in their order, and where images lie while a part of
// a picture, or all of it, is computed. Immutable once made; knows no picture and keeps none.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "engine/cuda_steps.h"
#include "engine/cuda_types.h"
#include "graph/graph.h"

namespace fr {

cuda::Edge edge_of(Border border);

class CudaProgram {
 public:
  // Throws std::invalid_argument for a graph with what no kernel computes in this type, cuda::NoDevice.
  CudaProgram(std::shared_ptr<const Graph> graph, cuda::Type type);

  // Where each node's image lies while a part of the padded picture is computed.
  struct Layout {
    int64_t height = 0, width = 0;  // of the part, multiples of multiple_of()
    std::vector<int64_t> offset;    // bytes into the arena; -1: a step keeps this node to itself
    // What a node needs while it is computed: its inputs in its own type where that is not theirs, or -1. The second is
    // what local_mean keeps between its two means.
    std::vector<std::array<int64_t, 2>> scratch;
    int64_t bytes = 0;
  };
  Layout lay_out(int64_t height, int64_t width) const;

  cuda::Extent extent_of(size_t n, const Layout& layout) const;
  cuda::Images images(size_t n, const Layout& layout, uint8_t* arena) const;

  // What a part begins with, beside the picture and the states: planes of the noise level.
  void fill_sigma(const Layout& layout, uint8_t* arena, float sigma, cuda::Stream stream) const;

  // Computes every other node. The images of the input, the states and the noise level must be there.
  void launch(const Layout& layout, uint8_t* arena, cuda::Stream stream) const;

  const Graph& graph() const { return *graph_; }
  const Node& node(size_t n) const { return graph_->nodes()[n]; }
  size_t size() const { return graph_->nodes().size(); }
  cuda::Type type() const { return type_; }
  cuda::Type type_of(size_t n) const { return types_[n]; }  // float32 for some nodes of some graphs
  int64_t grid() const { return grid_; }                    // parts begin at multiples of it
  const std::vector<CudaStep>& steps() const { return steps_; }
  std::string way_of(const CudaStep& step) const;  // a convolution's path, the operator's name, or the fusion's

 private:
  void check_nodes();
  void upload_weights();
  int64_t sum_rows(size_t n, const Layout& layout) const;
  cuda::Convolution convolution(size_t n) const;
  int64_t image_bytes(size_t n, const Layout& layout) const;
  int64_t scratch_bytes(size_t n, size_t which, const Layout& layout) const;
  bool converts(size_t n, size_t which) const;
  cuda::ConstImages input(size_t n, size_t which, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  void compute(size_t n, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  void gated_front(const CudaStep& step, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  void gated_back(const CudaStep& step, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  void folded_mix(const CudaStep& step, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  void convolve(size_t n, const cuda::ConstImages& x, const cuda::Extent& in, const void* weight, const Layout& layout,
                uint8_t* arena, cuda::Stream stream) const;
  void concatenate(size_t n, const Layout& layout, uint8_t* arena, cuda::Stream stream) const;
  cuda::PixelOperand operand(size_t n, size_t which, const Layout& layout, uint8_t* arena) const;

  std::shared_ptr<const Graph> graph_;
  cuda::Type type_;
  std::vector<cuda::Type> types_;
  cuda::Device device_;
  int64_t grid_ = 1;
  std::vector<CudaStep> steps_;
  std::vector<CudaWay> ways_;     // of the step that each node is part of
  std::vector<size_t> last_use_;  // the last node of the last step that reads it
  std::vector<cuda::DeviceMemory> weights_, biases_;
};

}  // namespace fr
