#include "engine/layout.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <string>

#include "engine/places.h"

namespace fr {
namespace {

// A band of every layer should hold this many pixels per thread: its packed weights come from a far cache, and must
// serve that often before they leave the near one. For 4 x 4 tiles of 3x3 convolutions: 48 tiles instead of 16 were 1.7
// times as fast at 144 channels; 256 instead of 64, 1.04 to 1.13 times at 64 and 96, 1.3 times at 128 and 1.1 at 256
// and 512. Products of bfloat16 are done sooner, and want the rows nearer unless the weights are many. Those of 1x1
// convolutions are a ninth, and what they read and write is what the cache is for.
int64_t pixels_per_thread(const Plan& plan, const ConvSpec& spec) {
  const int64_t weights = spec.in_channels / spec.groups * spec.out_channels, taps = spec.kernel_h * spec.kernel_w;
  if (taps < 9 || spec.groups > 1) return std::min<int64_t>(weights * taps / 36, 256);
  return plan.precision() == Precision::float32 || weights > 96 * 96 ? 4096 : 2048;
}

// The rows of node n in such a band; 0 for what is no convolution of an image.
int64_t preferred_rows(const Plan& plan, size_t n, int64_t width, int threads) {
  const Node& node = plan.node(n);
  if (plan.step(n).convs.empty() || node.whole || node.fold > 0) return 0;
  const int64_t tiles = ceil_div(pixels_per_thread(plan, node.conv), 16) * threads;
  return 4 * ceil_div(tiles, ceil_div(width, 4 * node.stride));
}

// The rows that convolutions of each stride prefer.
std::map<int64_t, int64_t> preferred_by_stride(const Plan& plan, int64_t width, int threads) {
  std::map<int64_t, int64_t> most;
  for (size_t n = 0; n < plan.size(); ++n)
    if (const int64_t rows = preferred_rows(plan, n, width, threads); rows > 0)
      most[plan.node(n).stride] = std::max(most[plan.node(n).stride], rows);
  return most;
}

// The input rows that the finest of these would advance by.
int64_t preferred_band(const Plan& plan, const std::map<int64_t, int64_t>& preferred) {
  int64_t band = std::numeric_limits<int64_t>::max();
  for (const auto& [stride, rows] : preferred) band = std::min(band, stride * rows);
  return preferred.empty() ? plan.grid() : band;
}

// What a step of `band` input rows adds to each node: layers of each size take what suits them, less by as much as the
// band is below the preferred one, and never less than the input's rows bring. A coarse layer that takes more than that
// has to wait for it where it leaves the finer ones: its weights are many, and would otherwise be fetched for a few
// rows each time.
std::vector<RowShare> shares(const Plan& plan, const std::map<int64_t, int64_t>& preferred, int64_t band) {
  const int64_t largest = preferred_band(plan, preferred);
  std::vector<RowShare> shares(plan.size());
  for (size_t n = 0; n < plan.size(); ++n) {
    const Node& node = plan.node(n);
    const int64_t flow = ceil_div(band, node.stride), grid = plan.step(n).row_grid;
    const auto found = preferred.find(node.stride);
    const int64_t own = found == preferred.end() ? 0 : found->second * band / largest;
    shares[n].most = round_up(std::max(flow, own), grid);
    const bool coarser = std::any_of(node.inputs.begin(), node.inputs.end(), [&](int input) {
      return plan.node(static_cast<size_t>(input)).stride < node.stride;
    });
    if (coarser && own > flow) shares[n].least = shares[n].most;
  }
  return shares;
}

int64_t node_height(const Plan& plan, size_t n, int64_t height) { return extent(plan.node(n), Axis::rows, height); }

// The rows that belong to complete blocks of the node's grid.
int64_t whole_blocks(const Plan& plan, size_t n, int64_t rows, int64_t height) {
  const int64_t all = node_height(plan, n, height), grid = plan.step(n).row_grid, shift = plan.step(n).row_shift;
  return rows >= all ? all : std::max<int64_t>(0, (rows + shift) / grid * grid - shift);
}

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

// Whether a node's ring may lie where another's was: sigma's plane is filled before all rounds, the output is read
// after each, and a convolution leaves what lies beyond its channels as it was.
bool may_share(const Plan& plan, size_t n) {
  const Op op = plan.node(n).op;
  const bool own_channels = op == Op::conv2d || op == Op::conv_transpose2d || op == Op::input || op == Op::state;
  return op != Op::sigma_plane && !plan.graph().is_result(n) &&
         (!own_channels || plan.node(n).channels == plan.step(n).pitch);
}

// The rows each node must hold when every round adds its share to each: run the schedule on counters. lead: as
// Layout's.
std::vector<HeldRows> held_rows(const Plan& plan, int64_t height, const std::vector<RowShare>& share, int64_t* lead) {
  const size_t count = plan.size(), output = static_cast<size_t>(plan.graph().output());
  std::vector<int64_t> rows(count, 0), before(count, 0), kept_from(count, 0);
  std::vector<HeldRows> held(count);
  for (size_t round = 0; !all_done(plan, rows, height); ++round) {
    before = rows;
    for (size_t n = 0; n < count; ++n) {
      rows[n] = next_rows(plan, n, rows, height, share[n]);
      if (rows[n] > before[n]) {
        const size_t step = round * count + n;
        if (before[n] == 0) held[n].first_step = step;
        held[n].last_step = step;
        for (int input : plan.node(n).inputs) held[static_cast<size_t>(input)].last_step = step;
      }
      if (plan.node(n).op == Op::sigma_plane) continue;
      // Those that consumers have not yet done with when this node's turn comes: their turn is later.
      int64_t first = first_row_kept(plan, n, before, height);
      if (plan.graph().is_result(n)) first = std::min(first, before[n]);
      held[n].all = std::max(held[n].all, rows[n] - std::min(first, before[n]));
    }
    *lead = std::max(*lead, rows[0] - before[output]);
    for (size_t n = 0; n < count; ++n) {
      if (!rows_may_pass(plan, n)) continue;
      const int64_t first = std::clamp(first_row_kept(plan, n, rows, height), kept_from[n], rows[n]);
      const int64_t old = before[n] - std::min(kept_from[n], before[n]);
      held[n].kept = std::max(held[n].kept, old + rows[n] - std::max(first, before[n]));
      held[n].passing = std::max(held[n].passing, std::max(first, before[n]) - before[n]);
      kept_from[n] = first;
    }
  }
  for (size_t n = 0; n < count; ++n) {
    if (!rows_may_pass(plan, n)) held[n].kept = held[n].all;
    if (!may_share(plan, n)) {
      held[n].first_step = 0;
      held[n].last_step = std::numeric_limits<size_t>::max();
    }
  }
  return held;
}

std::vector<Interval> strip_columns(const Plan& plan, Interval core, int64_t width) {
  std::vector<Interval> columns(plan.size());
  columns[static_cast<size_t>(plan.graph().output())] = core;
  for (const State& state : plan.graph().states()) {
    const size_t next = static_cast<size_t>(state.next);
    columns[next] = hull(columns[next], {core.begin / plan.node(next).stride, core.end / plan.node(next).stride});
  }
  for (size_t n = plan.size(); n-- > 0;) {
    const Node& node = plan.node(n);
    Interval& own = columns[n];
    if (own.empty()) continue;
    // Whole cells of the node's grid; a Winograd tile reads its full 6 x 6 input wherever it stands.
    const int64_t grid = plan.step(n).row_grid;
    Interval cells{floor_div(own.begin, grid) * grid, round_up(own.end, grid)};
    if (node.op == Op::window_attention) cells = needed(node, 0, own, Axis::columns);
    own = {std::max<int64_t>(cells.begin, 0), std::min(cells.end, extent(node, Axis::columns, width))};
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const size_t input = static_cast<size_t>(node.inputs[i]);
      if (node.op == Op::sigma_plane) continue;
      const Interval output = is_residual(node, i) ? own : cells;
      columns[input] = hull(
          columns[input], read_inside(node, i, output, Axis::columns, extent(plan.node(input), Axis::columns, width)));
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
  layout.row_bytes.assign(plan.size(), 0);
  layout.ring_offset.assign(plan.size(), 0);
  layout.passing_offset.assign(plan.size(), 0);
  layout.sums_offset.assign(plan.size(), 0);
  std::vector<size_t> order(plan.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return layout.held[a].first_step < layout.held[b].first_step; });
  Places rings(0);
  for (size_t n : order) {
    int64_t widest = 0;
    for (const Strip& strip : layout.strips) widest = std::max(widest, strip.columns[n].size());
    // One cache line more than needed keeps rows of a power-of-two size from falling into the same cache sets.
    widest += 2 * plan.step(n).margin;
    const int64_t row = checked_product(widest, plan.step(n).pitch, element_bytes(plan.step(n).element));
    layout.row_bytes[n] = round_up(row, 64) + 64;
    const auto take = [&](int64_t bytes) {
      return rings.take(bytes, layout.held[n].first_step, layout.held[n].last_step);
    };
    layout.ring_offset[n] = take(checked_product(layout.row_bytes[n], layout.held[n].kept));
    if (plan.node(n).op == Op::local_mean)
      layout.sums_offset[n] = take(round_up(checked_product(widest, plan.node(n).channels, sizeof(double)), 64));
  }
  layout.ring_bytes = rings.end();
  Places places(rings.end());
  for (size_t n = 0; n < plan.size(); ++n)
    if (layout.held[n].passing > 0)
      layout.passing_offset[n] =
          places.take(checked_product(layout.row_bytes[n], layout.held[n].passing), n, plan.consumers(n).back().node);
  layout.workspace_offset = places.end();
  layout.arena_bytes = layout.workspace_offset + checked_product(threads, workspace_bytes(plan));
}

}  // namespace

int64_t rows_possible(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height) {
  const Node& node = plan.node(n);
  const int64_t all = node_height(plan, n, height);
  if (node.op == Op::input || node.op == Op::sigma_plane || node.op == Op::state) return all;
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
        case Op::window_attention:
          possible = window_at(node, have).begin;
          break;
        case Op::partial_sum:
        case Op::partial_gram:
          possible = have / node.fold;
          break;
        case Op::warp:
          possible = i == 0 ? 0 : have;
          break;
        case Op::mean:
        case Op::channel_softmax:
          possible = 0;
          break;
        case Op::local_mean: {
          const int64_t side = std::min(node.side, node_height(plan, input, height));
          possible = have < side ? 0 : have - side + (side - 1) / 2 + 1;
          break;
        }
        case Op::layer_norm:
        case Op::mix:
        case Op::gate:
        case Op::combine:
        case Op::channel_pool:
        case Op::concat:
        case Op::add:
        case Op::multiply:
        case Op::affine:
        case Op::activate:
        case Op::input:
        case Op::state:
        case Op::sigma_plane:
          break;
      }
    ready = std::min(ready, std::max<int64_t>(possible, 0));
  }
  return ready;
}

int64_t rows_ready(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height) {
  return whole_blocks(plan, n, rows_possible(plan, n, rows, height), height);
}

int64_t next_rows(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height, RowShare share) {
  const int64_t ready = rows_ready(plan, n, rows, height);
  if (plan.node(n).op == Op::sigma_plane) return ready;  // its one row serves for all
  if (ready < rows[n] + share.least && ready < node_height(plan, n, height)) return rows[n];
  return std::max(rows[n], std::min(ready, whole_blocks(plan, n, rows[n] + share.most, height)));
}

int64_t first_row_needed(const Plan& plan, size_t n, size_t which, int64_t done, int64_t height) {
  const Node& node = plan.node(n);
  if (done >= node_height(plan, n, height)) return std::numeric_limits<int64_t>::max();
  if (is_residual(node, which)) return done;
  if (static_cast<int>(which) == node.broadcast) return 0;
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
    case Op::partial_sum:
    case Op::partial_gram:
      return done * node.fold;
    case Op::warp:
      return which == 0 ? 0 : done;
    case Op::local_mean:  // the next row's window leaves the first row of the last one's
      return mean_window(node.side, std::max<int64_t>(done - 1, 0), node_height(plan, n, height)).begin;
    case Op::window_attention:
    case Op::mean:
    case Op::channel_softmax:
    case Op::layer_norm:
    case Op::mix:
    case Op::gate:
    case Op::combine:
    case Op::channel_pool:
    case Op::concat:
    case Op::add:
    case Op::multiply:
    case Op::affine:
    case Op::activate:
    case Op::input:
    case Op::state:
      break;
  }
  return done;
}

bool all_done(const Plan& plan, const std::vector<int64_t>& rows, int64_t height) {
  const auto done = [&](int n) {
    return rows[static_cast<size_t>(n)] >= node_height(plan, static_cast<size_t>(n), height);
  };
  const std::vector<State>& states = plan.graph().states();
  return done(plan.graph().output()) &&
         std::all_of(states.begin(), states.end(), [&](State state) { return done(state.next); });
}

int64_t state_bytes(const Plan& plan, int64_t height, int64_t width) {
  int64_t bytes = 0;
  for (const State& state : plan.graph().states()) {
    const Node& node = plan.node(static_cast<size_t>(state.now));
    bytes += 2 * checked_product(extent(node, Axis::rows, height), extent(node, Axis::columns, width), node.channels,
                                 sizeof(float));
  }
  return bytes;
}

bool rows_may_pass(const Plan& plan, size_t n) {
  const auto by_pointers = [&](size_t node) {
    return plan.node(node).op == Op::conv2d || plan.node(node).op == Op::conv_transpose2d;
  };
  if (!by_pointers(n) || plan.node(n).channels != plan.step(n).pitch || plan.consumers(n).empty()) return false;
  for (const Consumer& consumer : plan.consumers(n))
    if (!by_pointers(consumer.node)) return false;
  return !plan.graph().is_result(n);
}

int64_t first_row_kept(const Plan& plan, size_t n, const std::vector<int64_t>& rows, int64_t height) {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const Consumer& consumer : plan.consumers(n))
    first = std::min(first, first_row_needed(plan, consumer.node, consumer.which, rows[consumer.node], height));
  return first;
}

int64_t workspace_bytes(const Plan& plan) {
  return round_up(checked_product(plan.workspace_floats(), sizeof(float)), 64);
}

Layout make_layout(const Plan& plan, int64_t height, int64_t width, int threads, int64_t budget) {
  const int64_t multiple = plan.graph().multiple_of(), grid = plan.grid();
  Layout layout;
  layout.height = round_up(height, multiple);
  layout.width = round_up(width, multiple);
  layout.state_bytes = state_bytes(plan, layout.height, layout.width);
  const std::map<int64_t, int64_t> preferred = preferred_by_stride(plan, layout.width, threads);
  std::vector<int64_t> bands{std::min(preferred_band(plan, preferred), layout.height)};  // the preferred first
  while (bands.back() > 1) bands.push_back(bands.back() / 2);
  std::vector<std::vector<HeldRows>> held(bands.size());  // of each band, once it is tried
  std::vector<int64_t> leads(bands.size(), 0);
  // Strips would save nothing where images are held whole.
  const int64_t cells = plan.graph().sees_everything() ? 1 : ceil_div(layout.width, grid);
  for (int64_t count = 1;; count = std::min(cells, count + std::max<int64_t>(1, count / 8))) {
    layout.strips = make_strips(plan, layout.width, count);
    for (size_t i = 0; i < bands.size(); ++i) {
      layout.share = shares(plan, preferred, bands[i]);
      if (held[i].empty()) held[i] = held_rows(plan, layout.height, layout.share, &leads[i]);
      layout.band = layout.share[0].most;
      layout.lead = leads[i];
      layout.held = held[i];
      place_rings(plan, threads, layout);
      if (layout.arena_bytes + layout.state_bytes <= budget) return layout;
    }
    if (count == cells) break;
  }
  throw MemoryBudgetExceeded(budget, layout.arena_bytes + layout.state_bytes);
}

}  // namespace fr
