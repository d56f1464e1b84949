#include "engine/row_ops.h"

#include <algorithm>
#include <cstring>

#include "kernels/channel_pool/channel_pool.h"
#include "kernels/pixel_shuffle/pixel_shuffle.h"

namespace fr {
namespace {

constexpr int64_t kMaxFactor = 16;  // of a pixel shuffle
constexpr int64_t kMaxWindow = 64;  // rows of a pooling window

// Pixels and values of each: a row whose operands all lie alike is one long pixel.
struct Run {
  int64_t channels, pixels;
};

Run run_of(const Node& node, const Piece& p, bool alike) {
  const int64_t width = p.x_end - p.x_begin;
  return alike ? Run{width * p.out.pitch, 1} : Run{node.channels, width};
}

// Whether what lies beyond the channels may be computed with them, because it stays finite.
bool may_compute_rest(const Node& node, const Piece& p) { return p.out.pitch == node.channels || !has_poles(node); }

Operand operand(const Piece& p, size_t which) {
  const FloatRows& in = p.in[which];
  return {in.place(p.begin, p.x_begin), in.pitch, false, in.element};
}

Result result(const Piece& p) { return {p.out.place(p.begin, p.x_begin), p.out.pitch, p.out.element}; }

// Of an operator of floats.
float* target(const Piece& p) { return p.out.at(p.begin, p.x_begin); }

// Scratch may hold anything, and what lies beyond an image's channels is multiplied by zero weights.
void clear_rest(const Node& node, const Piece& p) {
  if (p.out.pitch == node.channels) return;
  for (int64_t y = p.begin; y < p.end; ++y)
    for (int64_t x = p.x_begin; x < p.x_end; ++x) {
      const int64_t bytes = element_bytes(p.out.element);
      std::memset(p.out.place(y, x) + node.channels * bytes, 0,
                  static_cast<size_t>((p.out.pitch - node.channels) * bytes));
    }
}

void shuffle(const Node& node, const Piece& p) {
  const int64_t r = node.factor;
  float* out[kMaxFactor];
  for (int64_t a = 0; a < r; ++a) out[a] = p.out.at(p.begin + a, p.x_begin);
  pixel_shuffle_row(p.in[0].at(p.begin / r, p.x_begin / r), p.in[0].pitch, out, p.out.pitch, node.channels, r,
                    (p.x_end - p.x_begin) / r);
}

void unshuffle(const Node& node, const Piece& p) {
  const int64_t r = node.factor;
  const float* in[kMaxFactor];
  for (int64_t a = 0; a < r; ++a) in[a] = p.in[0].at(p.begin * r + a, p.x_begin * r);
  pixel_unshuffle_row(in, p.in[0].pitch, target(p), p.out.pitch, node.channels / (r * r), r, p.x_end - p.x_begin);
}

void concat(const Node& node, const Piece& p) {
  const int64_t value = element_bytes(p.out.element);  // the inputs' too
  char* to = p.out.place(p.begin, p.x_begin);
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const char* from = p.in[i].place(p.begin, p.x_begin) + node.parts[i].first * value;
    const int64_t bytes = node.parts[i].count * value;
    for (int64_t x = 0; x < p.x_end - p.x_begin; ++x)
      std::memcpy(to + x * p.out.pitch * value, from + x * p.in[i].pitch * value, static_cast<size_t>(bytes));
    to += bytes;
  }
}

bool add(const Plan& plan, const Node& node, const Piece& p) {
  const bool alike = p.in[0].pitch == p.out.pitch && p.in[1].pitch == p.out.pitch;
  const Run run = run_of(node, p, alike);
  plan.row_kernels().arithmetic->add(node.scale_a, operand(p, 0), node.scale_b, operand(p, 1), result(p), run.channels,
                                     run.pixels);
  return alike;
}

// The operands of a node that takes parts of two images; whether a row is one long pixel.
bool take_operands(const Plan& plan, const Node& node, const Piece& p, Operand (&operands)[2]) {
  bool alike = node.broadcast < 0 && may_compute_rest(node, p);
  for (size_t i = 0; i < 2; ++i) {
    const Channels part = node.parts[i];
    const bool whole = part.count == plan.node(static_cast<size_t>(node.inputs[i])).channels;
    alike = alike && whole && part.count == node.channels && p.in[i].pitch == p.out.pitch;
    operands[i] = operand(p, i);
    if (static_cast<int>(i) == node.broadcast) operands[i] = {p.in[i].place(0, 0), 0, false, p.in[i].element};
    operands[i].data = static_cast<const char*>(operands[i].data) + part.first * element_bytes(p.in[i].element);
    operands[i].single = part.count < node.channels;
  }
  return alike;
}

bool multiply(const Plan& plan, const Node& node, const Piece& p) {
  Operand operands[2];
  const bool alike = take_operands(plan, node, p, operands);
  const Run run = run_of(node, p, alike);
  plan.row_kernels().arithmetic->multiply(operands[0], operands[1], result(p), run.channels, run.pixels);
  return alike;
}

bool combine(const Plan& plan, const Node& node, const Piece& p) {
  Operand operands[2];
  const bool alike = take_operands(plan, node, p, operands);
  const Run run = run_of(node, p, alike);
  plan.row_kernels().arithmetic->combine(node.formula, operands[0], operands[1], result(p), run.channels, run.pixels);
  return alike;
}

bool affine(const Plan& plan, const Node& node, const Step& step, const Piece& p) {
  const bool alike = p.in[0].pitch == p.out.pitch;
  const Run run = run_of(node, p, alike);
  const int64_t period = static_cast<int64_t>(step.table.size() / 2);
  plan.row_kernels().arithmetic->affine(step.table.data(), step.table.data() + period, period, operand(p, 0), result(p),
                                        run.channels, run.pixels);
  return alike;
}

bool activate(const Plan& plan, const Node& node, const Step& step, const Piece& p) {
  const bool alike = p.in[0].pitch == p.out.pitch && may_compute_rest(node, p);
  const Run run = run_of(node, p, alike);
  plan.row_kernels().activate(node.curve, step.table.empty() ? nullptr : step.table.data(),
                              static_cast<int64_t>(step.table.size()), p.in[0].at(p.begin, p.x_begin), p.in[0].pitch,
                              target(p), p.out.pitch, run.channels, run.pixels);
  return alike;
}

// Some pixels at a time: what the curve made is multiplied while it is in the first-level cache.
void gate(const Plan& plan, const Node& node, const Piece& p) {
  constexpr int64_t kPixels = 16;
  const float* a = p.in[0].at(p.begin, p.x_begin) + node.parts[0].first;
  const float* b = p.in[1].at(p.begin, p.x_begin) + node.parts[1].first;
  float* out = target(p);
  for (int64_t left = p.x_end - p.x_begin; left > 0; left -= kPixels) {
    const int64_t pixels = std::min(left, kPixels);
    plan.row_kernels().activate(node.curve, nullptr, 0, a, p.in[0].pitch, out, p.out.pitch, node.channels, pixels);
    plan.row_kernels().arithmetic->multiply({out, p.out.pitch}, {b, p.in[1].pitch}, {out, p.out.pitch}, node.channels,
                                            pixels);
    a += pixels * p.in[0].pitch;
    b += pixels * p.in[1].pitch;
    out += pixels * p.out.pitch;
  }
}

void pool(const Plan& plan, const Node& node, const Piece& p) {
  const ConvSpec& window = node.conv;
  const FloatRows& in = p.in[0];
  const float* rows[kMaxWindow];
  for (int64_t i = 0; i < window.kernel_h; ++i) {
    const int64_t y = p.begin * window.stride_h - window.pad_top + i * window.dilation_h;
    rows[i] = y < 0 || y >= in.height ? nullptr : in.at(y, in.columns.begin);
  }
  PoolRow row;
  row.in = rows;
  row.kernel_h = window.kernel_h;
  row.kernel_w = window.kernel_w;
  row.in_begin = in.columns.begin;
  row.in_end = in.columns.end;
  row.in_pitch = in.pitch;
  row.out = target(p);
  row.out_pitch = p.out.pitch;
  row.x_begin = p.x_begin;
  row.x_end = p.x_end;
  row.channels = node.channels;
  row.stride = window.stride_w;
  row.pad = window.pad_left;
  row.dilation = window.dilation_w;
  row.divisor = node.divisor;
  plan.row_kernels().pool(node.pool, row);
}

void channel_pool(const Plan& plan, const Node& node, const Piece& p) {
  const int64_t channels = plan.node(static_cast<size_t>(node.inputs[0])).channels;
  channel_pool_row(node.pool, p.in[0].at(p.begin, p.x_begin), p.in[0].pitch, channels, target(p), p.out.pitch,
                   p.x_end - p.x_begin);
}

void resize(const Plan& plan, const Node& node, const Step& step, const Piece& p) {
  const FloatRows& in = p.in[0];
  const ResizeTaps& taps = step.taps[static_cast<size_t>(node.enlarge ? p.begin % node.factor : 0)];
  const int64_t first = (node.enlarge ? p.begin / node.factor : p.begin * node.factor) + taps.first;
  ResizeRow row;
  row.taps_y = taps.count;
  for (int64_t i = 0; i < taps.count; ++i) {
    row.in[i] = in.at(border_pixel(Border::clamp, first + i, in.height), in.columns.begin);
    row.weight_y[i] = taps.weight[i];
  }
  row.taps_x = step.taps.data();
  row.enlarge = node.enlarge;
  row.factor = node.factor;
  row.in_begin = in.columns.begin;
  row.in_end = in.columns.end;
  row.in_pitch = in.pitch;
  row.out = target(p);
  row.out_pitch = p.out.pitch;
  row.x_begin = p.x_begin;
  row.x_end = p.x_end;
  row.channels = node.channels;
  plan.row_kernels().resize(row);
}

void layer_norm(const Plan& plan, const Node& node, const Piece& p) {
  const Operand in = operand(p, 0);
  const Result out = result(p);
  LayerNormRow row;
  row.in = in.data;
  row.in_pitch = in.pitch;
  row.in_element = in.element;
  row.out = out.data;
  row.out_pitch = out.pitch;
  row.out_element = out.element;
  row.pixels = p.x_end - p.x_begin;
  row.channels = node.channels;
  row.scale = node.weight.data();
  row.shift = node.bias.data();
  row.epsilon = node.epsilon;
  row.centred = node.centred;
  plan.row_kernels().layer_norm(row);
}

// The rows of the image that one row of its sums is of: pointers to their first pixels; returns their number.
int64_t folded_rows(const Node& node, const Piece& p, const void* (&rows)[kFold]) {
  const FloatRows& in = p.in[0];
  const int64_t first = p.begin * node.fold, count = std::min(node.fold, in.height - first);
  for (int64_t i = 0; i < count; ++i) rows[i] = in.row(first + i);
  return count;
}

void partial_sum(const Plan& plan, const Node& node, const Piece& p) {
  const void* rows[kFold];
  PartialSum sum;
  sum.row_count = folded_rows(node, p, rows);
  sum.rows = rows;
  sum.element = p.in[0].element;
  sum.pixels = p.in[0].columns.size();
  sum.pitch = p.in[0].pitch;
  sum.channels = node.channels;
  sum.out = target(p);
  plan.row_kernels().partial_sum(sum);
}

void partial_gram(const Plan& plan, const Node& node, const Piece& p) {
  const int64_t all = plan.node(static_cast<size_t>(node.inputs[0])).channels / 3, each = all / node.heads;
  const void* rows[kFold];
  GramRows gram;
  gram.row_count = folded_rows(node, p, rows);
  gram.queries = rows;
  gram.element = p.in[0].element;
  gram.keys = all;
  gram.pixels = p.in[0].columns.size();
  gram.pitch = p.in[0].pitch;
  gram.channels = each;
  gram.out = target(p);
  for (int64_t head = 0; head < node.heads; ++head) {
    plan.row_kernels().channel_attention->gram(gram, p.scratch);
    gram.out += each * (each + 2);
    for (int64_t i = 0; i < gram.row_count; ++i)
      rows[i] = static_cast<const char*>(rows[i]) + each * element_bytes(gram.element);
  }
}

void mean(const Node& node, const Piece& p) {
  double* sums = reinterpret_cast<double*>(p.scratch);
  std::fill_n(sums, node.channels, 0.0);
  for (int64_t y = 0; y < p.in[0].height; ++y)
    for (int64_t c = 0; c < node.channels; ++c) sums[c] += static_cast<double>(p.in[0].at(y, 0)[c]);
  for (int64_t c = 0; c < node.channels; ++c)
    target(p)[c] = static_cast<float>(sums[c] / static_cast<double>(p.pixels));
}

void channel_softmax(const Node& node, const Piece& p) {
  int64_t each = 1;
  while (node.heads * each * each < node.channels) ++each;
  fr::channel_softmax(p.in[0].at(0, 0), p.in[0].height, p.in[0].row_bytes / static_cast<int64_t>(sizeof(float)),
                      node.heads, each, node.weight.data(), reinterpret_cast<double*>(p.scratch), target(p));
}

void mix(const Plan& plan, const Node& node, const Piece& p) {
  MixRow row;
  row.in = p.in[1].at(p.begin, p.x_begin) + node.parts[1].first;
  row.in_pitch = p.in[1].pitch;
  row.out = target(p);
  row.out_pitch = p.out.pitch;
  row.pixels = p.x_end - p.x_begin;
  row.heads = node.heads;
  row.channels = node.channels / node.heads;
  row.weights = p.in[0].at(0, 0);
  plan.row_kernels().channel_attention->mix(row);
}

void warp(const Plan& plan, const Node& node, const Piece& p) {
  const FloatRows& in = p.in[0];
  WarpRow row;
  row.in = in.at(0, 0);  // all rows are held, one after the other
  row.in_row = in.row_bytes / static_cast<int64_t>(sizeof(float));
  row.height = in.height;
  row.width = in.columns.size();
  row.in_pitch = in.pitch;
  row.flow = p.in[1].at(p.begin, p.x_begin);
  row.flow_pitch = p.in[1].pitch;
  row.out = target(p);
  row.out_pitch = p.out.pitch;
  row.y = p.begin;
  row.x_begin = p.x_begin;
  row.x_end = p.x_end;
  row.channels = node.channels;
  plan.row_kernels().warp(row);
}

void local_mean(const Plan& plan, const Node& node, const Piece& p) {
  const FloatRows& in = p.in[0];
  const LocalMeanKernels& kernels = *plan.row_kernels().local_mean;
  LocalMeanRow row;
  row.element = in.element;
  row.pitch = in.pitch;
  row.width = in.columns.size();
  row.channels = node.channels;
  row.side = std::min(node.side, row.width);
  row.x_begin = p.x_begin;
  row.x_end = p.x_end;
  row.sums = p.sums;
  const int64_t side = std::min(node.side, in.height);
  if (p.begin == 0) std::fill(p.sums + p.x_begin * node.channels, p.sums + p.x_end * node.channels, 0.0);
  for (int64_t y = p.begin; y < p.end; ++y) {
    const Interval window = mean_window(side, y, in.height);
    const int64_t before = y == 0 ? 0 : mean_window(side, y - 1, in.height).begin;
    for (int64_t added = y == 0 ? 0 : before + side; added < window.end; ++added) {
      row.enter = in.row(added);
      row.leave = y == 0 ? nullptr : in.row(before);
      kernels.add(row);
    }
    kernels.write(row, {p.out.place(y, p.x_begin), p.out.pitch, p.out.element},
                  1.0 / static_cast<double>(side * row.side));
  }
}

// Window after window of a row of them.
void window_attention(const Plan& plan, const Node& node, const Step& step, const Piece& p) {
  const float* in[kMostWindow];
  float* out[kMostWindow];
  AttentionWindow window;
  window.in = in;
  window.in_pitch = p.in[0].pitch;
  window.out = out;
  window.out_pitch = p.out.pitch;
  window.rows = p.end - p.begin;
  window.side = node.window;
  window.heads = node.heads;
  window.head_channels = node.channels / node.heads;
  window.bias = step.table.data();
  for (int64_t x = p.x_begin; x < p.x_end;) {
    const int64_t end = std::min(window_at(node, x).end, p.x_end);
    for (int64_t i = 0; i < window.rows; ++i) {
      in[i] = p.in[0].at(p.begin + i, x);
      out[i] = p.out.at(p.begin + i, x);
    }
    window.columns = end - x;
    plan.row_kernels().window_attention(window, p.scratch);
    x = end;
  }
}

// Whether the values beyond the channels were computed too.
bool compute(const Plan& plan, const Node& node, const Step& step, const Piece& p) {
  switch (node.op) {
    case Op::add:
      return add(plan, node, p);
    case Op::multiply:
      return multiply(plan, node, p);
    case Op::affine:
      return affine(plan, node, step, p);
    case Op::activate:
      return activate(plan, node, step, p);
    case Op::pixel_shuffle:
      shuffle(node, p);
      break;
    case Op::pixel_unshuffle:
      unshuffle(node, p);
      break;
    case Op::concat:
      concat(node, p);
      break;
    case Op::pool:
      pool(plan, node, p);
      break;
    case Op::resize:
      resize(plan, node, step, p);
      break;
    case Op::layer_norm:
      layer_norm(plan, node, p);
      break;
    case Op::partial_sum:
      partial_sum(plan, node, p);
      break;
    case Op::mean:
      mean(node, p);
      break;
    case Op::window_attention:
      window_attention(plan, node, step, p);
      break;
    case Op::partial_gram:
      partial_gram(plan, node, p);
      break;
    case Op::channel_softmax:
      channel_softmax(node, p);
      break;
    case Op::mix:
      mix(plan, node, p);
      break;
    case Op::warp:
      warp(plan, node, p);
      break;
    case Op::gate:
      gate(plan, node, p);
      break;
    case Op::combine:
      return combine(plan, node, p);
    case Op::channel_pool:
      channel_pool(plan, node, p);
      break;
    case Op::local_mean:
      local_mean(plan, node, p);
      break;
    case Op::input:
    case Op::state:
    case Op::sigma_plane:
    case Op::conv2d:
    case Op::conv_transpose2d:
      break;
  }
  return false;
}

}  // namespace

void compute_piece(const Plan& plan, size_t n, const Piece& piece) {
  if (!compute(plan, plan.node(n), plan.step(n), piece)) clear_rest(plan.node(n), piece);
}

}  // namespace fr
