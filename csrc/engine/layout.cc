#include "engine/layout.h"

#include <algorithm>
#include <limits>
#include <string>

namespace fr {
namespace {

// A band of every layer should hold this many 4 x 4 tiles per thread: its packed weights come from a far cache, and
// must serve that often before they leave the near one. (48 tiles instead of 16: 1.7 times as fast at 144 channels.)
constexpr int64_t kTilesPerThread = 64;

// The input rows of such a band; small images get less because they have no more.
int64_t preferred_band(const Plan& plan, int64_t width, int threads) {
  int64_t band = plan.grid();
  for (size_t n = 0; n < plan.size(); ++n) {
    if (plan.step(n).convs.empty()) continue;
    const int64_t stride = plan.node(n).stride;
    const int64_t rows = 4 * ceil_div(kTilesPerThread * threads, ceil_div(width, 4 * stride));
    band = std::max(band, rows * stride);
  }
  return round_up(band, plan.grid());
}

int64_t node_height(const Plan& plan, size_t n, int64_t height) { return height / plan.node(n).stride; }

// The lowest and highest input offset of a transposed convolution's phases.
Interval transposed_offsets(const ConvSpec& spec, Axis axis) {
  Interval range;
  const int64_t side = kernel_side(spec, axis), pad = padding(spec, axis);
  for (int64_t phase = 0; phase < spec.stride_h; ++phase) {
    const Phase p = transposed_phase(side, spec.stride_h, pad, phase);
    range = hull(range, {p.first_offset - p.taps + 1, p.first_offset + 1});
  }
  return range;
}

// Rows of a resized image for which `have` rows of its input suffice.
int64_t resized_rows(const Node& node, int64_t have) {
  const int64_t period = node.enlarge ? node.factor : 1;
  int64_t rows = std::max<int64_t>(0, (node.enlarge ? have - 3 : have / node.factor - 2) * period);
  while (needed(node, 0, {rows, rows + 1}, Axis::rows).end <= have) ++rows;
  return rows;
}

// The rows each ring must hold when every step advances the input by `band` rows: run the schedule on counters.
std::vector<int64_t> ring_rows(const Plan& plan, int64_t height, int64_t band) {
  const size_t count = plan.size();
  std::vector<int64_t> rows(count, 0), capacity(count, 1), first_kept(count, 0);
  const size_t output = static_cast<size_t>(plan.graph().output());
  std::vector<std::vector<std::pair<size_t, size_t>>> consumers(count);  // (node, which of its inputs)
  for (size_t n = 0; n < count; ++n)
    for (size_t i = 0; i < plan.node(n).inputs.size(); ++i)
      consumers[static_cast<size_t>(plan.node(n).inputs[i])].push_back({n, i});
  while (rows[output] < height) {
    const int64_t written = rows[output];
    for (size_t n = 0; n < count; ++n) {
      rows[n] = next_rows(plan, n, rows, height, band);
      int64_t first = n == output ? written : std::numeric_limits<int64_t>::max();
      for (const auto& [consumer, which] : consumers[n])
        first = std::min(first, first_row_needed(plan, consumer, which, rows[consumer], height));
      if (plan.node(n).op != Op::sigma_plane) capacity[n] = std::max(capacity[n], rows[n] - first);
    }
  }
  return capacity;
}

std::vector<Interval> strip_columns(const Plan& plan, Interval core, int64_t width) {
  std::vector<Interval> columns(plan.size());
  columns[static_cast<size_t>(plan.graph().output())] = core;
  for (size_t n = plan.size(); n-- > 0;) {
    const Node& node = plan.node(n);
    Interval& own = columns[n];
    if (own.empty()) continue;
    // Whole cells of the node's grid; a Winograd tile reads its full 6 x 6 input wherever it stands.
    const int64_t grid = plan.step(n).row_grid;
    const Interval cells{floor_div(own.begin, grid) * grid, round_up(own.end, grid)};
    own = {std::max<int64_t>(cells.begin, 0), std::min(cells.end, width / node.stride)};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const size_t input = static_cast<size_t>(node.inputs[i]);
      if (node.op == Op::sigma_plane) continue;
      const Interval output = is_residual(node, i) ? own : cells;
      columns[input] =
          hull(columns[input], read_inside(node, i, output, Axis::columns, width / plan.node(input).stride));
    }
  }
  return columns;
}

std::vector<Strip> make_strips(const Plan& plan, int64_t width, int64_t count) {
  const int64_t step = round_up(ceil_div(width, count), plan.grid());
  std::vector<Strip> strips;
  for (int64_t x = 0; x < width; x += step) {
    const Interval core{x, std::min(width, x + step)};
    strips.push_back({core, strip_columns(plan, core, width)});
  }
  return strips;
}

void place_rings(const Plan& plan, int threads, Layout& layout) {
  layout.ring_row_bytes.assign(plan.size(), 0);
  layout.ring_offset.assign(plan.size(), 0);
  int64_t bytes = 0;
  for (size_t n = 0; n < plan.size(); ++n) {
    int64_t widest = 0;
    for (const Strip& strip : layout.strips) widest = std::max(widest, strip.columns[n].size());
    // One cache line more than needed keeps rows of a power-of-two size from falling into the same cache sets.
    widest += 2 * plan.step(n).margin;
    const int64_t row = checked_product(widest, plan.step(n).pitch, element_bytes(plan.step(n).element));
    layout.ring_row_bytes[n] = round_up(row, 64) + 64;
    layout.ring_offset[n] = bytes;
    if (__builtin_add_overflow(bytes, checked_product(layout.ring_row_bytes[n], layout.ring_rows[n]), &bytes))
      throw std::length_error("the working memory exceeds 63 bits");
  }
  layout.workspace_offset = bytes;
  layout.arena_bytes = bytes + checked_product(threads, workspace_bytes(plan));
}

}  // namespace

MemoryBudgetExceeded::MemoryBudgetExceeded(int64_t budget, int64_t needed_bytes)
    : std::runtime_error("a memory budget of " + std::to_string(budget) + " bytes is too small: this model needs " +
                         std::to_string(needed_bytes) + " bytes for pictures of this size"),
      needed(needed_bytes) {}

int64_t rows_ready(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height) {
  const Node& node = plan.node(n);
  const int64_t all = node_height(plan, n, height);
  if (node.op == Op::input || node.op == Op::sigma_plane) return all;
  int64_t ready = all;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const size_t input = static_cast<size_t>(node.inputs[i]);
    const int64_t have = rows[input];
    if (have >= node_height(plan, input, height)) continue;
    int64_t possible = have;
    if (!is_residual(node, i)) switch (node.op) {
        case Op::conv2d:
        case Op::pool: {
          const int64_t side = kernel_side(node.conv, Axis::rows), stride = node.conv.stride_h;
          possible = floor_div(have - side + node.conv.pad_top, stride) + 1;
          // The first rows read below the image's top edge what is reflected there.
          if (node.border == Border::reflect && have <= node.conv.pad_top) possible = 0;
          break;
        }
        case Op::conv_transpose2d:
          possible = (have - transposed_offsets(node.conv, Axis::rows).end + 1) * node.conv.stride_h;
          break;
        case Op::pixel_shuffle:
          possible = have * node.factor;
          break;
        case Op::pixel_unshuffle:
          possible = have / node.factor;
          break;
        case Op::resize:
          possible = resized_rows(node, have);
          break;
        case Op::concat:
        case Op::add:
        case Op::multiply:
        case Op::affine:
        case Op::activate:
        case Op::input:
        case Op::sigma_plane:
          break;
      }
    ready = std::min(ready, std::max<int64_t>(possible, 0));
  }
  const int64_t grid = plan.step(n).row_grid;
  return ready < all ? ready / grid * grid : all;
}

int64_t next_rows(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height, int64_t band) {
  const int64_t ready = rows_ready(plan, n, rows, height);
  if (plan.node(n).op == Op::sigma_plane) return ready;  // its one row serves for all
  return std::max(rows[n], std::min(ready, rows[n] + band / plan.node(n).stride));
}

int64_t first_row_needed(const Plan& plan, size_t n, size_t which, int64_t done, int64_t height) {
  const Node& node = plan.node(n);
  if (done >= node_height(plan, n, height)) return std::numeric_limits<int64_t>::max();
  if (is_residual(node, which)) return done;
  switch (node.op) {
    case Op::conv2d:
    case Op::pool: {
      int64_t first = done * node.conv.stride_h - node.conv.pad_top;
      // The last rows read above the image's bottom edge what is reflected, or repeated, there.
      const int64_t last = height / plan.node(static_cast<size_t>(node.inputs[0])).stride - 1;
      if (node.border != Border::zero)
        first = std::min(first, last - std::max<int64_t>(overhang(node.conv, Axis::rows), 0));
      return std::max<int64_t>(0, first);
    }
    case Op::conv_transpose2d:
      return std::max<int64_t>(0, done / node.conv.stride_h + transposed_offsets(node.conv, Axis::rows).begin);
    case Op::pixel_shuffle:
      return done / node.factor;
    case Op::pixel_unshuffle:
      return done * node.factor;
    case Op::resize: {
      const int64_t last = height / plan.node(static_cast<size_t>(node.inputs[0])).stride - 1;
      int64_t first = last;  // of the rest of a cell and of one more: a pixel in the middle may reach less far
      for (int64_t y = done; y < done + (node.enlarge ? 2 * node.factor : 1); ++y)
        first = std::min(first, needed(node, which, {y, y + 1}, Axis::rows).begin);
      return std::max<int64_t>(0, first);
    }
    case Op::sigma_plane:
      return std::numeric_limits<int64_t>::max();
    case Op::concat:
    case Op::add:
    case Op::multiply:
    case Op::affine:
    case Op::activate:
    case Op::input:
      break;
  }
  return done;
}

int64_t workspace_bytes(const Plan& plan) {
  return round_up(checked_product(plan.workspace_floats(), sizeof(float)), 64);
}

Layout make_layout(const Plan& plan, int64_t height, int64_t width, int threads, int64_t budget) {
  const int64_t multiple = plan.graph().multiple_of(), grid = plan.grid();
  Layout layout;
  layout.height = round_up(height, multiple);
  layout.width = round_up(width, multiple);
  const int64_t largest = std::min(preferred_band(plan, layout.width, threads), round_up(layout.height, grid));
  std::vector<std::pair<int64_t, std::vector<int64_t>>> bands;  // band, rows of each ring; the preferred first
  for (int64_t band = largest;; band = std::max(grid, round_up(band / 2, grid))) {
    bands.push_back({band, ring_rows(plan, layout.height, band)});
    if (band == grid) break;
  }
  const int64_t cells = ceil_div(layout.width, grid);
  for (int64_t count = 1;; count = std::min(cells, count + std::max<int64_t>(1, count / 8))) {
    layout.strips = make_strips(plan, layout.width, count);
    for (const auto& [band, rows] : bands) {
      layout.band = band;
      layout.ring_rows = rows;
      place_rings(plan, threads, layout);
      if (layout.arena_bytes <= budget) return layout;
    }
    if (count == cells) break;
  }
  throw MemoryBudgetExceeded(budget, layout.arena_bytes);
}

}  // namespace fr
