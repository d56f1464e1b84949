#include "engine/session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include "base/parallel.h"

namespace fr {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr int64_t kPartsPerThread = 3;            // pieces of a band, so that an interrupted thread costs little
constexpr int64_t kFewestColumns = 96;            // of a piece, where rows can be divided instead
constexpr int64_t kColumnGrid = 16;               // of pieces: 4 Winograd tiles, a tile of AMX
constexpr int64_t kFloatsWorthAThread = 1 << 14;  // below this, waking a thread costs more than it helps

// Begins to fetch the columns beside a piece's own, which another core has just written: all at once here, instead of a
// wait for each row in the kernel. Two threads, bfloat16: 1.02 to 1.04 times as fast.
void fetch_borders(const ConvSpec& spec, const ConvBand& band) {
  const int64_t rows = (band.rows - 1) * spec.stride_h + (spec.kernel_h - 1) * spec.dilation_h + 1;
  const int64_t first = band.x_begin * spec.stride_w - spec.pad_left;
  const int64_t last = (band.x_end - 1) * spec.stride_w - spec.pad_left + (spec.kernel_w - 1) * spec.dilation_w;
  const int64_t pixel = band.in_pitch * element_bytes(band.in_element);
  const auto fetch = [&](const char* row, int64_t begin, int64_t end) {
    begin = std::max(begin, band.in_begin) - band.in_begin;
    end = std::min(end, band.in_end) - band.in_begin;
    for (int64_t at = begin * pixel; at < end * pixel; at += 64) __builtin_prefetch(row + at);
  };
  for (int64_t y = 0; y < rows; ++y) {
    const char* row = static_cast<const char*>(band.in[y]);
    if (row == nullptr) continue;
    fetch(row, first, band.x_begin * spec.stride_w);
    fetch(row, (band.x_end - 1) * spec.stride_w + 1, last + 1);
  }
}

}  // namespace

Session::Session(std::shared_ptr<const Plan> plan, int threads, int64_t memory)
    : plan_(std::move(plan)), threads_(threads), memory_(memory) {
  if (threads < 1 || threads > 1024)
    throw std::invalid_argument("session: threads must be within 1 to 1024, got " + std::to_string(threads));
  if (memory < 0) throw std::invalid_argument("session: memory must not be negative");
}

RunReport Session::preview(int64_t height, int64_t width) const {
  check_picture_size(height, width);
  const Layout layout = make_layout(*plan_, height, width, threads_, memory_);
  return {0, static_cast<int64_t>(layout.strips.size()), layout.band, layout.arena_bytes + layout.state_bytes, {}};
}

void Session::prepare(int64_t height, int64_t width) {
  if (height == height_ && width == width_) return;
  height_ = width_ = -1;  // stays so if what follows throws
  layout_ = make_layout(*plan_, height, width, threads_, memory_);
  if (layout_.arena_bytes > arena_.size() || layout_.arena_bytes < arena_.size() / 4) {
    arena_ = Buffer<char>();
    arena_ = Buffer<char>(layout_.arena_bytes);
  }
  // Padding channels are multiplied by zero weights: they may hold anything but NaN.
  std::memset(arena_.data(), 0, static_cast<size_t>(layout_.arena_bytes));
  int64_t most = 0;  // rows that one step of any node reads
  places_.resize(plan_->size());
  for (size_t n = 0; n < plan_->size(); ++n) {
    most = std::max(most, layout_.held[n].all);
    places_[n].assign(static_cast<size_t>(layout_.held[n].all), layout_.ring_offset[n]);
    if (!rows_may_pass(*plan_, n))
      for (int64_t i = 0; i < layout_.held[n].all; ++i) places_[n][static_cast<size_t>(i)] += i * layout_.row_bytes[n];
  }
  kept_.reserve(plan_->size());
  rows_.reserve(plan_->size());
  before_.reserve(plan_->size());
  after_.reserve(plan_->size());
  in_pointers_.reserve(static_cast<size_t>(2 * most + 256));
  residual_pointers_.reserve(static_cast<size_t>(most));
  out_pointers_.reserve(static_cast<size_t>(most));
  height_ = height;
  width_ = width;
}

RunReport Session::run(const Picture& picture, const RunOptions& options) {
  RunReport report;
  run(picture, options, report);
  return report;
}

void Session::run(const Picture& picture, const RunOptions& options, RunReport& report) {
  check_run(plan_->graph(), picture, options);
  std::lock_guard<std::mutex> lock(running_);
  prepare(picture.height, picture.width);
  report.non_finite = 0;
  report.strips = static_cast<int64_t>(layout_.strips.size());
  report.band = layout_.band;
  report.working_bytes = arena_.bytes() + layout_.state_bytes;
  report.seconds.assign(plan_->size() + 1, 0.0);
  prepare_states();
  for (size_t s = 0; s < layout_.strips.size(); ++s)
    run_strip(layout_.strips[s], picture, options, static_cast<int64_t>(s), report);
  states_.swap(next_states_);  // a run that did not come to its end changes nothing
}

void Session::reset() {
  std::lock_guard<std::mutex> lock(running_);
  for (StateImage& state : states_) state.height = 0;
}

StateImage Session::state(size_t number) {
  std::lock_guard<std::mutex> lock(running_);
  check_state(plan_->graph(), number);
  return number < states_.size() && states_[number].height > 0 ? states_[number] : StateImage{};
}

void Session::set_state(size_t number, StateImage image) {
  std::lock_guard<std::mutex> lock(running_);
  check_state(plan_->graph(), number, image);
  states_.resize(plan_->graph().states().size());
  states_[number] = std::move(image);
}

// Makes states that there are not yet, or not of this size, zero; room for their successors.
void Session::prepare_states() {
  const std::vector<State>& states = plan_->graph().states();
  states_.resize(states.size());
  next_states_.resize(states.size());
  for (size_t i = 0; i < states.size(); ++i) {
    const Node& node = plan_->node(static_cast<size_t>(states[i].now));
    const int64_t height = extent(node, Axis::rows, layout_.height), width = extent(node, Axis::columns, layout_.width);
    const size_t values = static_cast<size_t>(checked_product(height, width, node.channels));
    if (states_[i].height != height || states_[i].width != width) states_[i] = {height, width, node.channels, {}};
    if (states_[i].values.size() != values) states_[i].values.assign(values, 0.0f);
    if (next_states_[i].values.size() != values) next_states_[i].values.assign(values, 0.0f);
    next_states_[i].height = height;
    next_states_[i].width = width;
    next_states_[i].channels = node.channels;
  }
}

void Session::read_state(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  size_t number = 0;
  while (plan_->graph().states()[number].now != static_cast<int>(n)) ++number;
  const StateImage& state = states_[number];
  const Interval columns = strip.columns[n];
  const int64_t pitch = plan_->step(n).pitch;
  const size_t bytes = static_cast<size_t>(state.channels) * sizeof(float);
  for (int64_t y = begin; y < end && !columns.empty(); ++y) {
    const float* from = state.values.data() + (y * state.width + columns.begin) * state.channels;
    float* to = reinterpret_cast<float*>(row(n, y));
    for (int64_t x = 0; x < columns.size(); ++x) std::memcpy(to + x * pitch, from + x * state.channels, bytes);
  }
}

// Keeps the rows of the states' successors that were added since `before`, in the strip's own columns.
void Session::write_states(const Strip& strip, const std::vector<int64_t>& before) {
  for (size_t i = 0; i < next_states_.size(); ++i) {
    const size_t n = static_cast<size_t>(plan_->graph().states()[i].next);
    StateImage& state = next_states_[i];
    const int64_t stride = plan_->node(n).stride, first = strip.core.begin / stride, end = strip.core.end / stride;
    const int64_t pitch = plan_->step(n).pitch;
    const size_t bytes = static_cast<size_t>(state.channels) * sizeof(float);
    for (int64_t y = before[n]; y < rows_[n]; ++y) {
      const float* from = reinterpret_cast<const float*>(row(n, y)) + (first - strip.columns[n].begin) * pitch;
      float* to = state.values.data() + (y * state.width + first) * state.channels;
      for (int64_t x = 0; x < end - first; ++x) std::memcpy(to + x * state.channels, from + x * pitch, bytes);
    }
  }
}

void Session::run_strip(const Strip& strip, const Picture& picture, const RunOptions& options, int64_t strip_number,
                        RunReport& report) {
  const size_t output = static_cast<size_t>(plan_->graph().output());
  std::vector<int64_t>& rows = rows_;
  rows.assign(plan_->size(), 0);
  kept_.assign(plan_->size(), 0);
  for (size_t n = 0; n < plan_->size(); ++n)
    if (plan_->node(n).op == Op::sigma_plane)
      std::fill_n(reinterpret_cast<float*>(row(n, 0)), strip.columns[n].size() * plan_->step(n).pitch,
                  options.sigma.value_or(0.0f) * plan_->node(n).sigma_scale);
  while (!all_done(*plan_, rows, layout_.height)) {
    const int64_t written = rows[output];
    before_ = rows;
    after_ = rows;
    for (size_t n = 0; n < plan_->size(); ++n)
      after_[n] = next_rows(*plan_, n, after_, layout_.height, layout_.share[n]);
    double last = now();
    const auto spent_in = [&](size_t n) {
      const double time = now();
      report.seconds[n] += time - last;
      last = time;
    };
    for (size_t n = 0; n < plan_->size(); ++n) {
      const int64_t next = after_[n];
      if (next == rows[n]) continue;
      if (rows_may_pass(*plan_, n)) place_rows(n, rows[n], next);
      if (plan_->node(n).op == Op::input)
        read_rows(strip, picture, rows[n], next);
      else if (plan_->node(n).op == Op::state)
        read_state(strip, n, rows[n], next);
      else
        compute(strip, n, rows[n], next);
      fill_margins(strip, n, rows[n], next);
      if (options.observe) observe_rows(strip, n, rows[n], next, options);
      rows[n] = next;
      spent_in(n);
    }
    report.non_finite += write_rows(strip, picture, options, written, rows[output]);
    write_states(strip, before_);
    spent_in(plan_->size());
    const double share =
        (static_cast<double>(strip_number) + static_cast<double>(rows[output]) / static_cast<double>(layout_.height)) /
        static_cast<double>(layout_.strips.size());
    if (options.progress && !options.progress(share)) throw Cancelled();
  }
}

// Gives the new rows [begin, end) their places: among the passing ones, or in the ring if a later round needs them.
void Session::place_rows(size_t n, int64_t begin, int64_t end) {
  const int64_t kept_from = first_row_kept(*plan_, n, after_, layout_.height), bytes = layout_.row_bytes[n];
  for (int64_t y = begin; y < end; ++y)
    places_[n][static_cast<size_t>(y % layout_.held[n].all)] =
        y < kept_from ? layout_.passing_offset[n] + (y - begin) * bytes
                      : layout_.ring_offset[n] + kept_[n]++ % layout_.held[n].kept * bytes;
}

char* Session::row(size_t n, int64_t y) {
  const Step& step = plan_->step(n);
  return arena_.data() + places_[n][static_cast<size_t>(y % layout_.held[n].all)] +
         step.margin * step.pitch * element_bytes(step.element);
}

// Row by row: rows that pass do not lie as in a ring.
void Session::observe_rows(const Strip& strip, size_t n, int64_t begin, int64_t end, const RunOptions& options) {
  FloatRows view = float_rows(strip, n);
  for (int64_t y = begin; y < end; ++y) {
    view.base = row(n, y);
    view.first_row = y;
    options.observe(n, view, y, y + 1);
  }
}

float* Session::workspace(int thread) {
  return reinterpret_cast<float*>(arena_.data() + layout_.workspace_offset + thread * workspace_bytes(*plan_));
}

FloatRows Session::float_rows(const Strip& strip, size_t n) {
  FloatRows view;
  view.base = row(n, 0);
  view.rows = layout_.held[n].all;
  view.row_bytes = layout_.row_bytes[n];
  view.columns = strip.columns[n];
  view.pitch = plan_->step(n).pitch;
  view.height = extent(plan_->node(n), Axis::rows, layout_.height);
  return view;
}

// Computes rows [begin, end) of a row operator's node piece by piece, on several threads if that pays. Pieces begin at
// the node's grid in rows; in columns, attention's at its windows. A local mean's rows follow from one another.
void Session::compute_pieces(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  const Node& node = plan_->node(n);
  const Interval columns = strip.columns[n];
  const bool carries = node.op == Op::local_mean;
  const int64_t grid = carries ? end - begin : plan_->step(n).row_grid;
  const int64_t top = begin == 0 ? -plan_->step(n).row_shift : begin;
  const int64_t groups = ceil_div(end - top, grid);
  const bool few = (end - begin) * columns.size() * plan_->step(n).pitch < kFloatsWorthAThread;
  const bool windows = node.op == Op::window_attention;
  const int64_t left = windows ? window_at(node, columns.begin).begin : columns.begin;
  // Columns that belong together.
  const int64_t unit = windows ? grid : carries ? kMeanGrid : std::lcm(grid, kColumnGrid);
  int64_t width = round_up(columns.end - left, unit);
  if (plan_->needs_scratch(n))
    width = std::max(unit, Plan::kPieceColumns / unit * unit);
  else if (!few && groups < kPartsPerThread * threads_)
    width = round_up(ceil_div(width, threads_), unit);
  const int64_t across = ceil_div(columns.end - left, width);
  parallel_for(groups * across, few ? 1 : threads_, [&](int64_t i, int thread) {
    const int64_t y = top + i / across * grid, x = left + i % across * width;
    Piece piece;
    piece.begin = std::max(begin, y);
    piece.end = std::min(end, y + grid);
    piece.x_begin = std::max(columns.begin, x);
    piece.x_end = std::min(columns.end, x + width);
    piece.pixels = checked_product(layout_.height / node.stride, layout_.width / node.stride);
    if (carries) piece.sums = reinterpret_cast<double*>(arena_.data() + layout_.sums_offset[n]);
    piece.scratch = enter_piece(strip, n, piece, workspace(thread));
    compute_piece(*plan_, n, piece);
    leave_piece(strip, n, piece);
  });
}

// Sets the views of a piece, copying narrower images to scratch; returns what is left of that.
float* Session::enter_piece(const Strip& strip, size_t n, Piece& piece, float* scratch) {
  const Node& node = plan_->node(n);
  const ConvertKernels& convert = get_convert(plan_->isa());
  const auto take = [&](FloatRows& view, Interval rows, Interval columns) {
    view.base = reinterpret_cast<char*>(scratch);
    view.rows = std::max<int64_t>(1, rows.size());
    view.row_bytes = columns.size() * view.pitch * static_cast<int64_t>(sizeof(float));
    view.first_row = rows.begin;
    view.columns = columns;
    scratch += round_up(rows.size() * columns.size() * view.pitch, 16);
  };
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const size_t input = static_cast<size_t>(node.inputs[i]);
    FloatRows& view = piece.in[i];
    view = float_rows(strip, input);
    view.element = plan_->step(input).element;
    if (view.element == Element::f32 || !plan_->needs_scratch(n)) continue;
    view.element = Element::f32;
    const Interval all = strip.columns[input];
    Interval rows = needed(node, i, {piece.begin, piece.end}, Axis::rows);
    Interval columns = needed(node, i, {piece.x_begin, piece.x_end}, Axis::columns);
    rows = {std::max<int64_t>(rows.begin, 0),
            std::min(rows.end, extent(plan_->node(input), Axis::rows, layout_.height))};
    columns = {std::max(columns.begin, all.begin), std::min(columns.end, all.end)};
    take(view, rows, columns);
    const Step& step = plan_->step(input);
    for (int64_t y = rows.begin; y < rows.end; ++y) {
      const char* from = row(input, y) + (columns.begin - all.begin) * view.pitch * element_bytes(step.element);
      float* to = view.at(y, columns.begin);
      if (step.element == Element::bf16)
        convert.widen(reinterpret_cast<const Bf16*>(from), to, columns.size() * view.pitch);
      else
        convert.widen_levels(reinterpret_cast<const uint8_t*>(from), to, columns.size() * view.pitch, step.levels);
    }
  }
  piece.out = float_rows(strip, n);
  piece.out.element = plan_->step(n).element;
  if (piece.out.element == Element::f32 || !plan_->needs_scratch(n)) return scratch;
  piece.out.element = Element::f32;
  take(piece.out, {piece.begin, piece.end}, {piece.x_begin, piece.x_end});
  return scratch;
}

void Session::leave_piece(const Strip& strip, size_t n, const Piece& piece) {
  const Step& step = plan_->step(n);
  if (step.element == Element::f32 || !plan_->needs_scratch(n)) return;
  const ConvertKernels& convert = get_convert(plan_->isa());
  const int64_t values = (piece.x_end - piece.x_begin) * step.pitch;
  for (int64_t y = piece.begin; y < piece.end; ++y) {
    const float* from = piece.out.at(y, piece.x_begin);
    char* to = row(n, y) + (piece.x_begin - strip.columns[n].begin) * step.pitch * element_bytes(step.element);
    if (step.element == Element::bf16)
      convert.narrow(from, reinterpret_cast<Bf16*>(to), values);
    else
      convert.narrow_levels(from, reinterpret_cast<uint8_t*>(to), values, step.levels);
  }
}

void Session::read_rows(const Strip& strip, const Picture& picture, int64_t begin, int64_t end) {
  const int64_t channels = plan_->node(0).channels, pitch = plan_->step(0).pitch;
  const Interval columns = strip.columns[0];
  const int64_t inside = std::min(columns.end, picture.width);  // what lies beyond is padding, as the border says
  ConvertInFn* convert = get_convert_in(picture.type, plan_->isa());
  const int64_t pixel = picture.channels * pixel_bytes(picture.type);
  const Border border = plan_->node(0).border;
  const int threads = (end - begin) * columns.size() * pitch < kFloatsWorthAThread ? 1 : threads_;
  parallel_for(end - begin, threads, [&](int64_t i, int) {
    const int64_t y = begin + i;
    float* target = reinterpret_cast<float*>(row(0, y));
    const int64_t zeros = border != Border::zero ? columns.end : y < picture.height ? inside : columns.begin;
    const int64_t first_zero = std::clamp(zeros, columns.begin, columns.end) - columns.begin;
    std::fill(target + first_zero * pitch, target + columns.size() * pitch, 0.0f);
    if (first_zero == 0) return;
    const char* source =
        static_cast<const char*>(picture.in) + border_pixel(border, y, picture.height) * picture.in_row_bytes;
    if (inside > columns.begin)
      convert(source + columns.begin * pixel, picture.channels, target, channels, pitch, inside - columns.begin);
    for (int64_t x = std::max(inside, columns.begin); x < columns.begin + first_zero; ++x)
      convert(source + border_pixel(border, x, picture.width) * pixel, picture.channels,
              target + (x - columns.begin) * pitch, channels, pitch, 1);
  });
}

int64_t Session::write_rows(const Strip& strip, const Picture& picture, const RunOptions& options, int64_t begin,
                            int64_t end) {
  const size_t output = static_cast<size_t>(plan_->graph().output());
  const int64_t pitch = plan_->step(output).pitch, channels = plan_->node(output).channels;
  const int64_t last = std::min(strip.core.end, picture.width);
  const int64_t pixel = picture.channels * pixel_bytes(picture.type);
  ConvertOutFn* convert = get_convert_out(picture.type, plan_->isa());
  std::atomic<int64_t> non_finite{0};
  if (last <= strip.core.begin) return 0;
  const int64_t rows = std::min(end, picture.height) - begin;
  const int threads = rows * (last - strip.core.begin) * pitch < kFloatsWorthAThread ? 1 : threads_;
  const FloatRows source = float_rows(strip, output);
  parallel_for(std::max<int64_t>(rows, 0), threads, [&](int64_t i, int) {
    const int64_t y = begin + i;
    const int64_t offset = strip.core.begin * pixel;
    non_finite += convert(source.at(y, strip.core.begin), pitch, channels,
                          static_cast<const char*>(picture.in) + y * picture.in_row_bytes + offset,
                          static_cast<char*>(picture.out) + y * picture.out_row_bytes + offset, picture.channels,
                          last - strip.core.begin, options.strength, options.clip);
  });
  return non_finite;
}

void Session::compute(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  const Op op = plan_->node(n).op;
  if (strip.columns[n].empty() || op == Op::sigma_plane) return;  // sigma was filled in before the first band
  if (op == Op::conv2d)
    convolve(strip, n, begin, end);
  else if (op == Op::conv_transpose2d)
    transpose_convolve(strip, n, begin, end);
  else
    compute_pieces(strip, n, begin, end);
}

// Repeats or reflects the image's first and last columns into the ring's margins.
void Session::fill_margins(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  const Step& step = plan_->step(n);
  const Interval columns = strip.columns[n];
  if (step.margin == 0 || columns.empty()) return;
  const int64_t width = extent(plan_->node(n), Axis::columns, layout_.width),
                pixel = step.pitch * element_bytes(step.element);
  const int64_t last = plan_->node(n).op == Op::sigma_plane ? std::min(end, begin + 1) : end;  // it has one row
  for (int64_t y = begin; y < last; ++y) {
    char* start = row(n, y) - columns.begin * pixel;  // of column 0
    const auto copy = [&](int64_t x) {
      const int64_t from = border_pixel(step.border, x, width);
      if (from >= columns.begin && from < columns.end)  // else nobody reads column x
        std::memcpy(start + x * pixel, start + from * pixel, static_cast<size_t>(pixel));
    };
    for (int64_t i = 1; i <= step.margin; ++i) {
      if (columns.begin == 0) copy(-i);
      if (columns.end == width) copy(width - 1 + i);
    }
  }
}

// Pointers to rows [first, first + count) of a node; null outside of the image, and of the rows around it that its
// border fills (`bordered`: with the image itself).
const void* const* Session::input_rows(const Strip& strip, size_t input, int64_t first, int64_t count, Border border,
                                       Interval bordered) {
  const int64_t height = extent(plan_->node(input), Axis::rows, layout_.height);
  in_pointers_.clear();
  for (int64_t y = first; y < first + count; ++y) {
    const bool inside = y >= 0 && y < height, at_border = y >= bordered.begin && y < bordered.end;
    in_pointers_.push_back(strip.columns[input].empty() || !(inside || at_border)
                               ? nullptr
                               : row(input, inside ? y : border_pixel(border, y, height)));
  }
  return in_pointers_.data();
}

void Session::convolve(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  const Node& node = plan_->node(n);
  const Step& step = plan_->step(n);
  const size_t input = static_cast<size_t>(node.inputs[0]);
  const Interval columns = strip.columns[n];
  const int64_t top = begin;
  if (begin == 0) begin = -step.row_shift;
  const int64_t count = round_up(end - begin, step.row_grid);
  ConvBand band;
  const Interval in_columns = strip.columns[input];
  band.in_begin = in_columns.begin;
  band.in_end = in_columns.end;
  band.in_pitch = plan_->step(input).pitch;
  band.in_element = plan_->step(input).element;
  Interval bordered;
  if (node.border != Border::zero) {  // no more of the margins than this convolution reads: Winograd reads whole tiles
    const int64_t stride = plan_->node(input).stride;
    bordered = {-node.conv.pad_top, layout_.height / stride + overhang(node.conv, Axis::rows)};
    if (in_columns.begin == 0) band.in_begin -= node.conv.pad_left;
    if (in_columns.end == layout_.width / stride)
      band.in_end += std::max<int64_t>(0, overhang(node.conv, Axis::columns));
  }
  band.in = input_rows(strip, input, begin * node.conv.stride_h - node.conv.pad_top,
                       (count - 1) * node.conv.stride_h + kernel_side(node.conv, Axis::rows), node.border, bordered);
  if (band.in_begin != in_columns.begin)
    for (const void*& pointer : in_pointers_)
      if (pointer != nullptr)
        pointer = static_cast<const char*>(pointer) -
                  (in_columns.begin - band.in_begin) * band.in_pitch * element_bytes(band.in_element);
  band.out_element = step.element;
  band.out_levels = step.levels;
  out_pointers_.clear();
  residual_pointers_.clear();
  for (int64_t y = begin; y < end; ++y) out_pointers_.push_back(y < top ? nullptr : row(n, y));
  band.out = out_pointers_.data();
  band.out_begin = columns.begin;
  band.out_pitch = step.pitch;
  if (node.inputs.size() > 1) {
    const size_t residual = static_cast<size_t>(node.inputs[1]);
    for (int64_t y = begin; y < end; ++y) residual_pointers_.push_back(y < top ? nullptr : row(residual, y));
    band.residual = residual_pointers_.data();
    band.residual_begin = strip.columns[residual].begin;
    band.residual_pitch = plan_->step(residual).pitch;
    band.residual_element = plan_->step(residual).element;
    band.residual_levels = plan_->step(residual).levels;
  }
  band.rows = end - begin;
  band.x_begin = columns.begin;
  band.x_end = columns.end;
  run_bands(step.convs[0], band, step.row_grid);
}

void Session::transpose_convolve(const Strip& strip, size_t n, int64_t begin, int64_t end) {
  const Node& node = plan_->node(n);
  const Step& step = plan_->step(n);
  const size_t input = static_cast<size_t>(node.inputs[0]);
  const Interval columns = strip.columns[n];
  const int64_t stride = node.conv.stride_h, first = begin / stride, cells = (end - begin) / stride;
  for (int64_t a = 0; a < stride; ++a)
    for (int64_t b = 0; b < stride; ++b) {
      const PackedConv& conv = step.convs[static_cast<size_t>(a * stride + b)];
      ConvBand band;  // in cells: an output pixel of this phase is every stride-th pixel of every stride-th row
      band.in = input_rows(strip, input, first - conv.spec.pad_top, cells - 1 + conv.spec.kernel_h);
      band.in_begin = strip.columns[input].begin;
      band.in_end = strip.columns[input].end;
      band.in_pitch = plan_->step(input).pitch;
      band.in_element = plan_->step(input).element;
      band.out_element = step.element;
      band.out_levels = step.levels;
      out_pointers_.clear();
      residual_pointers_.clear();
      for (int64_t y = begin + a; y < end; y += stride)
        out_pointers_.push_back(row(n, y) + b * step.pitch * element_bytes(step.element));
      band.out = out_pointers_.data();
      band.out_begin = columns.begin / stride;
      band.out_pitch = stride * step.pitch;
      if (node.inputs.size() > 1) {
        const size_t residual = static_cast<size_t>(node.inputs[1]);
        const int64_t pitch = plan_->step(residual).pitch;
        band.residual_element = plan_->step(residual).element;
        band.residual_levels = plan_->step(residual).levels;
        const int64_t offset =
            (columns.begin + b - strip.columns[residual].begin) * pitch * element_bytes(band.residual_element);
        for (int64_t y = begin + a; y < end; y += stride) residual_pointers_.push_back(row(residual, y) + offset);
        band.residual = residual_pointers_.data();
        band.residual_begin = columns.begin / stride;
        band.residual_pitch = stride * pitch;
      }
      band.rows = cells;
      band.x_begin = columns.begin / stride;
      band.x_end = columns.end / stride;
      run_bands(conv, band, 1);
    }
}

// Divides a band among the threads by columns, and by rows (in multiples of row_grid) where these are too few: a
// column's rows stay with one core from layer to layer. Pieces of a thread are equal, several if they are large.
void Session::run_bands(const PackedConv& conv, const ConvBand& whole, int64_t row_grid) {
  if (threads_ == 1) {
    conv.run(conv, whole, workspace(0));
    return;
  }
  const int64_t width = whole.x_end - whole.x_begin, row_units = ceil_div(whole.rows, row_grid);
  const int64_t across = std::max<int64_t>(1, width / kFewestColumns);  // pieces that a row could be cut into
  const int64_t each = std::clamp<int64_t>(across / threads_, 1, kPartsPerThread);
  int64_t column_parts = each * threads_, row_parts = 1;
  if (across < threads_) {
    row_parts = std::min(row_units, ceil_div(threads_, across));
    column_parts = ceil_div(threads_, row_parts);
  }
  const int64_t rows = ceil_div(row_units, row_parts) * row_grid;
  row_parts = ceil_div(whole.rows, rows);
  const int64_t columns = round_up(ceil_div(width, column_parts), kColumnGrid);
  column_parts = ceil_div(width, columns);
  parallel_for(row_parts * column_parts, threads_, [&](int64_t i, int thread) {
    const int64_t y = i / column_parts * rows, x = whole.x_begin + i % column_parts * columns;
    ConvBand band = whole;
    band.in += y * conv.spec.stride_h;
    band.out += y;
    if (band.residual != nullptr) band.residual += y;
    band.rows = std::min(rows, whole.rows - y);
    band.x_begin = x;
    band.x_end = std::min(x + columns, whole.x_end);
    fetch_borders(conv.spec, band);
    conv.run(conv, band, workspace(thread));
  });
}

}  // namespace fr
