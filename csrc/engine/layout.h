// Where a plan's intermediate images live for one picture size: bands of rows in ring buffers, strips of columns.
//
// The picture is computed in strips of columns; within a strip every node advances by bands of rows, so that a
// node's ring holds only the rows that its consumers still need. Of those that a convolution writes, most serve
// convolutions of the same round only: they pass through memory that all nodes share and that stays in the cache.
// Where a statistic of the whole image stands in the way, what comes after it begins when all before it is done: then
// images are held whole, in memory that those before them have left, and the picture is one strip.
// Strips overlap by what the operators reach (each node computes just the columns that later ones need); bands do not.
// Both begin at multiples of the plan's grid, so every pixel is computed from the same values in the same order however
// the picture is cut.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/picture.h"
#include "engine/plan.h"

namespace fr {

struct Strip {
  Interval core;                  // columns of the picture that this strip writes
  std::vector<Interval> columns;  // of each node
};

// How many rows of a node are held at once.
struct HeldRows {
  int64_t all = 1;
  int64_t kept = 1;     // those that a later round needs, while a round adds its own; all, if none may pass
  int64_t passing = 0;  // those that no later round needs
  // From when to when it holds rows, in turns of nodes, round after round; those that do not meet share memory.
  size_t first_step = 0, last_step = 0;
};

// How many rows a step adds to a node.
struct RowShare {
  int64_t most = 1;
  int64_t least = 1;  // it waits for as many, unless its inputs are complete
};

struct Layout {
  int64_t height = 0, width = 0;  // of the picture, padded to the plan's multiple
  int64_t band = 0;               // input rows that a step reads, at most
  int64_t lead = 0;               // rows by which the input is read further than the output is written, at most
  std::vector<RowShare> share;    // of each node
  std::vector<HeldRows> held;
  std::vector<int64_t> row_bytes;       // of each node, in the widest strip
  std::vector<int64_t> ring_offset;     // of each node's ring of kept rows in the arena, in bytes
  std::vector<int64_t> passing_offset;  // of each node's passing rows
  std::vector<int64_t> sums_offset;     // of what a local mean carries from row to row
  std::vector<Strip> strips;
  int64_t arena_bytes = 0;  // all rings, the passing rows, then one workspace for each thread
  int64_t ring_bytes = 0, workspace_offset = 0;
  int64_t state_bytes = 0;  // beside the arena: each state, and its successor
};

// How many rows of node n can be complete, given those of its inputs (`rows`, by node).
int64_t rows_ready(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height);

// The same where rows need not be produced in blocks of the node's grid.
int64_t rows_possible(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height);

// Rows complete after the next step: what is ready, but no more than the node's share, so that no ring overflows
// when the last rows of the picture set all nodes free at once.
int64_t next_rows(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height, RowShare share);

// Whether every row of the output and of the states' successors is complete.
bool all_done(const Plan& plan, const std::vector<int64_t>& rows, int64_t height);

// The first row of input number `which` that node n still needs when its rows [0, done) are complete.
int64_t first_row_needed(const Plan& plan, size_t n, size_t which, int64_t done, int64_t height);

// Whether rows of node n may pass: their whole content is written anew, by and for convolutions, which take pointers
// to rows.
bool rows_may_pass(const Plan& plan, size_t n);

// The first of node n's rows that a later round needs when this one leaves `rows` complete.
int64_t first_row_kept(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height);

int64_t workspace_bytes(const Plan& plan);  // of one thread, in whole cache lines

// The layout for a picture of height x width (unpadded) that needs the fewest strips within `budget` bytes.
Layout make_layout(const Plan& plan, int64_t height, int64_t width, int threads, int64_t budget);

}  // namespace fr
