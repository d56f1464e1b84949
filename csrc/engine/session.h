// Runs a plan on pictures. A session keeps its working memory between runs; runs of one session follow one
// another, sessions of one plan are independent.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "base/buffer.h"
#include "engine/layout.h"
#include "engine/picture.h"
#include "engine/plan.h"
#include "engine/row_ops.h"

namespace fr {

class Session {
 public:
  // threads >= 1; memory: bytes that rings and workspaces may take (packed weights are the plan's, not counted).
  Session(std::shared_ptr<const Plan> plan, int threads, int64_t memory);

  // Throws std::invalid_argument for a picture or options that do not fit the plan, MemoryBudgetExceeded,
  // Cancelled, std::bad_alloc. After an exception the output's content is undefined.
  RunReport run(const Picture& picture, const RunOptions& options);

  // The same into a report that the caller keeps: from the second run of a size on, nothing is allocated.
  void run(const Picture& picture, const RunOptions& options, RunReport& report);

  // Forgets the pictures before: states begin anew.
  void reset();

  // A state's image as the last run left it, [height][width][channels] of the padded picture divided by its stride;
  // empty before the first run and after reset. Another may be put in its place before the next run.
  StateImage state(size_t number);
  void set_state(size_t number, StateImage image);  // throws std::invalid_argument for another number of channels

  // What a run of this size would take, without running.
  RunReport preview(int64_t height, int64_t width) const;

  const Plan& plan() const { return *plan_; }
  int threads() const { return threads_; }
  int64_t memory() const { return memory_; }

 private:
  void prepare(int64_t height, int64_t width);
  void run_strip(const Strip& strip, const Picture& picture, const RunOptions& options, int64_t strip_number,
                 RunReport& report);
  void read_rows(const Strip& strip, const Picture& picture, int64_t begin, int64_t end);
  void prepare_states();
  void read_state(const Strip& strip, size_t n, int64_t begin, int64_t end);
  void write_states(const Strip& strip, const std::vector<int64_t>& before);
  int64_t write_rows(const Strip& strip, const Picture& picture, const RunOptions& options, int64_t begin, int64_t end);
  void observe_rows(const Strip& strip, size_t n, int64_t begin, int64_t end, const RunOptions& options);
  void compute(const Strip& strip, size_t n, int64_t begin, int64_t end);
  void convolve(const Strip& strip, size_t n, int64_t begin, int64_t end);
  void transpose_convolve(const Strip& strip, size_t n, int64_t begin, int64_t end);
  void run_bands(const PackedConv& conv, const ConvBand& whole, int64_t row_grid);
  void compute_pieces(const Strip& strip, size_t n, int64_t begin, int64_t end);
  float* enter_piece(const Strip& strip, size_t n, Piece& piece, float* scratch);
  void leave_piece(const Strip& strip, size_t n, const Piece& piece);
  void fill_margins(const Strip& strip, size_t n, int64_t begin, int64_t end);
  void place_rows(size_t n, int64_t begin, int64_t end);
  char* row(size_t n, int64_t y);
  FloatRows float_rows(const Strip& strip, size_t n);
  float* workspace(int thread);
  const void* const* input_rows(const Strip& strip, size_t input, int64_t first, int64_t count,
                                Border border = Border::zero, Interval bordered = {});

  std::shared_ptr<const Plan> plan_;
  int threads_;
  int64_t memory_;
  std::mutex running_;
  int64_t height_ = -1, width_ = -1;  // the size that layout_ and arena_ are for
  Layout layout_;
  Buffer<char> arena_;
  std::vector<StateImage> states_, next_states_;
  std::vector<int64_t> rows_, before_, after_;  // complete rows of each node, before and after a round
  std::vector<int64_t> kept_;                   // rows of each node that have been put into its ring
  std::vector<std::vector<int64_t>> places_;    // where a node's row y lies in the arena: [y % rows held]
  std::vector<const void*> in_pointers_, residual_pointers_;
  std::vector<void*> out_pointers_;
};

}  // namespace fr
