// Means over windows of side x side pixels by channel, row after row, at a cost that does not grow with the window:
// each column keeps the sum of its window, to which a row that enters is added, and from which one that leaves is
// taken.
//
//   add    sums[x] += sum over the columns i of window x of (enter[i] - leave[i])
//   write  out[x] = sums[x] * scale
//
// Window x is [begin, begin + side) with begin = x - (side - 1) / 2, moved as far as it takes to lie inside the row.
// Sums are in double: what enters and leaves again leaves no trace in a float (a NaN or an infinity stays). Within a
// row they run from every kMeanGrid-th column anew, so that a piece may begin there and has the whole row's bits.
#pragma once
#include <cstdint>

#include "base/bfloat16.h"
#include "base/isa.h"
#include "kernels/arithmetic/arithmetic.h"

namespace fr {

constexpr int64_t kMeanGrid = 128;

struct LocalMeanRow {
  const void *enter = nullptr, *leave = nullptr;  // whole rows of `element`; leave null: no row leaves
  Element element = Element::f32;                 // or bf16
  int64_t pitch = 0, width = 0, channels = 0;     // of a row; pitch: values from pixel to pixel
  int64_t side = 1;                               // at most width
  int64_t x_begin = 0, x_end = 0;                 // the columns of the result; x_begin: a multiple of kMeanGrid
  double* sums = nullptr;                         // [width][channels]
};

struct LocalMeanKernels {
  void (*add)(const LocalMeanRow&);
  void (*write)(const LocalMeanRow&, const Result& out, double scale);  // out.data: pixel x_begin; rows are not read
};
#define FR_KERNEL(name, isa) extern const LocalMeanKernels name;
#include "kernels/local_mean/kernels.inc"
#undef FR_KERNEL

const LocalMeanKernels& get_local_mean(Isa allowed = host_isa());

}  // namespace fr
