// What a run of a session is given and what it reports, on any device.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <vector>

#include "graph/graph.h"
#include "kernels/convert/convert.h"

namespace fr {

struct FloatRows;

struct Picture {
  const void* in = nullptr;
  void* out = nullptr;  // of the input's shape and type; must not overlap it
  Pixel type = Pixel::f32;
  int64_t height = 0, width = 0, channels = 0;
  int64_t in_row_bytes = 0, out_row_bytes = 0;
};

struct RunOptions {
  std::optional<float> sigma;  // in 0-255 units; given if and only if the graph takes it
  float strength = 1.0f;
  bool clip = true;
  void* stream = nullptr;  // on a GPU: a cudaStream_t, whose work so far is done before the picture is read
  std::function<bool(double)> progress;  // called with the share of the rows done after each band; false cancels
  // Called with each node's new rows [begin, end), of floats in a float32 plan on the CPU.
  std::function<void(size_t node, const FloatRows& rows, int64_t begin, int64_t end)> observe;
};

struct RunReport {
  int64_t non_finite = 0;  // output values that were NaN or infinite before conversion
  int64_t strips = 0;
  int64_t band = 0;
  int64_t working_bytes = 0;
  std::vector<double> seconds;  // spent in each node; the last entry: writing the output
  int64_t recomputed = 0;       // on a GPU: parts that were computed again in float32, as they were not finite
};

// A state between two runs. Dense, float32. Empty: zeros.
struct StateImage {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<float> values;
};

class Cancelled : public std::runtime_error {
 public:
  Cancelled() : std::runtime_error("cancelled") {}
};

// The budget does not allow even the smallest part of a picture; `needed` bytes would.
class MemoryBudgetExceeded : public std::runtime_error {
 public:
  MemoryBudgetExceeded(int64_t budget, int64_t needed);
  int64_t needed;
};

void check_picture_size(int64_t height, int64_t width);

// Throw std::invalid_argument for a number that no state has, and for an image that is not one of that state.
void check_state(const Graph& graph, size_t number);
void check_state(const Graph& graph, size_t number, const StateImage& image);

// Throws std::invalid_argument, saying what, for a picture or options that do not fit the graph.
void check_run(const Graph& graph, const Picture& picture, const RunOptions& options);

}  // namespace fr
