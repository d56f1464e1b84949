// How to compute a graph on this CPU: an algorithm for every node, with its weights packed. Immutable once made;
// threads share it. Nothing here depends on an image's size.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engine/int8.h"
#include "engine/precision.h"
#include "graph/graph.h"
#include "kernels/arithmetic/arithmetic.h"
#include "kernels/channel_attention/channel_attention.h"
#include "kernels/layer_norm/layer_norm.h"
#include "kernels/local_mean/local_mean.h"
#include "kernels/partial_sum/partial_sum.h"
#include "kernels/warp/warp.h"
#include "kernels/window_attention/window_attention.h"

namespace fr {

struct Step {
  // conv2d: one convolution. conv_transpose2d: one for each phase, row by row of the stride x stride grid.
  std::vector<PackedConv> convs;
  // Rows are produced in blocks of row_grid, the first of which begins row_shift rows above the image, or to its end.
  // Winograd blocks are shifted by as many rows as their input lags behind the picture, so that they never wait for
  // three rows more: rings hold 6 rows of a layer instead of 10.
  int64_t row_grid = 1, row_shift = 0;
  int64_t pitch = 0;  // values from pixel to pixel
  Element element = Element::f32;
  Levels levels;  // where element is u8
  // Columns kept on each side of the image, filled as `border` says, for the convolutions that read this node so.
  int64_t margin = 0;
  Border border = Border::zero;
  // affine: scales, then shifts; prelu: slopes. By channel, repeated up to a multiple of pitch and vector.
  // window_attention: the biases by pixel.
  std::vector<float> table;
  int64_t scratch = 0;           // floats that a piece of a row operator needs beside its images
  std::vector<ResizeTaps> taps;  // resize: of each phase
};

// Who reads a node, and as which of its inputs.
struct Consumer {
  size_t node, which;
};

// The row operators' kernels for the plan's instruction set.
struct RowKernels {
  ActivationFn* activate;
  const ArithmeticKernels* arithmetic;
  PoolFn* pool;
  ResizeFn* resize;
  LayerNormFn* layer_norm;
  PartialSumFn* partial_sum;
  WindowAttentionFn* window_attention;
  const ChannelAttentionKernels* channel_attention;
  WarpFn* warp;
  const LocalMeanKernels* local_mean;
};

class Plan {
 public:
  // levels: the images that are u8, for int8 only. Throws std::invalid_argument for what check_levels refuses.
  explicit Plan(Graph graph, Precision precision = Precision::float32, Isa isa = host_isa(),
                std::vector<ImageLevels> levels = {});

  const Graph& graph() const { return graph_; }
  const Node& node(size_t n) const { return graph_.nodes()[n]; }
  const Step& step(size_t n) const { return steps_[n]; }
  size_t size() const { return steps_.size(); }
  Precision precision() const { return precision_; }
  const std::vector<ImageLevels>& levels() const { return levels_; }
  Isa isa() const { return isa_; }
  int64_t grid() const { return grid_; }  // input pixels; a strip or a band may begin at multiples of it
  int64_t workspace_floats() const { return workspace_floats_; }  // scratch of one thread
  // Columns that a row operator computes at a time: all, or a few where images pass through float scratch.
  static constexpr int64_t kPieceColumns = 64;
  bool needs_scratch(size_t n) const;  // whether a row operator works on float copies of narrower images
  int64_t packed_bytes() const;
  const std::vector<Consumer>& consumers(size_t n) const { return consumers_[n]; }  // in the order of nodes
  const RowKernels& row_kernels() const { return row_kernels_; }

 private:
  void choose_elements();
  void shift_row_grids();

  Graph graph_;
  Precision precision_;
  Isa isa_;
  std::vector<ImageLevels> levels_;
  std::vector<Step> steps_;
  std::vector<std::vector<Consumer>> consumers_;
  RowKernels row_kernels_;
  int64_t grid_ = 1;
  int64_t workspace_floats_ = 0;
};

}  // namespace fr
