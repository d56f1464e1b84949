#include "graph/graph_json.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/safetensors.h"

namespace fr {
namespace {

void require(bool fine, const std::string& message) {
  if (!fine) throw std::invalid_argument(message);
}

// An enumeration by the names of its values.
template <class Enum>
using Names = std::vector<std::pair<const char*, Enum>>;

const Names<Activation> kActivations = {{"none", Activation::none},
                                        {"relu", Activation::relu},
                                        {"leaky_relu", Activation::leaky_relu},
                                        {"gelu", Activation::gelu}};
const Names<Residual> kResiduals = {{"none", Residual::none},
                                    {"before_activation", Residual::before_activation},
                                    {"after_scale", Residual::after_scale}};

const Names<Border> kBorders = {{"zero", Border::zero}, {"reflect", Border::reflect}, {"clamp", Border::clamp}};
const Names<Pool> kPools = {{"max", Pool::max}, {"average", Pool::average}};

template <class Enum>
Names<Enum> names_of(int count, const char* (*name)(Enum)) {
  Names<Enum> names;
  for (int i = 0; i < count; ++i) names.push_back({name(static_cast<Enum>(i)), static_cast<Enum>(i)});
  return names;
}
const Names<Curve> kCurveNames = names_of<Curve>(kCurves, curve_name);
const Names<Formula> kFormulaNames = names_of<Formula>(kFormulas, formula_name);
const Names<Resize> kResizeNames = names_of<Resize>(kResizes, resize_name);

// Writer and Reader have the same members, so that one list of a node's attributes serves both.
class Writer {
 public:
  static constexpr bool kReading = false;
  Writer(size_t node, json::Object& members, std::vector<NamedTensor>& tensors)
      : node_(node), members_(members), tensors_(tensors) {}
  void integer(const char* name, int64_t value) { members_.push_back({name, value}); }
  void number(const char* name, float value) { members_.push_back({name, static_cast<double>(value)}); }
  void limit(const char* name, float value) {  // may be infinite, which JSON has no number for
    if (std::isinf(value)) return members_.push_back({name, value > 0 ? "inf" : "-inf"});
    number(name, value);
  }
  void flag(const char* name, bool value) { integer(name, value ? 1 : 0); }
  void parts(const char* name, const std::vector<Channels>& values) {
    json::Array flat;
    for (const Channels& part : values) {
      flat.push_back(part.first);
      flat.push_back(part.count);
    }
    members_.push_back({name, std::move(flat)});
  }
  template <class Enum>
  void choice(const char* name, Enum value, const Names<Enum>& names) {
    for (const auto& [word, meant] : names)
      if (meant == value) return members_.push_back({name, word});
    throw std::logic_error(std::string(name) + ": a value without a name");
  }
  void tensor(const char* name, const std::vector<float>& values, const std::vector<int64_t>& shape) {
    if (values.empty()) return members_.push_back({name, json::Value()});
    const std::string key = std::to_string(node_) + "." + name;
    tensors_.push_back({key, shape, reinterpret_cast<const char*>(values.data()), static_cast<int64_t>(values.size())});
    members_.push_back({name, key});
  }
  void vector(const char* name, const std::vector<float>& values) {  // a tensor of one dimension, or none
    tensor(name, values, {static_cast<int64_t>(values.size())});
  }

 private:
  size_t node_;
  json::Object& members_;
  std::vector<NamedTensor>& tensors_;
};

using TensorTable = std::map<std::string_view, const NamedTensor*>;

class Reader {
 public:
  static constexpr bool kReading = true;
  Reader(const json::Value& node, TensorTable& unused) : node_(node), unused_(unused) {}
  void integer(const char* name, int64_t& value) { value = get<int64_t>(name, "an integer"); }
  void number(const char* name, float& value) {
    const json::Value& given = at(name);
    const double* real = given.get<double>();
    const int64_t* whole = given.get<int64_t>();
    require(real != nullptr || whole != nullptr, std::string(name) + " must be a number");
    const double number = real != nullptr ? *real : static_cast<double>(*whole);
    require(std::fabs(number) <= std::numeric_limits<float>::max(), std::string(name) + " is beyond float32");
    value = static_cast<float>(number);
  }
  void limit(const char* name, float& value) {
    const std::string* word = value_of(name).get<std::string>();
    if (word == nullptr) return number(name, value);
    require(*word == "inf" || *word == "-inf", std::string(name) + " must be a number, inf or -inf");
    ++asked_;
    value = *word == "inf" ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
  }
  void flag(const char* name, bool& value) {
    int64_t number = 0;
    integer(name, number);
    require(number == 0 || number == 1, std::string(name) + " must be 0 or 1");
    value = number == 1;
  }
  // [first, count, first, count, ...]
  void parts(const char* name, std::vector<Channels>& values) {
    const json::Array& flat = get<json::Array>(name, "an array");
    require(flat.size() % 2 == 0 && flat.size() <= 2 * kMostInputs, std::string(name) + " must hold pairs");
    for (size_t i = 0; i < flat.size(); i += 2) {
      const int64_t *first = flat[i].get<int64_t>(), *count = flat[i + 1].get<int64_t>();
      require(first != nullptr && count != nullptr, std::string(name) + " must hold integers");
      values.push_back({*first, *count});
    }
  }
  template <class Enum>
  void choice(const char* name, Enum& value, const Names<Enum>& names) {
    const std::string& given = get<std::string>(name, "a string");
    for (const auto& [word, meant] : names)
      if (word == given) {
        value = meant;
        return;
      }
    throw std::invalid_argument(std::string(name) + " " + quoted(given) + " is unknown");
  }
  // Null: no values. Each tensor serves once, so that a short file cannot ask for much memory.
  void tensor(const char* name, std::vector<float>& values, std::vector<int64_t>& shape) {
    const json::Value& given = at(name);
    if (given.is_null()) return;
    const std::string* key = given.get<std::string>();
    require(key != nullptr, std::string(name) + " must be a tensor's name or null");
    const auto found = unused_.find(*key);
    require(found != unused_.end(), "tensor " + quoted(*key) + " is missing or used twice");
    const NamedTensor& tensor = *found->second;
    unused_.erase(found);
    values.resize(static_cast<size_t>(tensor.count));
    std::memcpy(values.data(), tensor.bytes, values.size() * sizeof(float));
    bool finite = true;
    for (float value : values) finite &= std::fabs(value) <= std::numeric_limits<float>::max();
    require(finite, "tensor " + quoted(*key) + " holds numbers that are not finite");
    shape = tensor.shape;
  }
  void vector(const char* name, std::vector<float>& values) {
    std::vector<int64_t> shape{0};
    tensor(name, values, shape);
    require(shape.size() == 1, std::string(name) + " must have 1 dimension");
  }

  template <class T>
  const T& get(const char* name, const char* kind) {
    const T* value = at(name).get<T>();
    require(value != nullptr, std::string(name) + " must be " + kind);
    return *value;
  }
  // Throws if the node has attributes that nobody asked for.
  void finish() const { require(asked_ == node_.get<json::Object>()->size(), "it has attributes that are unknown"); }

 private:
  const json::Value& value_of(const char* name) const {
    const json::Value* value = node_.find(name);
    require(value != nullptr, std::string(name) + " is missing");
    return *value;
  }
  const json::Value& at(const char* name) {
    ++asked_;
    return value_of(name);
  }

  const json::Value& node_;
  TensorTable& unused_;
  size_t asked_ = 0;
};

// One operator's format: how many inputs it has, its attributes, and the method of Graph that adds it.
struct OpFormat {
  // attributes(f, node) names each attribute once; it is called with a Writer and a const Node to write, with a
  // Reader to read.
  template <class Attributes>
  OpFormat(Op op, size_t fewest_inputs, size_t most_inputs, Attributes attributes, int (*build)(Graph&, Node&))
      : op(op),
        fewest_inputs(fewest_inputs),
        most_inputs(most_inputs),
        write(attributes),
        read(attributes),
        build(build) {}

  Op op;
  size_t fewest_inputs, most_inputs;
  void (*write)(Writer&, const Node&);
  void (*read)(Reader&, Node&);
  int (*build)(Graph&, Node&);
};

// Channels and kernel of a convolution are those of its weight's shape and stand nowhere else.
constexpr auto conv_attributes = [](auto& f, auto& node) {
  auto& spec = node.conv;
  const bool transposed = node.op == Op::conv_transpose2d;
  f.integer("stride_h", spec.stride_h);
  f.integer("stride_w", spec.stride_w);
  f.integer("pad_top", spec.pad_top);
  f.integer("pad_left", spec.pad_left);
  f.integer("dilation_h", spec.dilation_h);
  f.integer("dilation_w", spec.dilation_w);
  f.integer("groups", spec.groups);
  f.choice("activation", spec.activation, kActivations);
  f.number("slope", spec.slope);
  f.number("scale", spec.scale);
  f.choice("residual", spec.residual, kResiduals);
  std::vector<int64_t> weight;  // its shape
  constexpr bool kReading = std::decay_t<decltype(f)>::kReading;
  if constexpr (!kReading) {
    weight = {spec.out_channels, spec.in_channels / spec.groups, spec.kernel_h, spec.kernel_w};
    if (transposed) weight = {spec.in_channels, spec.out_channels / spec.groups, spec.kernel_h, spec.kernel_w};
  }
  f.tensor("weight", node.weight, weight);
  f.vector("bias", node.bias);
  if constexpr (kReading) {
    require(weight.size() == 4, "a weight must have 4 dimensions");
    spec.out_channels = transposed ? checked_product(weight[1], spec.groups) : weight[0];
    spec.in_channels = transposed ? weight[0] : checked_product(weight[1], spec.groups);
    spec.kernel_h = weight[2];
    spec.kernel_w = weight[3];
  }
};

constexpr auto conv2d_attributes = [](auto& f, auto& node) {
  conv_attributes(f, node);
  f.choice("border", node.border, kBorders);
};

constexpr auto affine_attributes = [](auto& f, auto& node) {
  f.vector("scale", node.weight);
  f.vector("shift", node.bias);
};

constexpr auto curve_attributes = [](auto& f, auto& node) {
  f.choice("curve", node.curve.curve, kCurveNames);
  f.limit("a", node.curve.a);
  f.limit("b", node.curve.b);
  f.limit("c", node.curve.c);
};

constexpr auto activate_attributes = [](auto& f, auto& node) {
  curve_attributes(f, node);
  f.vector("slope", node.weight);
};

constexpr auto pool_attributes = [](auto& f, auto& node) {
  auto& spec = node.conv;
  f.choice("kind", node.pool, kPools);
  f.integer("kernel_h", spec.kernel_h);
  f.integer("kernel_w", spec.kernel_w);
  f.integer("stride_h", spec.stride_h);
  f.integer("stride_w", spec.stride_w);
  f.integer("pad_top", spec.pad_top);
  f.integer("pad_left", spec.pad_left);
  f.integer("dilation_h", spec.dilation_h);
  f.integer("dilation_w", spec.dilation_w);
  f.integer("divisor", node.divisor);
};

constexpr auto parts_attribute = [](auto& f, auto& node) { f.parts("parts", node.parts); };
constexpr auto heads_attribute = [](auto& f, auto& node) { f.integer("heads", node.heads); };
constexpr auto no_attributes = [](auto&, auto&) {};
constexpr auto factor_attribute = [](auto& f, auto& node) { f.integer("factor", node.factor); };

int residual_of(const Node& node) { return node.inputs.size() > 1 ? node.inputs[1] : -1; }

constexpr size_t kAny = std::numeric_limits<size_t>::max();

// A new operator is a row here. op and inputs are read and written for all alike.
const OpFormat kFormats[] = {
    {Op::input, 0, 0,
     [](auto& f, auto& n) {
       f.integer("channels", n.channels);
       f.choice("border", n.border, kBorders);
     },
     [](Graph& g, Node& n) { return g.input(n.channels, n.border); }},
    {Op::sigma_plane, 1, 1, [](auto& f, auto& n) { f.number("scale", n.sigma_scale); },
     [](Graph& g, Node& n) { return g.sigma_plane(n.inputs[0], n.sigma_scale); }},
    {Op::conv2d, 1, 2, conv2d_attributes,
     [](Graph& g, Node& n) {
       return g.conv2d(n.inputs[0], n.conv, std::move(n.weight), std::move(n.bias), residual_of(n), n.border);
     }},
    {Op::conv_transpose2d, 1, 2, conv_attributes,
     [](Graph& g, Node& n) {
       return g.conv_transpose2d(n.inputs[0], n.conv, std::move(n.weight), std::move(n.bias), residual_of(n));
     }},
    {Op::pixel_shuffle, 1, 1, factor_attribute,
     [](Graph& g, Node& n) { return g.pixel_shuffle(n.inputs[0], n.factor); }},
    {Op::pixel_unshuffle, 1, 1, factor_attribute,
     [](Graph& g, Node& n) { return g.pixel_unshuffle(n.inputs[0], n.factor); }},
    {Op::concat, 1, kAny, parts_attribute, [](Graph& g, Node& n) { return g.concat(n.inputs, n.parts); }},
    {Op::multiply, 2, 2, parts_attribute,
     [](Graph& g, Node& n) {
       require(n.parts.size() == 2, "multiply: takes two parts");
       return g.multiply(n.inputs[0], n.inputs[1], n.parts[0], n.parts[1]);
     }},
    {Op::gate, 2, 2,
     [](auto& f, auto& n) {
       parts_attribute(f, n);
       curve_attributes(f, n);
     },
     [](Graph& g, Node& n) {
       require(n.parts.size() == 2, "gate: takes two parts");
       return g.gate(n.inputs[0], n.inputs[1], n.parts[0], n.parts[1], n.curve);
     }},
    {Op::combine, 2, 2,
     [](auto& f, auto& n) {
       parts_attribute(f, n);
       f.choice("formula", n.formula, kFormulaNames);
     },
     [](Graph& g, Node& n) {
       require(n.parts.size() == 2, "combine: takes two parts");
       return g.combine(n.inputs[0], n.inputs[1], n.parts[0], n.parts[1], n.formula);
     }},
    {Op::channel_pool, 1, 1, [](auto& f, auto& n) { f.choice("kind", n.pool, kPools); },
     [](Graph& g, Node& n) { return g.channel_pool(n.inputs[0], n.pool); }},
    {Op::affine, 1, 1, affine_attributes,
     [](Graph& g, Node& n) { return g.affine(n.inputs[0], std::move(n.weight), std::move(n.bias)); }},
    {Op::activate, 1, 1, activate_attributes,
     [](Graph& g, Node& n) { return g.activate(n.inputs[0], n.curve, std::move(n.weight)); }},
    {Op::pool, 1, 1, pool_attributes, [](Graph& g, Node& n) { return g.pool(n.inputs[0], n.pool, n.conv, n.divisor); }},
    {Op::resize, 1, 1,
     [](auto& f, auto& n) {
       f.choice("mode", n.mode, kResizeNames);
       f.flag("enlarge", n.enlarge);
       f.integer("factor", n.factor);
     },
     [](Graph& g, Node& n) { return g.resize(n.inputs[0], n.mode, n.enlarge, n.factor); }},
    {Op::add, 2, 2,
     [](auto& f, auto& n) {
       f.number("scale_a", n.scale_a);
       f.number("scale_b", n.scale_b);
     },
     [](Graph& g, Node& n) { return g.add(n.inputs[0], n.inputs[1], n.scale_a, n.scale_b); }},
    {Op::layer_norm, 1, 1,
     [](auto& f, auto& n) {
       affine_attributes(f, n);
       f.number("epsilon", n.epsilon);
       f.flag("centred", n.centred);
     },
     [](Graph& g, Node& n) {
       return g.layer_norm(n.inputs[0], std::move(n.weight), std::move(n.bias), n.epsilon, n.centred);
     }},
    {Op::state, 0, 0,
     [](auto& f, auto& n) {
       f.integer("channels", n.channels);
       f.integer("stride", n.stride);
     },
     [](Graph& g, Node& n) { return g.state(n.channels, n.stride); }},
    {Op::warp, 2, 2, no_attributes, [](Graph& g, Node& n) { return g.warp(n.inputs[0], n.inputs[1]); }},
    {Op::partial_sum, 1, 1, no_attributes, [](Graph& g, Node& n) { return g.partial_sum(n.inputs[0]); }},
    {Op::mean, 1, 1, no_attributes, [](Graph& g, Node& n) { return g.mean(n.inputs[0]); }},
    {Op::local_mean, 1, 1, [](auto& f, auto& n) { f.integer("side", n.side); },
     [](Graph& g, Node& n) { return g.local_mean(n.inputs[0], n.side); }},
    {Op::window_attention, 1, 1,
     [](auto& f, auto& n) {
       f.integer("heads", n.heads);
       f.integer("window", n.window);
       f.integer("shift", n.shift);
       f.vector("bias", n.weight);
     },
     [](Graph& g, Node& n) {
       return g.window_attention(n.inputs[0], n.heads, n.window, n.shift, std::move(n.weight));
     }},
    {Op::partial_gram, 1, 1, heads_attribute, [](Graph& g, Node& n) { return g.partial_gram(n.inputs[0], n.heads); }},
    {Op::channel_softmax, 1, 1, [](auto& f, auto& n) { f.vector("temperature", n.weight); },
     [](Graph& g, Node& n) { return g.channel_softmax(n.inputs[0], std::move(n.weight)); }},
    {Op::mix, 2, 2,
     [](auto& f, auto& n) {
       heads_attribute(f, n);
       f.parts("parts", n.parts);
     },
     [](Graph& g, Node& n) {
       require(n.parts.size() == 2, "mix: takes two parts");
       return g.mix(n.inputs[0], n.inputs[1], n.parts[1], n.heads);
     }},
};

const OpFormat& format_of(const std::string& name) {
  for (const OpFormat& format : kFormats)
    if (name == op_name(format.op)) return format;
  throw std::invalid_argument("unknown operator " + quoted(name));
}

int node_number(const json::Value& value) {  // -1: no node's number
  const int64_t* number = value.get<int64_t>();
  return number == nullptr || *number < 0 || *number > std::numeric_limits<int>::max() ? -1 : static_cast<int>(*number);
}

void read_node(const json::Value& value, TensorTable& tensors, Graph& graph) {
  Reader reader(value, tensors);
  const OpFormat& format = format_of(reader.get<std::string>("op", "a string"));
  Node node;
  node.op = format.op;
  const json::Array& inputs = reader.get<json::Array>("inputs", "an array");
  require(inputs.size() >= format.fewest_inputs && inputs.size() <= format.most_inputs,
          std::string(op_name(format.op)) + " cannot have " + std::to_string(inputs.size()) + " inputs");
  for (const json::Value& input : inputs) {
    node.inputs.push_back(node_number(input));
    require(node.inputs.back() >= 0, "an input must be the number of an earlier node");
  }
  format.read(reader, node);
  reader.finish();
  // A method may put a node of its own before; a graph that was written has it already.
  const int number = static_cast<int>(graph.nodes().size());
  require(format.build(graph, node) == number, "it needs a copy of its input, which must be a node of its own");
}

}  // namespace

json::Value graph_to_json(const Graph& graph, std::vector<NamedTensor>& tensors) {
  json::Array nodes;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const Node& node = graph.nodes()[n];
    json::Array inputs(node.inputs.begin(), node.inputs.end());
    json::Object members{{"op", op_name(node.op)}, {"inputs", std::move(inputs)}};
    Writer writer(n, members, tensors);
    format_of(op_name(node.op)).write(writer, node);
    nodes.push_back(std::move(members));
  }
  json::Object document{{"nodes", std::move(nodes)}, {"output", graph.output()}};
  json::Array next;  // of each state, in the order of the states
  for (const State& state : graph.states()) next.push_back(state.next);
  if (!next.empty()) document.push_back({"next", std::move(next)});
  return document;
}

Graph graph_from_json(const json::Value& document, const std::vector<NamedTensor>& tensors) {
  TensorTable unused;
  for (const NamedTensor& tensor : tensors) unused.emplace(tensor.name, &tensor);
  const json::Object* members = document.get<json::Object>();
  const json::Value *nodes = document.find("nodes"), *output = document.find("output"), *next = document.find("next");
  require(members != nullptr && members->size() == (next == nullptr ? 2 : 3) && nodes != nullptr && output != nullptr &&
              nodes->get<json::Array>() != nullptr,
          "the graph must have exactly nodes and output, and next where it has states");
  Graph graph;
  for (const json::Value& node : *nodes->get<json::Array>()) {
    try {
      require(node.get<json::Object>() != nullptr, "wanted an object");
      read_node(node, unused, graph);
    } catch (const std::logic_error& error) {  // invalid_argument of ours and Graph's, length_error of products
      throw std::invalid_argument("node " + std::to_string(graph.nodes().size()) + ": " + error.what());
    }
  }
  graph.set_output(node_number(*output));
  const json::Array* successors = next == nullptr ? nullptr : next->get<json::Array>();
  require((successors == nullptr ? 0 : successors->size()) == graph.states().size(),
          "next must have a node for each state");
  for (size_t i = 0; i < graph.states().size(); ++i)
    graph.set_next(graph.states()[i].now, node_number((*successors)[i]));
  require(unused.empty(), "tensor " + (unused.empty() ? "" : quoted(unused.begin()->first)) + " belongs to no node");
  return graph;
}

}  // namespace fr
