// The operators that are computed row by row: everything but convolutions.
#pragma once
#include <cstdint>

#include "engine/plan.h"

namespace fr {

// Where a row operator finds an image: its ring of rows, or a piece of it copied to scratch. Those that
// Plan::needs_scratch names get floats.
struct FloatRows {
  char* base = nullptr;
  int64_t rows = 1;  // that lie there; row y is row (y - first_row) % rows
  int64_t row_bytes = 0;
  int64_t first_row = 0;
  Interval columns;    // held; those outside that a row operator asks for lie outside of the image
  int64_t pitch = 0;   // values from pixel to pixel
  int64_t height = 0;  // of the whole image
  Element element = Element::f32;

  char* row(int64_t y) const { return base + (y - first_row) % rows * row_bytes; }
  char* place(int64_t y, int64_t x) const { return row(y) + (x - columns.begin) * pitch * element_bytes(element); }
  float* at(int64_t y, int64_t x) const { return reinterpret_cast<float*>(place(y, x)); }  // of floats
};

// A part of a node's image that a row operator computes: rows [begin, end) and columns [x_begin, x_end).
struct Piece {
  int64_t begin = 0, end = 0, x_begin = 0, x_end = 0;
  FloatRows out;
  FloatRows in[kMostInputs];
  int64_t pixels = 0;        // of the whole image that a statistic is of
  float* scratch = nullptr;  // step.scratch floats, 64-byte aligned
  double* sums = nullptr;    // local_mean: of the columns and channels of the row before
};

// Computes a piece of node n, of one step's row_grid of rows; of a local mean any number, one piece after the one above
// it, in columns from a multiple of kMeanGrid on. Channels beyond the node's own become finite.
void compute_piece(const Plan& plan, size_t n, const Piece& piece);

}  // namespace fr
