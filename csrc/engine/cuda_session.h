// Runs a graph on a GPU. The picture goes to the device as it is and comes back as it is; between the two every
// node is computed by the kernels of csrc/cuda, over the whole picture or, if that exceeds the memory, over tiles with
// the halo that the graph needs: the result is the same, bit for bit.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "engine/picture.h"

namespace fr {

class CudaSession {
 public:
  // memory: bytes of the device that intermediate images may take (weights and the picture itself are not counted).
  // Throws std::invalid_argument for a graph with an operator that no kernel computes in this type, cuda::NoDevice.
  CudaSession(std::shared_ptr<const Graph> graph, cuda::Type type, int64_t memory);

  // As Session::run. In the report strips are tiles, band the rows of a tile's core; seconds stays empty.
  RunReport run(const Picture& picture, const RunOptions& options);

  // What a run of this size would take, without running.
  RunReport preview(int64_t height, int64_t width) const;

  // How many nodes go each way: a convolution's path, or the operator's name.
  const std::map<std::string, int>& ways() const { return ways_; }

 private:
  // Where each node's image lies while a region of the picture is computed.
  struct Layout {
    int64_t height = 0, width = 0;  // of the region, multiples of multiple_of()
    std::vector<int64_t> offset;    // bytes into the arena
    int64_t bytes = 0;
  };
  // Cuts of the padded picture: cores of core_height x core_width, read with `halo` pixels around.
  struct Tiling {
    int64_t height = 0, width = 0;  // of the padded picture
    int64_t core_height = 0, core_width = 0, halo = 0;
    int64_t bytes = 0;  // of the largest region's arena
    int64_t tiles() const;
  };
  struct Region {
    Interval rows, columns;            // computed
    Interval core_rows, core_columns;  // written
  };

  Layout lay_out(int64_t height, int64_t width) const;
  Tiling tile(int64_t height, int64_t width) const;
  Region region(const Tiling& tiling, int64_t index) const;
  const Node& node(size_t n) const { return graph_->nodes()[n]; }
  void check_nodes();
  void upload_weights();
  cuda::Extent extent_of(size_t n, const Layout& layout) const;
  cuda::Images images(size_t n, const Layout& layout);
  void compute(size_t n, const Layout& layout, const RunOptions& options);
  void convolve(size_t n, const Layout& layout);
  cuda::Convolution convolution(size_t n) const;
  cuda::PixelOperand operand(size_t n, size_t which, const Layout& layout);

  std::shared_ptr<const Graph> graph_;
  cuda::Type type_;
  int64_t memory_, grid_ = 1;  // tiles begin at multiples of grid_
  std::vector<size_t> last_use_;
  std::vector<cuda::DeviceMemory> weights_, biases_;
  cuda::DeviceMemory arena_, picture_in_, picture_out_, non_finite_;
  std::map<std::string, int> ways_;
  std::mutex running_;
};

}  // namespace fr
