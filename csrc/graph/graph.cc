#include "graph/graph.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace fr {
namespace {

constexpr int64_t kMaxChannels = 1 << 16;
constexpr int64_t kMaxKernel = 64;
constexpr int64_t kMaxStride = 1 << 10;
// With these bounds even a graph from a hostile file has its halo and layout computed within seconds.
constexpr size_t kMaxNodes = 20'000;
constexpr size_t kMaxInputs = 100'000;  // of all nodes together
constexpr size_t kMostStates = 64;
constexpr int64_t kMaxPairs = int64_t{1} << 26;  // of pixels of a window, in all heads: each has a bias in memory

void require(bool fine, const std::string& message) {
  if (!fine) throw std::invalid_argument(message);
}

std::string pair(int64_t a, int64_t b) { return std::to_string(a) + " and " + std::to_string(b); }

int64_t ceil_div_signed(int64_t a, int64_t b) { return -floor_div(-a, b); }

void check_spec(const ConvSpec& spec, const char* op) {
  const std::string name = op;
  require(spec.in_channels >= 1 && spec.out_channels >= 1 && spec.in_channels <= kMaxChannels &&
              spec.out_channels <= kMaxChannels,
          name + ": channels out of range: " + pair(spec.in_channels, spec.out_channels));
  for (int64_t kernel : {spec.kernel_h, spec.kernel_w})
    require(kernel >= 1 && kernel <= kMaxKernel, name + ": kernel side out of range: " + std::to_string(kernel));
  for (int64_t dilation : {spec.dilation_h, spec.dilation_w})
    require(dilation >= 1 && dilation <= kMaxKernel, name + ": dilation out of range: " + std::to_string(dilation));
  require(spec.stride_h == spec.stride_w && spec.stride_h >= 1 && spec.stride_h <= 16,
          name + ": strides must be equal and within 1 to 16, got " + pair(spec.stride_h, spec.stride_w));
  require(spec.groups >= 1 && spec.in_channels % spec.groups == 0 && spec.out_channels % spec.groups == 0,
          name + ": channels must be multiples of the groups, got " + pair(spec.in_channels, spec.out_channels) +
              " for " + std::to_string(spec.groups));
  for (Axis axis : {Axis::rows, Axis::columns})
    require(
        padding(spec, axis) >= 0 && padding(spec, axis) < kernel_side(spec, axis),
        name + ": padding must be within 0 and the kernel's side less 1, got " + std::to_string(padding(spec, axis)));
}

void check_channels(const Node& node, Channels part, const std::string& op) {
  require(part.first >= 0 && part.count >= 1 && part.count <= node.channels && part.first <= node.channels - part.count,
          op + ": there are no channels " + std::to_string(part.first) + " + " + std::to_string(part.count) + " of " +
              std::to_string(node.channels));
}

bool same_size(const Node& a, const Node& b) { return a.stride == b.stride && a.whole == b.whole && a.fold == b.fold; }

// A node of the same size as another.
Node sized_like(const Node& other, Op op, std::vector<int> inputs) {
  Node node;
  node.op = op;
  node.inputs = std::move(inputs);
  node.channels = other.channels;
  node.stride = other.stride;
  node.whole = other.whole;
  node.fold = other.fold;
  return node;
}

void require_image(const Node& node, const std::string& op) {
  require(!node.whole && node.fold == 0, op + ": takes an image, not the statistics of one");
}

// What output pixel x of a resized image reads.
Interval resize_reads(const Node& node, int64_t x) {
  const int64_t cell = node.enlarge ? floor_div(x, node.factor) : x;
  const ResizeTaps taps =
      resize_taps(node.mode, node.enlarge, node.factor, x - cell * (node.enlarge ? node.factor : 1));
  const int64_t first = cell * (node.enlarge ? 1 : node.factor) + taps.first;
  return {first, first + taps.count};
}

}  // namespace

Interval hull(Interval a, Interval b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

const char* op_name(Op op) {
  switch (op) {
    case Op::input:
      return "input";
    case Op::sigma_plane:
      return "sigma_plane";
    case Op::conv2d:
      return "conv2d";
    case Op::conv_transpose2d:
      return "conv_transpose2d";
    case Op::pixel_shuffle:
      return "pixel_shuffle";
    case Op::pixel_unshuffle:
      return "pixel_unshuffle";
    case Op::concat:
      return "concat";
    case Op::add:
      return "add";
    case Op::multiply:
      return "multiply";
    case Op::affine:
      return "affine";
    case Op::activate:
      return "activate";
    case Op::pool:
      return "pool";
    case Op::resize:
      return "resize";
    case Op::layer_norm:
      return "layer_norm";
    case Op::partial_sum:
      return "partial_sum";
    case Op::mean:
      return "mean";
    case Op::window_attention:
      return "window_attention";
    case Op::partial_gram:
      return "partial_gram";
    case Op::channel_softmax:
      return "channel_softmax";
    case Op::mix:
      return "mix";
    case Op::state:
      return "state";
    case Op::warp:
      return "warp";
    case Op::gate:
      return "gate";
    case Op::combine:
      return "combine";
    case Op::channel_pool:
      return "channel_pool";
    case Op::local_mean:
      return "local_mean";
  }
  return "";
}

Activation parse_activation(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  if (name == "gelu") return Activation::gelu;
  throw std::invalid_argument("unknown activation '" + name + "': use none, relu, leaky_relu or gelu");
}

Border parse_border(const std::string& name) {
  if (name == "zero") return Border::zero;
  if (name == "reflect") return Border::reflect;
  if (name == "clamp") return Border::clamp;
  throw std::invalid_argument("unknown border '" + name + "': use zero, reflect or clamp");
}

const Node& Graph::at(int node) const {
  if (node < 0 || node >= static_cast<int>(nodes_.size()))  // every run asks: no message is made for nothing
    throw std::invalid_argument("graph: there is no node " + std::to_string(node));
  return nodes_[static_cast<size_t>(node)];
}

bool has_poles(const Node& node) {
  if (node.op == Op::combine) return node.formula == Formula::divide;
  if (node.op != Op::activate && node.op != Op::gate) return false;
  switch (node.curve.curve) {
    case Curve::exp:
    case Curve::log:
    case Curve::log1p:
    case Curve::sqrt:
    case Curve::reciprocal:
      return true;
    default:
      return false;
  }
}

bool compares(const Node& node, size_t which) {
  const bool curved = node.op == Op::activate || node.op == Op::gate;
  return (node.op == Op::combine && node.formula == Formula::above) ||
         (curved && which == 0 && node.curve.curve == Curve::above);
}

int64_t extent(const Node& node, Axis axis, int64_t side) {
  if (node.whole || (node.fold > 0 && axis == Axis::columns)) return 1;
  return node.fold > 0 ? ceil_div(side / node.stride, node.fold) : side / node.stride;
}

Interval window_at(const Node& node, int64_t x) {
  const int64_t begin = floor_div(x - node.shift, node.window) * node.window + node.shift;
  return {begin, begin + node.window};
}

Interval mean_window(int64_t side, int64_t x, int64_t size) {
  side = std::min(side, size);
  const int64_t begin = std::clamp<int64_t>(x - (side - 1) / 2, 0, size - side);
  return {begin, begin + side};
}

int Graph::append(Node node) {
  for (int input : node.inputs) at(input);
  require(nodes_.size() < kMaxNodes, "graph: more than " + std::to_string(kMaxNodes) + " nodes");
  const size_t inputs = inputs_ + node.inputs.size();
  require(inputs <= kMaxInputs, "graph: the nodes have more than " + std::to_string(kMaxInputs) + " inputs together");
  require(node.stride * node.window <= kMaxStride, "graph: a window's side exceeds " + std::to_string(kMaxStride));
  const int64_t multiple = std::lcm(multiple_of_, node.stride * node.window);
  require(multiple <= kMaxStride, "graph: the strides have no common multiple up to " + std::to_string(kMaxStride));
  nodes_.push_back(std::move(node));
  inputs_ = inputs;
  multiple_of_ = multiple;
  return static_cast<int>(nodes_.size()) - 1;
}

int Graph::input(int64_t channels, Border border) {
  require(nodes_.empty(), "graph: the input must be the first node, and the only one");
  require(channels >= 1 && channels <= kMaxChannels, "input: channels out of range: " + std::to_string(channels));
  Node node;
  node.op = Op::input;
  node.channels = channels;
  node.border = border;
  return append(std::move(node));
}

int Graph::sigma_plane(int like, float scale) {
  Node node = sized_like(at(like), Op::sigma_plane, {like});
  node.channels = 1;
  node.sigma_scale = scale;
  return append(std::move(node));
}

int Graph::conv2d(int x, ConvSpec spec, std::vector<float> weight, std::vector<float> bias, int residual,
                  Border border) {
  if (border != Border::zero)  // an image keeps one kind of margin: a second kind is for a copy of it
    for (const Node& node : nodes_)
      if (node.op == Op::conv2d && node.inputs[0] == x && node.border != Border::zero && node.border != border) {
        x = concat({x});
        break;
      }
  const Node source = at(x);
  check_spec(spec, "conv2d");
  require(spec.in_channels == source.channels,
          "conv2d: input has and weight wants channels: " + pair(source.channels, spec.in_channels));
  require(static_cast<int64_t>(weight.size()) ==
              checked_product(spec.out_channels, spec.in_channels / spec.groups, spec.kernel_h, spec.kernel_w),
          "conv2d: the weight's size does not match its shape");
  require(bias.empty() || static_cast<int64_t>(bias.size()) == spec.out_channels, "conv2d: one bias per channel");
  if (source.whole || source.fold > 0)
    require(spec.kernel_h == 1 && spec.kernel_w == 1 && spec.stride_h == 1, "conv2d: statistics have no neighbours");
  Node node = sized_like(source, Op::conv2d, {x});
  node.channels = spec.out_channels;
  node.stride = source.stride * spec.stride_h;
  require(node.stride <= kMaxStride, "conv2d: total stride exceeds " + std::to_string(kMaxStride));
  require((residual >= 0) == (spec.residual != Residual::none), "conv2d: residual and its mode do not agree");
  if (residual >= 0) {
    const Node& other = at(residual);
    require(other.channels == node.channels && same_size(other, node),
            "conv2d: the residual has another shape than the result");
    node.inputs.push_back(residual);
  }
  node.conv = spec;
  node.weight = std::move(weight);
  node.bias = std::move(bias);
  node.border = border;
  return append(std::move(node));
}

int Graph::conv_transpose2d(int x, ConvSpec spec, std::vector<float> weight, std::vector<float> bias, int residual) {
  const Node& source = at(x);
  require_image(source, "conv_transpose2d");
  check_spec(spec, "conv_transpose2d");
  require(spec.dilation_h == 1 && spec.dilation_w == 1, "conv_transpose2d: dilation is not supported");
  require(spec.in_channels == source.channels,
          "conv_transpose2d: input has and weight wants channels: " + pair(source.channels, spec.in_channels));
  require(static_cast<int64_t>(weight.size()) ==
              checked_product(spec.in_channels, spec.out_channels / spec.groups, spec.kernel_h, spec.kernel_w),
          "conv_transpose2d: the weight's size does not match its shape");
  require(bias.empty() || static_cast<int64_t>(bias.size()) == spec.out_channels,
          "conv_transpose2d: one bias per channel");
  require(source.stride % spec.stride_h == 0, "conv_transpose2d: would make an image larger than the input");
  Node node;
  node.op = Op::conv_transpose2d;
  node.inputs = {x};
  node.channels = spec.out_channels;
  node.stride = source.stride / spec.stride_h;
  require((residual >= 0) == (spec.residual != Residual::none), "conv_transpose2d: residual and its mode do not agree");
  if (residual >= 0) {
    const Node& other = at(residual);
    require(other.channels == node.channels && same_size(other, node),
            "conv_transpose2d: the residual has another shape than the result");
    node.inputs.push_back(residual);
  }
  node.conv = spec;
  node.weight = std::move(weight);
  node.bias = std::move(bias);
  return append(std::move(node));
}

int Graph::pixel_shuffle(int x, int64_t factor) {
  const Node& source = at(x);
  require_image(source, "pixel_shuffle");
  require(factor >= 1 && factor <= 16 && source.channels % (factor * factor) == 0 && source.stride % factor == 0,
          "pixel_shuffle: factor " + std::to_string(factor) + " fits neither " + std::to_string(source.channels) +
              " channels nor a stride of " + std::to_string(source.stride));
  Node node;
  node.op = Op::pixel_shuffle;
  node.inputs = {x};
  node.channels = source.channels / (factor * factor);
  node.stride = source.stride / factor;
  node.factor = factor;
  return append(std::move(node));
}

int Graph::pixel_unshuffle(int x, int64_t factor) {
  const Node& source = at(x);
  require_image(source, "pixel_unshuffle");
  require(factor >= 1 && factor <= 16 && source.stride * factor <= kMaxStride &&
              source.channels * factor * factor <= kMaxChannels,
          "pixel_unshuffle: factor out of range: " + std::to_string(factor));
  Node node;
  node.op = Op::pixel_unshuffle;
  node.inputs = {x};
  node.channels = source.channels * factor * factor;
  node.stride = source.stride * factor;
  node.factor = factor;
  return append(std::move(node));
}

int Graph::concat(const std::vector<int>& parts) {
  std::vector<Channels> channels;
  for (int part : parts) channels.push_back({0, at(part).channels});
  return concat(parts, channels);
}

int Graph::concat(const std::vector<int>& parts, const std::vector<Channels>& channels) {
  require(!parts.empty() && parts.size() <= kMostInputs && parts.size() == channels.size(),
          "concat: joins 1 to 64 images");
  Node node = sized_like(at(parts[0]), Op::concat, parts);
  node.channels = 0;
  node.parts = channels;
  for (size_t i = 0; i < parts.size(); ++i) {
    require(same_size(at(parts[i]), node), "concat: parts of different sizes");
    check_channels(at(parts[i]), channels[i], "concat");
    node.channels += channels[i].count;
  }
  require(node.channels <= kMaxChannels, "concat: too many channels");
  return append(std::move(node));
}

int Graph::add(int a, int b, float scale_a, float scale_b) {
  require(at(a).channels == at(b).channels && same_size(at(a), at(b)), "add: operands of different shapes");
  Node node = sized_like(at(a), Op::add, {a, b});
  node.scale_a = scale_a;
  node.scale_b = scale_b;
  return append(std::move(node));
}

// A node that takes of each pixel channels of one image and of another; where one has one channel, it serves for all.
Node Graph::of_two(Op op, int a, int b, Channels of_a, Channels of_b) const {
  const std::string name = op_name(op);
  check_channels(at(a), of_a, name);
  check_channels(at(b), of_b, name);
  require((same_size(at(a), at(b)) || at(b).whole) && (of_a.count == of_b.count || of_a.count == 1 || of_b.count == 1),
          name + ": operands of different shapes");
  Node node = sized_like(at(a), op, {a, b});
  if (at(b).whole && !at(a).whole) node.broadcast = 1;
  node.parts = {of_a, of_b};
  node.channels = std::max(of_a.count, of_b.count);
  return node;
}

int Graph::multiply(int a, int b, Channels of_a, Channels of_b) {
  return append(of_two(Op::multiply, a, b, of_a, of_b));
}

int Graph::combine(int a, int b, Channels of_a, Channels of_b, Formula formula) {
  Node node = of_two(Op::combine, a, b, of_a, of_b);
  node.formula = formula;
  return append(std::move(node));
}

int Graph::gate(int a, int b, Channels of_a, Channels of_b, CurveSpec curve) {
  check_channels(at(a), of_a, "gate");
  check_channels(at(b), of_b, "gate");
  require(same_size(at(a), at(b)) && of_a.count == of_b.count, "gate: operands of different shapes");
  require(curve.curve != Curve::prelu, "gate: the curve has slopes");
  Node node = sized_like(at(a), Op::gate, {a, b});
  node.parts = {of_a, of_b};
  node.channels = of_a.count;
  node.curve = curve;
  return append(std::move(node));
}

int Graph::affine(int x, std::vector<float> scale, std::vector<float> shift) {
  Node node = sized_like(at(x), Op::affine, {x});
  require(static_cast<int64_t>(scale.size()) == node.channels && scale.size() == shift.size(),
          "affine: one scale and one shift per channel");
  node.weight = std::move(scale);
  node.bias = std::move(shift);
  return append(std::move(node));
}

int Graph::activate(int x, CurveSpec curve, std::vector<float> slope) {
  Node node = sized_like(at(x), Op::activate, {x});
  require(static_cast<int64_t>(slope.size()) == (curve.curve == Curve::prelu ? node.channels : 0),
          "activate: one slope per channel for prelu, none for the others");
  node.curve = curve;
  node.weight = std::move(slope);
  return append(std::move(node));
}

int Graph::pool(int x, Pool kind, ConvSpec window, int64_t divisor) {
  require_image(at(x), "pool");
  Node node;
  node.op = Op::pool;
  node.inputs = {x};
  node.channels = at(x).channels;
  window.in_channels = window.out_channels = node.channels;
  window.groups = 1;
  check_spec(window, "pool");
  require(divisor >= 0, "pool: negative divisor");
  node.stride = at(x).stride * window.stride_h;
  require(node.stride <= kMaxStride, "pool: total stride exceeds " + std::to_string(kMaxStride));
  node.pool = kind;
  node.conv = window;
  node.divisor = divisor;
  return append(std::move(node));
}

int Graph::channel_pool(int x, Pool kind) {
  Node node = sized_like(at(x), Op::channel_pool, {x});
  node.channels = 1;
  node.pool = kind;
  return append(std::move(node));
}

int Graph::resize(int x, Resize mode, bool enlarge, int64_t factor) {
  const int64_t stride = at(x).stride;
  require_image(at(x), "resize");
  require(factor >= 1 && factor <= kMaxResize, "resize: factor out of range: " + std::to_string(factor));
  require(enlarge ? stride % factor == 0 : stride * factor <= kMaxStride,
          enlarge ? "resize: would make an image larger than the input"
                  : "resize: total stride exceeds " + std::to_string(kMaxStride));
  Node node;
  node.op = Op::resize;
  node.inputs = {x};
  node.channels = at(x).channels;
  node.stride = enlarge ? stride / factor : stride * factor;
  node.mode = mode;
  node.enlarge = enlarge;
  node.factor = factor;
  return append(std::move(node));
}

int Graph::layer_norm(int x, std::vector<float> scale, std::vector<float> shift, float epsilon, bool centred) {
  Node node = sized_like(at(x), Op::layer_norm, {x});
  require(static_cast<int64_t>(scale.size()) == node.channels && scale.size() == shift.size(),
          "layer_norm: one scale and one shift per channel");
  require(epsilon >= 0.0f, "layer_norm: epsilon must not be negative");
  node.weight = std::move(scale);
  node.bias = std::move(shift);
  node.epsilon = epsilon;
  node.centred = centred;
  return append(std::move(node));
}

int Graph::partial_sum(int x) {
  require_image(at(x), "partial_sum");
  Node node = sized_like(at(x), Op::partial_sum, {x});
  node.fold = kFold;
  return append(std::move(node));
}

int Graph::mean(int partial) {
  require(at(partial).op == Op::partial_sum, "mean: takes partial sums");
  Node node = sized_like(at(partial), Op::mean, {partial});
  node.fold = 0;
  node.whole = true;
  return append(std::move(node));
}

int Graph::local_mean(int x, int64_t side) {
  require_image(at(x), "local_mean");
  require(side >= 1 && side <= kMostSide, "local_mean: side out of range: " + std::to_string(side));
  Node node = sized_like(at(x), Op::local_mean, {x});
  node.side = side;
  return append(std::move(node));
}

int Graph::window_attention(int x, int64_t heads, int64_t window, int64_t shift, std::vector<float> bias) {
  require_image(at(x), "window_attention");
  Node node = sized_like(at(x), Op::window_attention, {x});
  require(heads >= 1 && heads <= node.channels && node.channels % (3 * heads) == 0,
          "window_attention: " + std::to_string(node.channels) + " channels are not three for each of " +
              std::to_string(heads) + " heads");
  require(window >= 1 && window <= kMostWindow && shift >= 0 && shift < window,
          "window_attention: window or shift out of range: " + pair(window, shift));
  require(heads * window * window * window * window <= kMaxPairs,
          "window_attention: more pairs of pixels than " + std::to_string(kMaxPairs));
  require(static_cast<int64_t>(bias.size()) == checked_product(heads, 2 * window - 1, 2 * window - 1),
          "window_attention: one bias for each head and distance");
  node.channels /= 3;
  node.heads = heads;
  node.window = window;
  node.shift = shift;
  node.weight = std::move(bias);
  return append(std::move(node));
}

int Graph::partial_gram(int x, int64_t heads) {
  require_image(at(x), "partial_gram");
  Node node = sized_like(at(x), Op::partial_gram, {x});
  require(heads >= 1 && heads <= node.channels && node.channels % (3 * heads) == 0,
          "partial_gram: " + std::to_string(node.channels) + " channels are not three for each of " +
              std::to_string(heads) + " heads");
  const int64_t each = node.channels / (3 * heads);
  node.channels = heads * each * (each + 2);  // by head: the products, then the squares of queries and of keys
  require(node.channels <= kMaxChannels, "partial_gram: too many products");
  node.heads = heads;
  node.fold = kFold;
  return append(std::move(node));
}

int Graph::channel_softmax(int partial, std::vector<float> temperature) {
  const Node& source = at(partial);
  require(source.op == Op::partial_gram, "channel_softmax: takes partial sums of products");
  require(static_cast<int64_t>(temperature.size()) == source.heads, "channel_softmax: one temperature per head");
  Node node = sized_like(source, Op::channel_softmax, {partial});
  const int64_t each = at(source.inputs[0]).channels / (3 * source.heads);
  node.channels = source.heads * each * each;
  node.heads = source.heads;
  node.fold = 0;
  node.whole = true;
  node.weight = std::move(temperature);
  return append(std::move(node));
}

int Graph::mix(int weights, int x, Channels values, int64_t heads) {
  require_image(at(x), "mix");
  check_channels(at(x), values, "mix");
  require(heads >= 1 && heads <= values.count && values.count % heads == 0 && at(weights).whole &&
              at(weights).channels == checked_product(heads, values.count / heads, values.count / heads),
          "mix: the weights do not fit the values");
  Node node = sized_like(at(x), Op::mix, {weights, x});
  node.channels = values.count;
  node.parts = {{0, at(weights).channels}, values};
  node.heads = heads;
  node.broadcast = 0;
  return append(std::move(node));
}

int Graph::warp(int x, int flow) {
  require_image(at(x), "warp");
  require(at(flow).channels == 2 && same_size(at(flow), at(x)),
          "warp: the flow must have the image's size and 2 channels");
  return append(sized_like(at(x), Op::warp, {x, flow}));
}

int Graph::state(int64_t channels, int64_t stride) {
  require(channels >= 1 && channels <= kMaxChannels, "state: channels out of range: " + std::to_string(channels));
  require(stride >= 1 && stride <= kMaxStride, "state: stride out of range: " + std::to_string(stride));
  require(!nodes_.empty() && states_.size() < kMostStates,
          "state: the input comes first, and then up to " + std::to_string(kMostStates) + " states");
  Node node;
  node.op = Op::state;
  node.channels = channels;
  node.stride = stride;
  const int number = append(std::move(node));
  states_.push_back({number, -1});
  return number;
}

void Graph::set_next(int state, int node) {
  require(at(state).op == Op::state, "set_next: node " + std::to_string(state) + " is no state");
  require(at(node).channels == at(state).channels && same_size(at(node), at(state)),
          "set_next: the successor has another shape than the state");
  for (State& known : states_)
    if (known.now == state) known.next = node;
}

bool Graph::is_result(size_t node) const {
  return static_cast<int>(node) == output_ ||
         std::any_of(states_.begin(), states_.end(), [&](State s) { return s.next == static_cast<int>(node); });
}

void Graph::set_output(int node) {
  require(at(node).stride == 1 && at(node).channels == channels() && same_size(at(node), at(0)),
          "graph: the output must have the input's size and channels");
  output_ = node;
}

bool Graph::takes_sigma() const {
  return std::any_of(nodes_.begin(), nodes_.end(), [](const Node& n) { return n.op == Op::sigma_plane; });
}

int64_t Graph::channels() const { return at(0).channels; }

bool Graph::sees_everything() const {
  return std::any_of(nodes_.begin(), nodes_.end(),
                     [](const Node& n) { return n.fold > 0 || n.op == Op::warp || n.op == Op::local_mean; });
}

int64_t Graph::halo() const { return reach_of({output_}); }

int64_t Graph::reach() const {
  std::vector<int> results{output_};
  for (const State& state : states_) results.push_back(state.next);
  return reach_of(results);
}

int64_t Graph::reach_of(const std::vector<int>& results) const {
  require(output_ >= 0, "graph: no output was set");
  if (sees_everything()) return -1;
  // The reach depends on where the pixel stands on the grid of the strides: take the worst of one period.
  const int64_t period = multiple_of();
  int64_t reach = 0;
  for (Axis axis : {Axis::rows, Axis::columns})
    for (int64_t x = 0; x < period; ++x) {
      std::vector<Interval> wanted(nodes_.size());
      for (int result : results)
        wanted[static_cast<size_t>(result)] = {x / at(result).stride, x / at(result).stride + 1};
      for (size_t n = nodes_.size(); n-- > 0;) {
        for (size_t i = 0; i < nodes_[n].inputs.size(); ++i) {
          Interval& input = wanted[static_cast<size_t>(nodes_[n].inputs[i])];
          input = hull(input, needed(nodes_[n], i, wanted[n], axis));
        }
        const int64_t stride = nodes_[n].stride;
        if (nodes_[n].inputs.empty() && !wanted[n].empty())
          reach = std::max({reach, x - wanted[n].begin * stride, wanted[n].end * stride - 1 - x});
      }
    }
  return reach;
}

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

Interval needed(const Node& node, size_t which, Interval output, Axis axis) {
  if (output.empty()) return {};
  if (is_residual(node, which)) return output;
  if (static_cast<int>(which) == node.broadcast) return {0, 1};
  const int64_t side = kernel_side(node.conv, axis), pad = padding(node.conv, axis), stride = node.conv.stride_h;
  switch (node.op) {
    case Op::conv2d:
    case Op::pool:
      return {output.begin * stride - pad, (output.end - 1) * stride - pad + side};
    case Op::conv_transpose2d:  // input i meets output x where k = x - i * stride + pad lies in the kernel
      return {ceil_div_signed(output.begin + pad - (side - 1), stride), floor_div(output.end - 1 + pad, stride) + 1};
    case Op::pixel_shuffle:
      return {floor_div(output.begin, node.factor), ceil_div_signed(output.end, node.factor)};
    case Op::pixel_unshuffle:
      return {output.begin * node.factor, output.end * node.factor};
    case Op::sigma_plane:
      return {};  // takes only the size
    case Op::input:
    case Op::state:
      return {};
    case Op::resize: {  // a pixel in the middle of a cell may reach less far than its neighbours
      Interval reads;
      const int64_t period = node.enlarge ? node.factor : 1;
      for (int64_t i = 0; i < std::min(period, output.size()); ++i)
        reads = hull(hull(reads, resize_reads(node, output.begin + i)), resize_reads(node, output.end - 1 - i));
      return reads;
    }
    case Op::window_attention:
      return hull(window_at(node, output.begin), window_at(node, output.end - 1));
    case Op::partial_sum:
    case Op::partial_gram:
      if (axis == Axis::columns) return {-kEverything, kEverything};
      return {output.begin * node.fold, output.end * node.fold};
    case Op::warp:
      return which == 0 ? Interval{-kEverything, kEverything} : output;
    case Op::local_mean:  // sums go on from the picture's edge
      return {-kEverything, kEverything};
    case Op::mean:
    case Op::channel_softmax:
      return axis == Axis::columns ? Interval{0, 1} : Interval{-kEverything, kEverything};
    case Op::concat:
    case Op::add:
    case Op::multiply:
    case Op::affine:
    case Op::activate:
    case Op::layer_norm:
    case Op::mix:
    case Op::gate:
    case Op::combine:
    case Op::channel_pool:
      return output;
  }
  return output;
}

int64_t border_pixel(Border border, int64_t x, int64_t size) {
  if (border == Border::reflect && size > 1)
    while (x < 0 || x >= size) x = x < 0 ? -x : 2 * (size - 1) - x;
  return std::min(std::max<int64_t>(x, 0), size - 1);
}

Interval read_inside(const Node& node, size_t which, Interval output, Axis axis, int64_t size) {
  const Interval need = needed(node, which, output, axis);
  if (need.empty()) return need;
  Interval inside{std::max<int64_t>(need.begin, 0), std::min(need.end, size)};
  const Border border = node.op == Op::resize ? Border::clamp : is_residual(node, which) ? Border::zero : node.border;
  if (border == Border::zero) return inside;
  // Reading ends where the last output's does, though whole tiles are asked for.
  const int64_t end =
      node.op == Op::conv2d ? std::min(need.end, size + std::max<int64_t>(overhang(node.conv, axis), 0)) : need.end;
  const int64_t begin = node.op == Op::conv2d ? std::max(need.begin, -padding(node.conv, axis)) : need.begin;
  for (int64_t x = begin; x < std::min<int64_t>(end, 0); ++x) {
    const int64_t pixel = border_pixel(border, x, size);
    inside = hull(inside, {pixel, pixel + 1});
  }
  for (int64_t x = std::max(begin, size); x < end; ++x) {
    const int64_t pixel = border_pixel(border, x, size);
    inside = hull(inside, {pixel, pixel + 1});
  }
  return inside;
}

Phase transposed_phase(int64_t kernel, int64_t stride, int64_t padding, int64_t phase) {
  // Output stride * q + phase meets input q + offset with tap k = phase + padding - stride * offset.
  const int64_t first_tap = (phase + padding) % stride;
  if (first_tap >= kernel) return {};
  return {first_tap, (phase + padding - first_tap) / stride, (kernel - 1 - first_tap) / stride + 1};
}

}  // namespace fr
