#include "engine/plan.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "engine/layout.h"

namespace fr {
namespace {

// A pixel of bfloat16 is padded to whole tiles of 32 channels, which is what the matrix units read at a time.
constexpr int64_t kBf16Pitch = 32;
constexpr int64_t kLevelsPitch = 16;    // as int8_depth
constexpr int64_t kTableMultiple = 16;  // floats of the widest vector

// The convolution that makes one phase of a transposed one, with its share of the weights.
PackedConv pack_phase(const Node& node, int64_t phase_y, int64_t phase_x, Isa isa, Element input) {
  const ConvSpec& whole = node.conv;
  const Phase rows = transposed_phase(whole.kernel_h, whole.stride_h, whole.pad_top, phase_y);
  const Phase columns = transposed_phase(whole.kernel_w, whole.stride_w, whole.pad_left, phase_x);
  ConvSpec spec = whole;
  spec.kernel_h = rows.taps;
  spec.kernel_w = columns.taps;
  spec.stride_h = spec.stride_w = 1;
  spec.pad_top = rows.taps - 1 - rows.first_offset;
  spec.pad_left = columns.taps - 1 - columns.first_offset;
  if (rows.taps == 0 || columns.taps == 0 || spec.pad_top < 0 || spec.pad_left < 0)
    throw std::invalid_argument("conv_transpose2d: this kernel, stride and padding leave a phase without taps");
  std::vector<float> weight;
  const int64_t ins = spec.in_channels / spec.groups, outs = spec.out_channels / spec.groups;  // of a group
  weight.reserve(static_cast<size_t>(spec.out_channels * ins * rows.taps * columns.taps));
  for (int64_t out = 0; out < spec.out_channels; ++out)
    for (int64_t in = out / outs * ins; in < (out / outs + 1) * ins; ++in)
      for (int64_t i = 0; i < rows.taps; ++i)
        for (int64_t j = 0; j < columns.taps; ++j) {  // taps run against the input's direction
          const int64_t ky = rows.first_tap + whole.stride_h * (rows.taps - 1 - i);
          const int64_t kx = columns.first_tap + whole.stride_w * (columns.taps - 1 - j);
          weight.push_back(
              node.weight[static_cast<size_t>(((in * outs + out % outs) * whole.kernel_h + ky) * whole.kernel_w + kx)]);
        }
  // Never Winograd: the phases of one image may have different shapes, and all must share one grid of rows.
  const bool bf16 = input == Element::bf16 && includes(isa, Isa::avx512_bf16);
  const ConvAlgorithm algorithm = spec.groups > 1 ? ConvAlgorithm::grouped
                                  : bf16          ? ConvAlgorithm::bf16_direct
                                                  : ConvAlgorithm::direct;
  return pack_conv(spec, algorithm, isa, weight.data(), node.bias.empty() ? nullptr : node.bias.data());
}

bool is_pointwise(Op op) {
  return op == Op::add || op == Op::multiply || op == Op::affine || op == Op::activate || op == Op::layer_norm ||
         op == Op::gate || op == Op::combine;
}

// Values by channel, repeated until whole pixels are whole vectors, so that a row is one run of values.
void append_table(std::vector<float>& table, const std::vector<float>& values, int64_t pitch) {
  const int64_t pixels = std::lcm(pitch, kTableMultiple) / pitch;
  for (int64_t i = 0; i < pixels; ++i) {
    table.insert(table.end(), values.begin(), values.end());
    table.resize(table.size() + static_cast<size_t>(pitch) - values.size());
  }
}

// What a piece of a row operator needs beside its images.
int64_t scratch_floats(const Graph& graph, const Node& node) {
  switch (node.op) {
    case Op::window_attention:
      return window_scratch_floats(node.window, node.channels / node.heads);
    case Op::partial_gram:
      return gram_scratch_floats(graph.nodes()[static_cast<size_t>(node.inputs[0])].channels / (3 * node.heads));
    case Op::channel_softmax:  // sums in double
      return 2 * graph.nodes()[static_cast<size_t>(node.inputs[0])].channels;
    case Op::mean:
      return 2 * node.channels;
    default:
      return 0;
  }
}

// The most input rows or columns that `count` neighbouring outputs read, wherever they begin (attention's begin where a
// window does).
int64_t most_needed(const Node& node, size_t which, int64_t count, Axis axis) {
  if (node.op == Op::window_attention) return round_up(count, node.window);
  int64_t most = 0;
  for (int64_t first = 0; first < node.factor; ++first)
    most = std::max(most, needed(node, which, {first, first + count}, axis).size());
  return most;
}

}  // namespace

Plan::Plan(Graph graph, Precision precision, Isa isa, std::vector<ImageLevels> levels)
    : graph_(std::move(graph)),
      precision_(precision),
      isa_(isa),
      levels_(std::move(levels)),
      steps_(graph_.nodes().size()),
      consumers_(steps_.size()) {
  if (graph_.output() < 0) throw std::invalid_argument("plan: the graph has no output");
  for (const State& state : graph_.states())
    if (state.next < 0) throw std::invalid_argument("plan: a state has no successor");
  if (precision != Precision::int8 && !levels_.empty())
    throw std::invalid_argument("plan: only precision int8 has images of levels");
  check_levels(graph_, levels_);
  if (precision != Precision::float32) choose_elements();
  for (const ImageLevels& image : levels_) {
    steps_[static_cast<size_t>(image.node)].element = Element::u8;
    steps_[static_cast<size_t>(image.node)].levels = image.levels;
  }
  for (size_t n = 0; n < steps_.size(); ++n)
    for (size_t i = 0; i < graph_.nodes()[n].inputs.size(); ++i)
      consumers_[static_cast<size_t>(graph_.nodes()[n].inputs[i])].push_back({n, i});
  grid_ = graph_.multiple_of();
  std::vector<bool> vector_pitch(steps_.size(), false);  // whether a pixel is padded to whole vectors of channels
  for (size_t n = 0; n < steps_.size(); ++n) {
    const Node& node = graph_.nodes()[n];
    Step& step = steps_[n];
    if (node.op == Op::conv2d) {
      const Step& input = steps_[static_cast<size_t>(node.inputs[0])];
      const ConvAlgorithm algorithm = choose_conv_algorithm(node.conv, isa, input.element);
      step.convs.push_back(pack_conv(node.conv, algorithm, isa, node.weight.data(),
                                     node.bias.empty() ? nullptr : node.bias.data(), input.levels));
      if (algorithm == ConvAlgorithm::winograd4 || algorithm == ConvAlgorithm::bf16_winograd4) {
        step.row_grid = 4;
        vector_pitch[static_cast<size_t>(node.inputs[0])] = true;
      }
      vector_pitch[n] = true;
    } else if (node.op == Op::conv_transpose2d) {
      for (int64_t y = 0; y < node.conv.stride_h; ++y)
        for (int64_t x = 0; x < node.conv.stride_w; ++x)
          step.convs.push_back(pack_phase(node, y, x, isa, steps_[static_cast<size_t>(node.inputs[0])].element));
      step.row_grid = node.conv.stride_h;
      vector_pitch[n] = true;
    } else if (node.op == Op::pixel_shuffle) {
      step.row_grid = node.factor;
    } else if (node.op == Op::window_attention) {
      step.row_grid = node.window;
      step.row_shift = (node.window - node.shift) % node.window;
      step.table = attention_bias(node.weight, node.heads, node.window);
    }
    step.scratch = scratch_floats(graph_, node);
    grid_ = std::lcm(grid_, step.row_grid * node.stride);
    for (const PackedConv& conv : step.convs) workspace_floats_ = std::max(workspace_floats_, conv.workspace_floats);
  }
  for (size_t n = steps_.size(); n-- > 0;)  // a row of one pitch throughout is computed as one run
    if (is_pointwise(graph_.nodes()[n].op))
      for (int input : graph_.nodes()[n].inputs)
        if (vector_pitch[n]) vector_pitch[static_cast<size_t>(input)] = true;
  for (size_t n = 0; n < steps_.size(); ++n) {
    const Node& node = graph_.nodes()[n];
    Step& step = steps_[n];
    if (is_pointwise(node.op) && vector_pitch[static_cast<size_t>(node.inputs[0])]) vector_pitch[n] = true;
    step.pitch = vector_pitch[n] || node.channels >= 16 ? round_up(node.channels, 16) : node.channels;
    if (step.element == Element::bf16) step.pitch = round_up(node.channels, kBf16Pitch);
    if (step.element == Element::u8) step.pitch = round_up(node.channels, kLevelsPitch);
    if (node.op == Op::affine || (node.op == Op::activate && !node.weight.empty()))
      append_table(step.table, node.weight, step.pitch);
    if (node.op == Op::affine) append_table(step.table, node.bias, step.pitch);
    if (node.op == Op::resize)
      for (int64_t phase = 0; phase < (node.enlarge ? node.factor : 1); ++phase)
        step.taps.push_back(resize_taps(node.mode, node.enlarge, node.factor, phase));
    if (node.op == Op::conv2d && node.border != Border::zero) {
      Step& input = steps_[static_cast<size_t>(node.inputs[0])];
      input.border = node.border;
      input.margin = std::max({input.margin, node.conv.pad_left, overhang(node.conv, Axis::columns)});
    }
  }
  for (size_t n = 0; n < steps_.size(); ++n) {  // float copies of a piece of the images that a row operator touches
    const Node& node = graph_.nodes()[n];
    int64_t floats = steps_[n].scratch;
    if (needs_scratch(n)) {
      const int64_t columns = std::max(kPieceColumns, steps_[n].row_grid);
      floats += round_up(steps_[n].row_grid * columns * steps_[n].pitch, 16);
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        const Step& input = steps_[static_cast<size_t>(node.inputs[i])];
        if (input.element != Element::f32)
          floats += round_up(most_needed(node, i, steps_[n].row_grid, Axis::rows) *
                                 most_needed(node, i, columns, Axis::columns) * input.pitch,
                             16);
      }
    }
    workspace_floats_ = std::max(workspace_floats_, floats);
  }
  shift_row_grids();
  row_kernels_ = {get_activation(isa),       &get_arithmetic(isa),        get_pool(isa),
                  get_resize(isa),           get_layer_norm(isa),         get_partial_sum(isa),
                  get_window_attention(isa), &get_channel_attention(isa), get_warp(isa),
                  &get_local_mean(isa)};
}

// Every node's lag, when the picture has been read down to a row far from its edges that all grids share.
void Plan::shift_row_grids() {
  const int64_t far = 1000 * grid_;
  std::vector<int64_t> rows(steps_.size(), 0);
  for (size_t n = 0; n < steps_.size(); ++n) {
    const Node& node = graph_.nodes()[n];
    rows[n] = node.op == Op::input || node.op == Op::state ? far / node.stride : rows_possible(*this, n, rows, 2 * far);
    const int64_t lag = std::max<int64_t>(0, extent(node, Axis::rows, far) - rows[n]);
    if (node.op == Op::conv2d) steps_[n].row_shift = lag % steps_[n].row_grid;
  }
}

// bfloat16 is for what convolutions read. The picture, the result and what leads to it without another convolution
// stay float32: the residual of a whole network would lose more than all of its products. So do quotients, roots and
// logarithms, which are taken of what differs by orders of magnitude.
void Plan::choose_elements() {
  const size_t count = steps_.size();
  // A warped image's rows are read where they lie, and shares of pixels add up; rounding would make equal values
  // differ.
  std::vector<bool> pinned(count, false);
  for (const Node& node : graph_.nodes())
    for (size_t i = 0; i < node.inputs.size(); ++i)
      if (node.op == Op::warp || compares(node, i)) pinned[static_cast<size_t>(node.inputs[i])] = true;
  std::vector<bool> leads(count, false);  // to a result without another convolution
  std::vector<bool> keep(count, true);    // float32, unless a consumer that comes later says otherwise
  for (size_t n = count; n-- > 0;) {
    const Node& node = graph_.nodes()[n];
    leads[n] = leads[n] || graph_.is_result(n);
    if (node.op == Op::input || node.op == Op::sigma_plane || node.op == Op::state || leads[n]) keep[n] = true;
    if (node.fold > 0 || node.op == Op::channel_softmax || node.op == Op::warp || has_poles(node) || pinned[n])
      keep[n] = true;
    if (!keep[n]) steps_[n].element = Element::bf16;
    const bool convolution = node.op == Op::conv2d || node.op == Op::conv_transpose2d;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const size_t input = static_cast<size_t>(node.inputs[i]);
      const bool convolved = convolution && i == 0;
      if (convolved || !keep[n]) keep[input] = false;
      if (!convolved && leads[n]) leads[input] = true;
    }
  }
}

bool Plan::needs_scratch(size_t n) const {
  const Node& node = graph_.nodes()[n];
  if (node.op == Op::conv2d || node.op == Op::conv_transpose2d || node.op == Op::local_mean || node.fold > 0)
    return false;
  const Element own = steps_[n].element;
  bool narrow = own != Element::f32, levels = own == Element::u8, alike = true;
  for (int input : node.inputs) {
    const Element element = steps_[static_cast<size_t>(input)].element;
    narrow = narrow || element != Element::f32;
    levels = levels || element == Element::u8;
    alike = alike && element == own;
  }
  if (node.op == Op::concat && alike && !levels) return false;
  const bool reads_bfloat16 = node.op == Op::add || node.op == Op::multiply || node.op == Op::layer_norm;
  return narrow && (levels || !reads_bfloat16);
}

int64_t Plan::packed_bytes() const {
  int64_t bytes = 0;
  for (const Step& step : steps_)
    for (const PackedConv& conv : step.convs) bytes += conv.weights.bytes() + conv.bias.bytes();
  return bytes;
}

}  // namespace fr
