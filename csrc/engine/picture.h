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
  std::function<bool(double)> progress;  // called with the share done after each band; false cancels
  // Called with each node's new rows [begin, end), of floats in a float32 plan on the CPU.
  std::function<void(size_t node, const FloatRows& rows, int64_t begin, int64_t end)> observe;
};

struct RunReport {
  int64_t non_finite = 0;  // output values that were NaN or infinite before conversion
  int64_t strips = 0;
  int64_t band = 0;
  int64_t working_bytes = 0;
  std::vector<double> seconds;  // spent in each node; the last entry: writing the output
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

// Throws std::invalid_argument, saying what, for a picture or options that do not fit the graph.
void check_run(const Graph& graph, const Picture& picture, const RunOptions& options);

}  // namespace fr
