#include "engine/cuda_program.h"

#include <cmath>
#include <numeric>

#include "base/buffer.h"
#include "engine/places.h"

namespace fr {

using cuda::ConstImages;
using cuda::Extent;
using cuda::Images;
using cuda::PixelOperand;
using cuda::PixelOperation;
using cuda::Stream;

namespace {

constexpr int64_t kAlignment = 256;  // of a node's image
constexpr int64_t kLargestWindow = 8, kMostHeadChannels = 32;

cuda::DeviceMemory uploaded(const void* data, size_t bytes) {
  cuda::DeviceMemory memory(static_cast<int64_t>(bytes));
  const int64_t size = memory.bytes();
  if (size > 0) cuda::copy(memory.data(), size, data, size, size, 1, nullptr);
  return memory;
}

const float* floats(const cuda::DeviceMemory& memory) {
  return memory.bytes() > 0 ? reinterpret_cast<const float*>(memory.data()) : nullptr;
}

bool is_convolution(const Node& node) { return node.op == Op::conv2d || node.op == Op::conv_transpose2d; }

// What is there before any kernel runs.
bool is_given(const Node& node) { return node.op == Op::input || node.op == Op::state || node.op == Op::sigma_plane; }

// What is computed by kernels that read each input in the type that it has.
bool reads_any_type(const Node& node) {
  return node.op == Op::concat || node.op == Op::add || node.op == Op::multiply || node.op == Op::combine ||
         node.op == Op::gate || node.op == Op::affine || node.op == Op::activate;
}

// Whether a node holds sums and weights, which are float32 whatever the type of the images.
bool holds_sums(const Node& node) {
  return node.op == Op::partial_sum || node.op == Op::partial_gram || node.op == Op::channel_softmax;
}

// What a gated block's 1x1 convolution takes over: the scale and shift of the norm before it, the scale after it.
void fold_neighbours(const Graph& graph, size_t n, std::vector<float>& weight, std::vector<float>& bias) {
  const Node& node = graph.nodes()[n];
  const Node& before = graph.nodes()[static_cast<size_t>(node.inputs[0])];
  const size_t outs = static_cast<size_t>(node.conv.out_channels), ins = weight.size() / outs;
  if (before.op == Op::layer_norm) {
    bias.resize(outs, 0.0f);
    for (size_t out = 0; out < outs; ++out) {
      double shift = bias[out];
      for (size_t in = 0; in < ins; ++in) {
        if (!before.bias.empty()) shift += static_cast<double>(weight[out * ins + in]) * before.bias[in];
        weight[out * ins + in] *= before.weight[in];
      }
      bias[out] = static_cast<float>(shift);
    }
  }
  for (float& value : weight) value *= node.conv.scale;
  for (float& value : bias) value *= node.conv.scale;
}

}  // namespace

cuda::Edge edge_of(Border border) {
  return border == Border::zero      ? cuda::Edge::zero
         : border == Border::reflect ? cuda::Edge::reflect
                                     : cuda::Edge::clamp;
}

CudaProgram::CudaProgram(std::shared_ptr<const Graph> graph, cuda::Type type)
    : graph_(std::move(graph)),
      type_(type),
      types_(cuda_types(*graph_, type)),
      device_(cuda::current_device()),
      ways_(graph_->nodes().size()) {
  check_nodes();
  steps_ = cuda_steps(*graph_, types_, device_);
  last_use_.resize(size());
  std::iota(last_use_.begin(), last_use_.end(), size_t{0});
  for (const CudaStep& step : steps_)
    for (const size_t n : step.nodes) {
      ways_[n] = step.way;
      for (const int input : node(n).inputs) last_use_[static_cast<size_t>(input)] = step.nodes.back();
    }
  for (size_t n = 0; n < size(); ++n)
    if (graph_->is_result(n)) last_use_[n] = size();
  upload_weights();
}

std::string CudaProgram::way_of(const CudaStep& step) const {
  const size_t n = step.nodes.back();
  if (step.way != CudaWay::node) return cuda_way_name(step.way);
  return is_convolution(node(n)) ? cuda::conv_path_name(cuda::choose_conv_path(convolution(n), device_))
                                 : op_name(node(n).op);
}

void CudaProgram::check_nodes() {
  if (device_.capability < cuda::kLeastCapability)
    throw cuda::NoDevice("its compute capability is " + std::to_string(device_.capability / 10) + "." +
                         std::to_string(device_.capability % 10) + ", and these kernels need 8.0");
  grid_ = graph_->multiple_of();
  for (size_t n = 0; n < size(); ++n) {
    const Node& node = this->node(n);
    if (is_convolution(node)) cuda::choose_conv_path(convolution(n), device_);  // throws if there is none
    if (node.op != Op::window_attention) continue;
    const int64_t depth = node.channels / node.heads;
    if (node.window > kLargestWindow || depth > kMostHeadChannels || depth % 2 != 0)
      throw std::invalid_argument(
          "session: on a GPU windows have up to 8 pixels a side and heads an even number of up to 32 channels");
    grid_ = std::lcm(grid_, node.window * node.stride);
  }
}

void CudaProgram::upload_weights() {
  for (size_t n = 0; n < size(); ++n) {
    const Node& node = this->node(n);
    std::vector<float> weight = node.weight, bias = node.bias;
    const bool gated = ways_[n] == CudaWay::gated_front || ways_[n] == CudaWay::gated_back;
    if (gated && node.op == Op::conv2d) fold_neighbours(*graph_, n, weight, bias);
    if (is_convolution(node) && ways_[n] != CudaWay::folded_mix) {
      const std::vector<uint8_t> packed =
          cuda::pack_conv_weights(node.conv, node.op == Op::conv_transpose2d, types_[n], weight.data());
      weights_.push_back(uploaded(packed.data(), packed.size()));
    } else {
      if (node.op == Op::affine) weight.insert(weight.end(), bias.begin(), bias.end());  // one table
      weights_.push_back(uploaded(weight.data(), weight.size() * sizeof(float)));
    }
    biases_.push_back(uploaded(bias.data(), bias.size() * sizeof(float)));
  }
  cuda::wait(nullptr);  // sessions' own streams do not wait for these copies
}

// Everything but where the images lie.
cuda::Convolution CudaProgram::convolution(size_t n) const {
  const Node& node = this->node(n);
  const Node& input = this->node(static_cast<size_t>(node.inputs[0]));
  cuda::Convolution conv;
  conv.spec = node.conv;
  conv.transposed = node.op == Op::conv_transpose2d;
  conv.edge = edge_of(node.border);
  conv.type = types_[n];
  conv.in.channels = input.channels;
  conv.out.channels = node.channels;
  return conv;
}

Extent CudaProgram::extent_of(size_t n, const Layout& layout) const {
  const Node& node = this->node(n);
  return {1, extent(node, Axis::rows, layout.height), extent(node, Axis::columns, layout.width), node.channels};
}

Images CudaProgram::images(size_t n, const Layout& layout, uint8_t* arena) const {
  const Extent size = extent_of(n, layout);
  const int64_t pitch = round_up(size.channels, 8), row = size.width * pitch;
  return {arena + layout.offset[n], size.height * row, row, pitch};
}

// Rows of sums that a partial_sum or a partial_gram makes.
int64_t CudaProgram::sum_rows(size_t n, const Layout& layout) const {
  const Extent sums = extent_of(n, layout);
  if (ways_[n] != CudaWay::gated_front) return sums.height;
  return cuda::gated_front_tiles(extent_of(static_cast<size_t>(node(n).inputs[0]), layout));
}

int64_t CudaProgram::image_bytes(size_t n, const Layout& layout) const {
  const Node& node = this->node(n);
  const Extent size = extent_of(n, layout);
  int64_t bytes = 0;
  if (node.op == Op::mix && ways_[n] == CudaWay::folded_mix) {  // the weights that it becomes part of
    const Node& conv = this->node(last_use_[n]);
    bytes = checked_product(round_up(conv.conv.in_channels, 16), round_up(conv.conv.out_channels, 16),
                            cuda::type_bytes(types_[n]));
  } else if (node.op == Op::partial_sum) {
    bytes = checked_product(sum_rows(n, layout), size.channels, sizeof(float));
  } else {
    const int64_t value = holds_sums(node) ? 4 : cuda::type_bytes(types_[n]);
    bytes = checked_product(size.height, size.width, round_up(size.channels, 8), value);
  }
  return round_up(bytes, kAlignment);
}

// Whether a node's kernel takes an input in another type than the input has.
bool CudaProgram::converts(size_t n, size_t which) const {
  const size_t source = static_cast<size_t>(node(n).inputs[which]);
  return !reads_any_type(node(n)) && !holds_sums(node(n)) && !holds_sums(node(source)) && types_[source] != types_[n];
}

int64_t CudaProgram::scratch_bytes(size_t n, size_t which, const Layout& layout) const {
  const Node& node = this->node(n);
  if (which < node.inputs.size() && which < 2 && converts(n, which)) {
    const Extent size = extent_of(static_cast<size_t>(node.inputs[which]), layout);
    return round_up(checked_product(size.height, size.width, round_up(size.channels, 8), cuda::type_bytes(types_[n])),
                    kAlignment);
  }
  if (node.op != Op::local_mean || which != 1) return 0;
  const Extent size = extent_of(n, layout);
  return round_up(checked_product(size.height, size.width, round_up(size.channels, 8), sizeof(float)), kAlignment);
}

// Input `which` of a node in the node's own type.
ConstImages CudaProgram::input(size_t n, size_t which, const Layout& layout, uint8_t* arena, Stream stream) const {
  const size_t source = static_cast<size_t>(node(n).inputs[which]);
  const Images held = images(source, layout, arena);
  if (!converts(n, which)) return held;
  Images converted = held;
  converted.data = arena + layout.scratch[n][which];
  PixelOperation copy;
  copy.ends = true;
  cuda::pointwise(types_[n], copy, {held, types_[source]}, {}, converted, extent_of(source, layout), stream);
  return converted;
}

CudaProgram::Layout CudaProgram::lay_out(int64_t height, int64_t width) const {
  Layout layout;
  layout.height = height;
  layout.width = width;
  layout.offset.assign(size(), -1);
  layout.scratch.assign(size(), {-1, -1});
  Places places(0);
  const auto take = [&](size_t n, size_t from) {
    layout.offset[n] = places.take(image_bytes(n, layout), from, last_use_[n]);
  };
  for (size_t n = 0; n < size(); ++n)
    if (is_given(node(n))) take(n, 0);
  for (const CudaStep& step : steps_) {
    const size_t end = step.nodes.back(), count = step.nodes.size();
    // What is written before the step's own result: the product whose sums that is, or the folded weights.
    const bool sums = step.way == CudaWay::gated_front && holds_sums(node(end));
    if (sums || step.way == CudaWay::folded_mix) take(step.nodes[count - 2], end);
    for (size_t which = 0; which < 2; ++which)
      if (const int64_t bytes = scratch_bytes(end, which, layout); bytes > 0)
        layout.scratch[end][which] = places.take(bytes, end, end);
    take(end, end);
  }
  layout.bytes = places.end();
  return layout;
}

PixelOperand CudaProgram::operand(size_t n, size_t which, const Layout& layout, uint8_t* arena) const {
  const Node& node = this->node(n);
  PixelOperand result;
  const size_t source = static_cast<size_t>(node.inputs[which]);
  result.x = images(source, layout, arena);
  result.type = types_[source];
  if (which < node.parts.size()) {
    result.first = node.parts[which].first;
    result.one_channel = node.parts[which].count == 1 && node.channels > 1;
  }
  result.one_pixel = node.broadcast == static_cast<int>(which);
  return result;
}

void CudaProgram::fill_sigma(const Layout& layout, uint8_t* arena, float sigma, Stream stream) const {
  PixelOperation operation;
  operation.kind = PixelOperation::fill;
  for (size_t n = 0; n < size(); ++n) {
    if (node(n).op != Op::sigma_plane) continue;
    operation.scale_a = sigma * node(n).sigma_scale;
    cuda::pointwise(types_[n], operation, {}, {}, images(n, layout, arena), extent_of(n, layout), stream);
  }
}

void CudaProgram::launch(const Layout& layout, uint8_t* arena, Stream stream) const {
  for (const CudaStep& step : steps_) switch (step.way) {
      case CudaWay::node:
        compute(step.nodes[0], layout, arena, stream);
        break;
      case CudaWay::gated_front:
        gated_front(step, layout, arena, stream);
        break;
      case CudaWay::gated_back:
        gated_back(step, layout, arena, stream);
        break;
      case CudaWay::folded_mix:
        folded_mix(step, layout, arena, stream);
        break;
    }
}

void CudaProgram::gated_front(const CudaStep& step, const Layout& layout, uint8_t* arena, Stream stream) const {
  const size_t norm = step.nodes[0], expand = step.nodes[1], depthwise = step.nodes[2], gate = step.nodes[3];
  const size_t x = static_cast<size_t>(node(norm).inputs[0]);
  const cuda::GatedFront block{node(norm).epsilon, weights_[expand].data(), weights_[depthwise].data(),
                               floats(biases_[expand]), floats(biases_[depthwise])};
  float* const sums = step.nodes.size() > 4 ? reinterpret_cast<float*>(arena + layout.offset[step.nodes[4]]) : nullptr;
  cuda::gated_front(types_[x], block, images(x, layout, arena), extent_of(x, layout), images(gate, layout, arena), sums,
                    stream);
}

void CudaProgram::gated_back(const CudaStep& step, const Layout& layout, uint8_t* arena, Stream stream) const {
  const size_t scaled = step.nodes[0], project = step.nodes[1], expand = step.nodes[3], contract = step.nodes[5];
  const cuda::GatedBack block{node(step.nodes[2]).epsilon, weights_[project].data(),   weights_[expand].data(),
                              weights_[contract].data(),   floats(biases_[project]),   floats(biases_[expand]),
                              floats(biases_[contract]),   node(scaled).broadcast == 1};
  const auto input = [&](size_t n, size_t which) {
    return ConstImages(images(static_cast<size_t>(node(n).inputs[which]), layout, arena));
  };
  cuda::gated_back(types_[contract], block, input(scaled, 0), input(scaled, 1), input(project, 1),
                   extent_of(contract, layout), images(contract, layout, arena), stream);
}

void CudaProgram::folded_mix(const CudaStep& step, const Layout& layout, uint8_t* arena, Stream stream) const {
  const Node& mix = node(step.nodes[0]);
  const size_t n = step.nodes[1], values = static_cast<size_t>(mix.inputs[1]);
  const ConvSpec& spec = node(n).conv;
  void* const folded = arena + layout.offset[step.nodes[0]];
  cuda::fold_mixture(types_[n],
                     reinterpret_cast<const float*>(arena + layout.offset[static_cast<size_t>(mix.inputs[0])]),
                     spec.in_channels, mix.heads, floats(weights_[n]), spec.out_channels, folded, stream);
  ConstImages x = images(values, layout, arena);
  x.data = static_cast<const uint8_t*>(x.data) + mix.parts[1].first * cuda::type_bytes(types_[n]);
  Extent in = extent_of(values, layout);
  in.channels = spec.in_channels;
  convolve(n, x, in, folded, layout, arena, stream);
}

void CudaProgram::convolve(size_t n, const ConstImages& x, const Extent& in, const void* weight, const Layout& layout,
                           uint8_t* arena, Stream stream) const {
  cuda::Convolution conv = convolution(n);
  conv.in = in;
  conv.out = extent_of(n, layout);
  conv.x = x;
  conv.y = images(n, layout, arena);
  if (conv.spec.residual != Residual::none) conv.residual = input(n, 1, layout, arena, stream);
  conv.weight = weight;
  conv.bias = floats(biases_[n]);
  cuda::convolve(conv, cuda::choose_conv_path(conv, device_), stream);
}

void CudaProgram::concatenate(size_t n, const Layout& layout, uint8_t* arena, Stream stream) const {
  const Node& node = this->node(n);
  const Images y = images(n, layout, arena);
  Extent part = extent_of(n, layout);
  PixelOperation operation;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    part.channels = node.parts[i].count;
    operation.ends = i + 1 == node.inputs.size();
    PixelOperand from = operand(n, i, layout, arena);
    from.one_channel = false;
    cuda::pointwise(types_[n], operation, from, {}, y, part, stream);
    operation.first += part.channels;
  }
}

void CudaProgram::compute(size_t n, const Layout& layout, uint8_t* arena, Stream stream) const {
  const Node& node = this->node(n);
  const Images y = images(n, layout, arena);
  const Extent out = extent_of(n, layout);
  const auto source = [&](size_t which) { return static_cast<size_t>(node.inputs[which]); };
  const auto x = [&](size_t which) { return input(n, which, layout, arena, stream); };
  const auto in = [&](size_t which) { return extent_of(source(which), layout); };
  const auto sums = [&](size_t which) { return reinterpret_cast<float*>(arena + layout.offset[which]); };
  const auto taken = [&](size_t which) { return operand(n, which, layout, arena); };
  const cuda::Type type = types_[n];
  PixelOperation operation;
  switch (node.op) {
    case Op::input:
    case Op::state:
    case Op::sigma_plane:
      return;
    case Op::conv2d:
    case Op::conv_transpose2d:
      return convolve(n, x(0), in(0), weights_[n].data(), layout, arena, stream);
    case Op::pixel_shuffle:
      return cuda::pixel_shuffle(type, x(0), in(0), node.factor, y, stream);
    case Op::pixel_unshuffle:
      return cuda::pixel_unshuffle(type, x(0), in(0), node.factor, y, stream);
    case Op::concat:
      return concatenate(n, layout, arena, stream);
    case Op::add:
      operation.kind = PixelOperation::add;
      operation.scale_a = node.scale_a;
      operation.scale_b = node.scale_b;
      return cuda::pointwise(type, operation, taken(0), taken(1), y, out, stream);
    case Op::multiply:
    case Op::gate:
    case Op::combine:
      operation.kind = node.op == Op::gate      ? PixelOperation::gate
                       : node.op == Op::combine ? PixelOperation::combine
                                                : PixelOperation::multiply;
      operation.curve = node.curve;
      operation.formula = node.formula;
      return cuda::pointwise(type, operation, taken(0), taken(1), y, out, stream);
    case Op::affine:
    case Op::activate:
      operation.kind = node.op == Op::affine ? PixelOperation::affine : PixelOperation::activate;
      operation.curve = node.curve;
      operation.table = floats(weights_[n]);
      return cuda::pointwise(type, operation, taken(0), {}, y, out, stream);
    case Op::pool: {
      const ConvSpec& window = node.conv;
      return cuda::pool(type,
                        {node.pool, window.kernel_h, window.kernel_w, window.stride_h, window.pad_top, window.pad_left,
                         window.dilation_h, window.dilation_w, node.divisor},
                        x(0), in(0), y, out, stream);
    }
    case Op::resize:
      return cuda::resize(type, node.mode, node.enlarge, node.factor, x(0), in(0), y, stream);
    case Op::layer_norm:
      return cuda::layer_norm(type, {floats(weights_[n]), floats(biases_[n]), node.epsilon, node.centred}, x(0), out, y,
                              stream);
    case Op::partial_sum:
      return cuda::row_sums(types_[source(0)], x(0), in(0), node.fold, sums(n), stream);
    case Op::mean: {
      const Extent all = extent_of(static_cast<size_t>(this->node(source(0)).inputs[0]), layout);
      return cuda::mean_of_sums(type, sums(source(0)), all, sum_rows(source(0), layout), y, stream);
    }
    case Op::window_attention: {
      const int64_t depth = node.channels / node.heads;
      const float scale = 1.0f / std::sqrt(static_cast<float>(depth));
      return cuda::window_attention(type, {node.heads, depth, node.window, node.shift, scale, floats(weights_[n])},
                                    x(0), out, y, stream);
    }
    case Op::partial_gram:
      return cuda::row_grams(types_[source(0)], x(0), in(0), node.heads, node.fold, sums(n), stream);
    case Op::channel_softmax: {
      const int64_t each = in(0).channels / node.heads;  // n (n + 2)
      const int64_t channels = std::lround(std::sqrt(static_cast<double>(each + 1))) - 1;
      return cuda::softmax_of_grams(sums(source(0)), in(0).height, node.heads, channels, floats(weights_[n]), sums(n),
                                    stream);
    }
    case Op::mix:
      return cuda::mix_channels(type, sums(source(0)), x(1), node.parts[1].first, node.heads, y, out, stream);
    case Op::warp:
      return cuda::warp(type, x(0), in(0), x(1), y, stream);
    case Op::channel_pool:
      return cuda::channel_pool(type, node.pool, x(0), in(0), y, stream);
    case Op::local_mean:
      return cuda::local_mean(type, node.side, x(0), out, reinterpret_cast<float*>(arena + layout.scratch[n][1]), y,
                              stream);
  }
}

}  // namespace fr
