#include "engine/cuda_session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/buffer.h"

namespace fr {

using cuda::ConstImages;
using cuda::Extent;
using cuda::Images;
using cuda::PixelOperand;
using cuda::PixelOperation;

namespace {

constexpr cuda::Stream kStream = nullptr;
constexpr int64_t kAlignment = 256;  // of a node's image
constexpr int64_t kLargestWindow = 8, kMostHeadChannels = 32;

cuda::Edge edge_of(Border border) {
  return border == Border::zero      ? cuda::Edge::zero
         : border == Border::reflect ? cuda::Edge::reflect
                                     : cuda::Edge::clamp;
}

ConstImages constant(const Images& images) {
  return {images.data, images.image_pitch, images.row_pitch, images.pixel_pitch};
}

cuda::DeviceMemory uploaded(const void* data, size_t bytes) {
  cuda::DeviceMemory memory(static_cast<int64_t>(bytes));
  const int64_t size = memory.bytes();
  if (size > 0) cuda::copy_to_device(memory.data(), size, data, size, size, 1, kStream);
  return memory;
}

const float* floats(const cuda::DeviceMemory& memory) { return reinterpret_cast<const float*>(memory.data()); }

bool is_convolution(const Node& node) { return node.op == Op::conv2d || node.op == Op::conv_transpose2d; }

// Whether a node holds sums and weights, which are float32 whatever the type of the images.
bool holds_sums(const Node& node) {
  return node.op == Op::partial_sum || node.op == Op::partial_gram || node.op == Op::channel_softmax;
}

}  // namespace

CudaSession::CudaSession(std::shared_ptr<const Graph> graph, cuda::Type type, int64_t memory)
    : graph_(std::move(graph)), type_(type), memory_(memory) {
  if (memory < 0) throw std::invalid_argument("session: memory must not be negative");
  check_nodes();
  const size_t count = graph_->nodes().size();
  last_use_.resize(count);
  std::iota(last_use_.begin(), last_use_.end(), size_t{0});
  for (size_t n = 0; n < count; ++n)
    for (const int input : node(n).inputs) last_use_[static_cast<size_t>(input)] = n;
  last_use_[static_cast<size_t>(graph_->output())] = count;
  upload_weights();
  non_finite_ = cuda::DeviceMemory(sizeof(unsigned long long));
}

void CudaSession::check_nodes() {
  const cuda::Device device = cuda::current_device();
  grid_ = graph_->multiple_of();
  for (size_t n = 0; n < graph_->nodes().size(); ++n) {
    const Node& node = this->node(n);
    if (node.op == Op::state || node.op == Op::warp)
      throw std::invalid_argument(std::string("session: no GPU kernel computes ") + op_name(node.op));
    if (node.op == Op::window_attention) {
      const int64_t depth = node.channels / node.heads;
      if (node.window > kLargestWindow || depth > kMostHeadChannels || depth % 2 != 0)
        throw std::invalid_argument(
            "session: on a GPU windows have up to 8 pixels a side and heads an even number of up to 32 channels");
      grid_ = std::lcm(grid_, node.window * node.stride);
    }
    ++ways_[is_convolution(node) ? cuda::conv_path_name(cuda::choose_conv_path(convolution(n), device))
                                 : op_name(node.op)];
  }
}

void CudaSession::upload_weights() {
  for (size_t n = 0; n < graph_->nodes().size(); ++n) {
    const Node& node = this->node(n);
    if (is_convolution(node)) {
      const std::vector<uint8_t> packed =
          cuda::pack_conv_weights(node.conv, node.op == Op::conv_transpose2d, type_, node.weight.data());
      weights_.push_back(uploaded(packed.data(), packed.size()));
    } else if (node.op == Op::affine) {  // one table: scales, then shifts
      std::vector<float> table = node.weight;
      table.insert(table.end(), node.bias.begin(), node.bias.end());
      weights_.push_back(uploaded(table.data(), table.size() * sizeof(float)));
    } else {
      weights_.push_back(uploaded(node.weight.data(), node.weight.size() * sizeof(float)));
    }
    biases_.push_back(uploaded(node.bias.data(), node.bias.size() * sizeof(float)));
  }
}

// Everything but where the images lie.
cuda::Convolution CudaSession::convolution(size_t n) const {
  const Node& node = this->node(n);
  const Node& input = this->node(static_cast<size_t>(node.inputs[0]));
  cuda::Convolution conv;
  conv.spec = node.conv;
  conv.transposed = node.op == Op::conv_transpose2d;
  conv.edge = edge_of(node.border);
  conv.type = type_;
  conv.in.channels = input.channels;
  conv.out.channels = node.channels;
  return conv;
}

Extent CudaSession::extent_of(size_t n, const Layout& layout) const {
  const Node& node = this->node(n);
  return {1, extent(node, Axis::rows, layout.height), extent(node, Axis::columns, layout.width), node.channels};
}

Images CudaSession::images(size_t n, const Layout& layout) {
  const Extent size = extent_of(n, layout);
  const int64_t pitch = round_up(size.channels, 8), row = size.width * pitch;
  return {arena_.data() + layout.offset[n], size.height * row, row, pitch};
}

// Each node's image lies as low as those that are in use at the same time let it.
CudaSession::Layout CudaSession::lay_out(int64_t height, int64_t width) const {
  struct Block {
    int64_t begin, end;
    size_t last_use;
  };
  Layout layout;
  layout.height = height;
  layout.width = width;
  std::vector<Block> used;  // in order of begin
  for (size_t n = 0; n < graph_->nodes().size(); ++n) {
    used.erase(std::remove_if(used.begin(), used.end(), [&](const Block& block) { return block.last_use < n; }),
               used.end());
    const Extent size = extent_of(n, layout);
    const int64_t value = holds_sums(node(n)) ? 4 : cuda::type_bytes(type_);
    const int64_t bytes =
        round_up(checked_product(size.height, size.width, round_up(size.channels, 8), value), kAlignment);
    int64_t begin = 0;
    auto place = used.begin();
    for (; place != used.end() && begin + bytes > place->begin; ++place) begin = std::max(begin, place->end);
    used.insert(place, {begin, begin + bytes, last_use_[n]});
    layout.offset.push_back(begin);
    layout.bytes = std::max(layout.bytes, begin + bytes);
  }
  return layout;
}

int64_t CudaSession::Tiling::tiles() const { return ceil_div(height, core_height) * ceil_div(width, core_width); }

CudaSession::Region CudaSession::region(const Tiling& tiling, int64_t index) const {
  const int64_t across = ceil_div(tiling.width, tiling.core_width);
  const auto cut = [&](int64_t which, int64_t core, int64_t side, Interval& read, Interval& written) {
    written = {which * core, std::min(side, (which + 1) * core)};
    read = {std::max<int64_t>(0, (written.begin - tiling.halo) / grid_ * grid_),
            std::min(side, round_up(written.end + tiling.halo, grid_))};
  };
  Region result;
  cut(index / across, tiling.core_height, tiling.height, result.rows, result.core_rows);
  cut(index % across, tiling.core_width, tiling.width, result.columns, result.core_columns);
  return result;
}

CudaSession::Tiling CudaSession::tile(int64_t height, int64_t width) const {
  const Graph& graph = *graph_;
  Tiling tiling;
  tiling.height = round_up(height, graph.multiple_of());
  tiling.width = round_up(width, graph.multiple_of());
  tiling.core_height = tiling.height;
  tiling.core_width = tiling.width;
  tiling.bytes = lay_out(tiling.height, tiling.width).bytes;
  if (tiling.bytes <= memory_) return tiling;
  if (graph.sees_everything()) throw MemoryBudgetExceeded(memory_, tiling.bytes);
  tiling.halo = graph.halo();
  while (tiling.bytes > memory_) {
    int64_t& side = tiling.core_height >= tiling.core_width ? tiling.core_height : tiling.core_width;
    if (side <= grid_) throw MemoryBudgetExceeded(memory_, tiling.bytes);
    side = round_up(side / 2, grid_);
    // The largest region has a halo at both ends.
    const auto reach = [&](int64_t core, int64_t all) {
      return std::min(all, core + 2 * round_up(tiling.halo, grid_));
    };
    tiling.bytes = lay_out(reach(tiling.core_height, tiling.height), reach(tiling.core_width, tiling.width)).bytes;
  }
  return tiling;
}

RunReport CudaSession::preview(int64_t height, int64_t width) const {
  check_picture_size(height, width);
  const Tiling tiling = tile(height, width);
  return {0, tiling.tiles(), tiling.core_height, tiling.bytes, {}};
}

PixelOperand CudaSession::operand(size_t n, size_t which, const Layout& layout) {
  const Node& node = this->node(n);
  PixelOperand result;
  result.x = constant(images(static_cast<size_t>(node.inputs[which]), layout));
  if (which < node.parts.size()) {
    result.first = node.parts[which].first;
    result.one_channel = node.parts[which].count == 1 && node.channels > 1;
  }
  result.one_pixel = node.broadcast == static_cast<int>(which);
  return result;
}

void CudaSession::convolve(size_t n, const Layout& layout) {
  const Node& node = this->node(n);
  cuda::Convolution conv = convolution(n);
  const size_t input = static_cast<size_t>(node.inputs[0]);
  conv.in = extent_of(input, layout);
  conv.out = extent_of(n, layout);
  conv.x = constant(images(input, layout));
  conv.y = images(n, layout);
  if (node.conv.residual != Residual::none)
    conv.residual = constant(images(static_cast<size_t>(node.inputs.back()), layout));
  conv.weight = weights_[n].data();
  conv.bias = biases_[n].bytes() > 0 ? floats(biases_[n]) : nullptr;
  cuda::convolve(conv, cuda::choose_conv_path(conv, cuda::current_device()), kStream);
}

void CudaSession::compute(size_t n, const Layout& layout, const RunOptions& options) {
  const Node& node = this->node(n);
  const Images y = images(n, layout);
  const Extent out = extent_of(n, layout);
  const auto source = [&](size_t which) { return static_cast<size_t>(node.inputs[which]); };
  const auto x = [&](size_t which) { return constant(images(source(which), layout)); };
  const auto in = [&](size_t which) { return extent_of(source(which), layout); };
  const auto sums = [&](size_t which) { return reinterpret_cast<float*>(arena_.data() + layout.offset[which]); };
  PixelOperation operation;
  switch (node.op) {
    case Op::input:  // gathered by run
    case Op::state:  // refused by check_nodes
    case Op::warp:
      return;
    case Op::conv2d:
    case Op::conv_transpose2d:
      return convolve(n, layout);
    case Op::pixel_shuffle:
      return cuda::pixel_shuffle(type_, x(0), in(0), node.factor, y, kStream);
    case Op::pixel_unshuffle:
      return cuda::pixel_unshuffle(type_, x(0), in(0), node.factor, y, kStream);
    case Op::sigma_plane:
      operation.kind = PixelOperation::fill;
      operation.scale_a = options.sigma.value_or(0.0f) * node.sigma_scale;
      return cuda::pointwise(type_, operation, {}, {}, y, out, kStream);
    case Op::concat: {
      if (out.channels % 8 != 0) {  // the padding channels
        Extent all = out;
        all.channels = round_up(out.channels, 8);
        operation.kind = PixelOperation::fill;
        operation.scale_a = 0.0f;
        cuda::pointwise(type_, operation, {}, {}, y, all, kStream);
      }
      operation.kind = PixelOperation::copy;
      for (size_t i = 0; i < node.inputs.size(); ++i) {
        Extent part = out;
        part.channels = node.parts[i].count;
        PixelOperand from = operand(n, i, layout);
        from.one_channel = false;
        cuda::pointwise(type_, operation, from, {}, y, part, kStream);
        operation.first += part.channels;
      }
      return;
    }
    case Op::add:
      operation.kind = PixelOperation::add;
      operation.scale_a = node.scale_a;
      operation.scale_b = node.scale_b;
      return cuda::pointwise(type_, operation, operand(n, 0, layout), operand(n, 1, layout), y, out, kStream);
    case Op::multiply:
    case Op::gate:
      operation.kind = node.op == Op::gate ? PixelOperation::gate : PixelOperation::multiply;
      operation.curve = node.curve;
      return cuda::pointwise(type_, operation, operand(n, 0, layout), operand(n, 1, layout), y, out, kStream);
    case Op::affine:
    case Op::activate:
      operation.kind = node.op == Op::affine ? PixelOperation::affine : PixelOperation::activate;
      operation.curve = node.curve;
      operation.table = weights_[n].bytes() > 0 ? floats(weights_[n]) : nullptr;
      return cuda::pointwise(type_, operation, operand(n, 0, layout), {}, y, out, kStream);
    case Op::pool: {
      const ConvSpec& window = node.conv;
      return cuda::pool(type_,
                        {node.pool, window.kernel_h, window.kernel_w, window.stride_h, window.pad_top, window.pad_left,
                         window.dilation_h, window.dilation_w, node.divisor},
                        x(0), in(0), y, out, kStream);
    }
    case Op::resize:
      return cuda::resize(type_, node.mode, node.enlarge, node.factor, x(0), in(0), y, kStream);
    case Op::layer_norm:
      return cuda::layer_norm(
          type_,
          {floats(weights_[n]), biases_[n].bytes() > 0 ? floats(biases_[n]) : nullptr, node.epsilon, node.centred},
          x(0), out, y, kStream);
    case Op::partial_sum:
      return cuda::row_sums(type_, x(0), in(0), node.fold, sums(n), kStream);
    case Op::mean: {
      const Node& partial = this->node(source(0));
      const Extent all = extent_of(static_cast<size_t>(partial.inputs[0]), layout);
      return cuda::mean_of_sums(type_, sums(source(0)), all, partial.fold, y, kStream);
    }
    case Op::window_attention: {
      const int64_t depth = node.channels / node.heads;
      const float scale = 1.0f / std::sqrt(static_cast<float>(depth));
      return cuda::window_attention(type_, {node.heads, depth, node.window, node.shift, scale, floats(weights_[n])},
                                    x(0), out, y, kStream);
    }
    case Op::partial_gram:
      return cuda::row_grams(type_, x(0), in(0), node.heads, node.fold, sums(n), kStream);
    case Op::channel_softmax: {
      const int64_t each = in(0).channels / node.heads;  // n (n + 2)
      const int64_t channels = std::lround(std::sqrt(static_cast<double>(each + 1))) - 1;
      return cuda::softmax_of_grams(sums(source(0)), in(0).height, node.heads, channels, floats(weights_[n]), sums(n),
                                    kStream);
    }
    case Op::mix:
      return cuda::mix_channels(type_, sums(source(0)), x(1), node.parts[1].first, node.heads, y, out, kStream);
  }
}

RunReport CudaSession::run(const Picture& picture, const RunOptions& options) {
  check_run(*graph_, picture, options);
  std::lock_guard<std::mutex> lock(running_);
  const Tiling tiling = tile(picture.height, picture.width);
  if (tiling.bytes > arena_.bytes()) {
    arena_ = cuda::DeviceMemory();
    arena_ = cuda::DeviceMemory(tiling.bytes);
  }
  const int64_t row_bytes = picture.width * picture.channels * pixel_bytes(picture.type);
  const int64_t picture_bytes = checked_product(picture.height, row_bytes);
  if (picture_bytes > picture_in_.bytes()) {
    picture_in_ = cuda::DeviceMemory();
    picture_out_ = cuda::DeviceMemory();
    picture_in_ = cuda::DeviceMemory(picture_bytes);
    picture_out_ = cuda::DeviceMemory(picture_bytes);
  }
  const cuda::PictureRows rows{picture.type, picture.height, picture.width, picture.channels, row_bytes};
  auto* const counter = reinterpret_cast<unsigned long long*>(non_finite_.data());
  cuda::copy_to_device(picture_in_.data(), row_bytes, picture.in, picture.in_row_bytes, row_bytes, picture.height,
                       kStream);
  cuda::clear(counter, sizeof *counter, kStream);

  const size_t output = static_cast<size_t>(graph_->output());
  Layout layout;
  for (int64_t index = 0; index < tiling.tiles(); ++index) {
    const Region region = this->region(tiling, index);
    const Interval kept_rows = {region.core_rows.begin, std::min(region.core_rows.end, picture.height)};
    const Interval kept_columns = {region.core_columns.begin, std::min(region.core_columns.end, picture.width)};
    if (layout.height != region.rows.size() || layout.width != region.columns.size())
      layout = lay_out(region.rows.size(), region.columns.size());
    cuda::gather_tile(rows, picture_in_.data(), region.rows.begin, region.columns.begin, edge_of(node(0).border), type_,
                      extent_of(0, layout), images(0, layout), kStream);
    for (size_t n = 0; n < graph_->nodes().size(); ++n) compute(n, layout, options);
    if (!kept_rows.empty() && !kept_columns.empty()) {
      ConstImages core = constant(images(output, layout));
      const int64_t first = (kept_rows.begin - region.rows.begin) * core.row_pitch +
                            (kept_columns.begin - region.columns.begin) * core.pixel_pitch;
      core.data = static_cast<const uint8_t*>(core.data) + first * cuda::type_bytes(type_);
      const Extent kept{1, kept_rows.size(), kept_columns.size(), node(output).channels};
      cuda::store_tile(type_, core, kept, rows, picture_in_.data(), picture_out_.data(), kept_rows.begin,
                       kept_columns.begin, options.strength, options.clip, counter, kStream);
    }
    const double done = static_cast<double>(index + 1) / static_cast<double>(tiling.tiles());
    if (options.progress && !options.progress(done)) {
      cuda::wait(kStream);
      throw Cancelled();
    }
  }
  unsigned long long non_finite = 0;
  cuda::copy_to_host(&non_finite, sizeof non_finite, counter, sizeof non_finite, sizeof non_finite, 1, kStream);
  cuda::copy_to_host(picture.out, picture.out_row_bytes, picture_out_.data(), row_bytes, row_bytes, picture.height,
                     kStream);
  cuda::wait(kStream);
  return {static_cast<int64_t>(non_finite), tiling.tiles(), tiling.core_height, tiling.bytes, {}};
}

}  // namespace fr
