// Runs a graph on a GPU, over the whole picture or, if that exceeds the memory, over parts with the halo that the graph
// needs: the result is the same, bit for bit. Parts are copied to the device and back beside the work on others.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/cuda_copies.h"
#include "engine/cuda_program.h"
#include "engine/precision.h"

namespace fr {

// What a plan of this precision is computed in, unless the caller says otherwise: 16 bits are what the matrix units
// take, and float16 keeps three more of them than bfloat16 does.
inline cuda::Type cuda_type(Precision precision) {
  return precision == Precision::float32 ? cuda::Type::f16 : cuda::Type::bf16;
}

class CudaSession {
 public:
  // memory: bytes of the device that intermediate images, states and what is copied may take (weights are not counted).
  // Throws what CudaProgram does.
  CudaSession(std::shared_ptr<const Graph> graph, cuda::Type type, int64_t memory);

  // As Session::run; picture and result may each lie on the device. In the report strips are parts, band the rows of a
  // part's core; seconds stays empty. A result that is not finite in 16 bits is computed again in float32, if the
  // memory allows that and the graph has no states.
  RunReport run(const Picture& picture, const RunOptions& options);

  // As Session's.
  void reset();
  StateImage state(size_t number);
  void set_state(size_t number, StateImage image);
  RunReport preview(int64_t height, int64_t width) const;

  const CudaProgram& program() const { return program_; }

 private:
  // Cuts of the padded picture: cores of core_height x core_width, read with `halo` pixels around.
  struct Tiling {
    int64_t height = 0, width = 0;  // of the padded picture
    int64_t core_height = 0, core_width = 0, halo = 0;
    int64_t read_height = 0, read_width = 0;  // the most that a part reads
    int64_t arena_bytes = 0, state_bytes = 0, copy_bytes = 0;
    int64_t bytes() const { return arena_bytes + state_bytes + copy_bytes; }
    int64_t tiles() const;
  };
  struct Part {
    Box read, core;    // of the padded picture
    Box source, kept;  // what is copied of the picture and, within the core, of the result
  };
  // Parts of one size: where images lie, and their launches once they have been recorded.
  struct Shape {
    CudaProgram::Layout layout;
    bool known = false;  // whether it was launched before
    cuda::Launches launches;
  };
  // A state's images over the padded picture: what a run reads, and what it leaves for the next.
  struct DeviceState {
    int64_t height = 0, width = 0;
    cuda::DeviceMemory now, next;
  };

  Tiling tile(int64_t height, int64_t width) const;
  void measure(Tiling& tiling) const;
  Part part(const Tiling& tiling, int64_t index, const Picture& picture) const;
  RunReport run_parts(const Picture& picture, const RunOptions& options);
  void prepare(const Tiling& tiling);
  Shape& shape(int64_t height, int64_t width);
  void compute(Shape& shape);
  void copy_states(const Shape& shape, const Part& part, bool to_parts);
  cuda::Type state_type(size_t number) const;
  int64_t state_pitch(size_t number) const;

  std::shared_ptr<const Graph> graph_;
  CudaProgram program_;
  int64_t memory_;
  std::vector<DeviceState> states_;
  cuda::DeviceMemory arena_, non_finite_;
  std::map<std::pair<int64_t, int64_t>, Shape> shapes_;
  CudaCopies copies_;  // the first to go: it waits for what runs on the others
  std::mutex running_;
};

}  // namespace fr
