// Graph, Plan and Session for fastrestore/engine.py: checks, releases the GIL, calls.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <system_error>

#include "base/parallel.h"
#include "engine/plan_file.h"
#include "engine/session.h"
#include "kernels/dot_peak/dot_peak.h"
#include "kernels/fma_peak/fma_peak.h"
#include "python/gil.h"
#include "python/run_session.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fr {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

Pool parse_pool(const std::string& kind) {
  if (kind != "max" && kind != "average") throw py::value_error("pool: kind must be max or average");
  return kind == "max" ? Pool::max : Pool::average;
}

std::vector<float> to_vector(const std::optional<Floats>& array) {
  if (!array) return {};
  return {array->data(), array->data() + array->size()};
}

Residual residual_mode(int node, bool first) {
  if (node < 0) return Residual::none;
  return first ? Residual::before_activation : Residual::after_scale;
}

ConvSpec make_spec(const Floats& weight, bool transposed, int64_t stride, std::pair<int64_t, int64_t> padding,
                   std::pair<int64_t, int64_t> dilation, int64_t groups, const std::string& activation, float slope,
                   float scale, int residual, bool residual_first) {
  if (weight.ndim() != 4) throw py::value_error("weight must have 4 dimensions, got " + std::to_string(weight.ndim()));
  ConvSpec spec;
  spec.out_channels = transposed ? weight.shape(1) * groups : weight.shape(0);
  spec.in_channels = transposed ? weight.shape(0) : weight.shape(1) * groups;
  spec.kernel_h = weight.shape(2);
  spec.kernel_w = weight.shape(3);
  spec.stride_h = spec.stride_w = stride;
  spec.pad_top = padding.first;
  spec.pad_left = padding.second;
  spec.dilation_h = dilation.first;
  spec.dilation_w = dilation.second;
  spec.groups = groups;
  spec.activation = parse_activation(activation);
  spec.slope = slope;
  spec.scale = scale;
  spec.residual = residual_mode(residual, residual_first);
  return spec;
}

py::bytes plan_bytes(const Plan& plan, const std::string& card) {
  std::string content;
  {
    WithoutGil free;
    content = write_plan_file(plan.graph(), plan.precision(), json::parse(card), plan.levels());
  }
  return py::bytes(content);
}

std::pair<std::shared_ptr<Plan>, std::string> load_plan(const std::string& path, const std::string& isa) {
  try {
    WithoutGil free;
    PlanFile file = load_plan_file(path);
    auto plan = std::make_shared<Plan>(std::move(file.graph), file.precision, usable_isa(isa), std::move(file.levels));
    return {std::move(plan), json::write(file.card)};
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
}

}  // namespace
}  // namespace fr

void bind_engine(py::module_& m) {
  using namespace fr;
  static py::exception<MemoryBudgetExceeded> budget(m, "MemoryBudgetExceeded", PyExc_MemoryError);
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const MemoryBudgetExceeded& exceeded) {
      py::set_error(budget, exceeded.what());
    }
  });

  py::class_<Graph>(m, "Graph", "What to compute, built node by node; each method returns the new node's number.")
      .def(py::init<>())
      .def(
          "input",
          [](Graph& graph, int64_t channels, const std::string& border) {
            return graph.input(channels, parse_border(border));
          },
          "channels"_a, "border"_a = "clamp")
      .def("sigma_plane", &Graph::sigma_plane, "like"_a, "scale"_a)
      .def(
          "conv2d",
          [](Graph& graph, int x, const Floats& weight, const std::optional<Floats>& bias, int64_t stride,
             std::pair<int64_t, int64_t> padding, std::pair<int64_t, int64_t> dilation, int64_t groups,
             const std::string& activation, float slope, float scale, int residual, bool residual_first,
             const std::string& border) {
            return graph.conv2d(x,
                                make_spec(weight, false, stride, padding, dilation, groups, activation, slope, scale,
                                          residual, residual_first),
                                to_vector(weight), to_vector(bias), residual, parse_border(border));
          },
          "x"_a, "weight"_a.noconvert(), "bias"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
          "activation"_a, "slope"_a, "scale"_a, "residual"_a, "residual_first"_a, "border"_a)
      .def(
          "conv_transpose2d",
          [](Graph& graph, int x, const Floats& weight, const std::optional<Floats>& bias, int64_t stride,
             std::pair<int64_t, int64_t> padding, int64_t groups, const std::string& activation, float slope,
             float scale, int residual, bool residual_first) {
            return graph.conv_transpose2d(x,
                                          make_spec(weight, true, stride, padding, {1, 1}, groups, activation, slope,
                                                    scale, residual, residual_first),
                                          to_vector(weight), to_vector(bias), residual);
          },
          "x"_a, "weight"_a.noconvert(), "bias"_a.noconvert(), "stride"_a, "padding"_a, "groups"_a, "activation"_a,
          "slope"_a, "scale"_a, "residual"_a, "residual_first"_a)
      .def("pixel_shuffle", &Graph::pixel_shuffle, "x"_a, "factor"_a)
      .def("pixel_unshuffle", &Graph::pixel_unshuffle, "x"_a, "factor"_a)
      .def(
          "concat",
          [](Graph& graph, const std::vector<int>& inputs, const std::vector<std::pair<int64_t, int64_t>>& parts) {
            std::vector<Channels> taken;
            for (const auto& [first, count] : parts) taken.push_back({first, count});
            return graph.concat(inputs, taken);
          },
          "inputs"_a, "parts"_a)
      .def("add", &Graph::add, "a"_a, "b"_a, "scale_a"_a, "scale_b"_a)
      .def(
          "multiply",
          [](Graph& graph, int a, int b, const std::vector<std::pair<int64_t, int64_t>>& parts) {
            if (parts.size() != 2) throw py::value_error("multiply: two operands have two parts");
            return graph.multiply(a, b, {parts[0].first, parts[0].second}, {parts[1].first, parts[1].second});
          },
          "a"_a, "b"_a, "parts"_a)
      .def(
          "gate",
          [](Graph& graph, int a, int b, const std::vector<std::pair<int64_t, int64_t>>& parts,
             const std::string& curve, std::tuple<float, float, float> values) {
            if (parts.size() != 2) throw py::value_error("gate: two operands have two parts");
            const auto [first, second, third] = values;
            return graph.gate(a, b, {parts[0].first, parts[0].second}, {parts[1].first, parts[1].second},
                              {parse_curve(curve), first, second, third});
          },
          "a"_a, "b"_a, "parts"_a, "curve"_a, "values"_a)
      .def(
          "combine",
          [](Graph& graph, int a, int b, const std::vector<std::pair<int64_t, int64_t>>& parts,
             const std::string& formula) {
            if (parts.size() != 2) throw py::value_error("combine: two operands have two parts");
            return graph.combine(a, b, {parts[0].first, parts[0].second}, {parts[1].first, parts[1].second},
                                 parse_formula(formula));
          },
          "a"_a, "b"_a, "parts"_a, "formula"_a)
      .def(
          "affine",
          [](Graph& graph, int x, const Floats& scale, const Floats& shift) {
            return graph.affine(x, to_vector(scale), to_vector(shift));
          },
          "x"_a, "scale"_a.noconvert(), "shift"_a.noconvert())
      .def(
          "activate",
          [](Graph& graph, int x, const std::string& curve, std::tuple<float, float, float> values,
             const std::optional<Floats>& slope) {
            const auto [a, b, c] = values;
            return graph.activate(x, {parse_curve(curve), a, b, c}, to_vector(slope));
          },
          "x"_a, "curve"_a, "values"_a, "slope"_a.noconvert())
      .def(
          "pool",
          [](Graph& graph, int x, const std::string& kind, std::pair<int64_t, int64_t> kernel, int64_t stride,
             std::pair<int64_t, int64_t> padding, std::pair<int64_t, int64_t> dilation, int64_t divisor) {
            ConvSpec window;
            window.kernel_h = kernel.first;
            window.kernel_w = kernel.second;
            window.stride_h = window.stride_w = stride;
            window.pad_top = padding.first;
            window.pad_left = padding.second;
            window.dilation_h = dilation.first;
            window.dilation_w = dilation.second;
            return graph.pool(x, parse_pool(kind), window, divisor);
          },
          "x"_a, "kind"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "divisor"_a)
      .def(
          "channel_pool",
          [](Graph& graph, int x, const std::string& kind) { return graph.channel_pool(x, parse_pool(kind)); }, "x"_a,
          "kind"_a)
      .def(
          "resize",
          [](Graph& graph, int x, const std::string& mode, bool enlarge, int64_t factor) {
            return graph.resize(x, parse_resize(mode), enlarge, factor);
          },
          "x"_a, "mode"_a, "enlarge"_a, "factor"_a)
      .def(
          "layer_norm",
          [](Graph& graph, int x, const Floats& scale, const Floats& shift, float epsilon, bool centred) {
            return graph.layer_norm(x, to_vector(scale), to_vector(shift), epsilon, centred);
          },
          "x"_a, "scale"_a.noconvert(), "shift"_a.noconvert(), "epsilon"_a, "centred"_a)
      .def("partial_sum", &Graph::partial_sum, "x"_a)
      .def("mean", &Graph::mean, "partial"_a)
      .def("local_mean", &Graph::local_mean, "x"_a, "side"_a)
      .def(
          "window_attention",
          [](Graph& graph, int x, int64_t heads, int64_t window, int64_t shift, const Floats& bias) {
            return graph.window_attention(x, heads, window, shift, to_vector(bias));
          },
          "x"_a, "heads"_a, "window"_a, "shift"_a, "bias"_a.noconvert())
      .def("partial_gram", &Graph::partial_gram, "x"_a, "heads"_a)
      .def(
          "channel_softmax",
          [](Graph& graph, int partial, const Floats& temperature) {
            return graph.channel_softmax(partial, to_vector(temperature));
          },
          "partial"_a, "temperature"_a.noconvert())
      .def(
          "mix",
          [](Graph& graph, int weights, int x, std::pair<int64_t, int64_t> values, int64_t heads) {
            return graph.mix(weights, x, {values.first, values.second}, heads);
          },
          "weights"_a, "x"_a, "values"_a, "heads"_a)
      .def("warp", &Graph::warp, "x"_a, "flow"_a)
      .def("state", &Graph::state, "channels"_a, "stride"_a)
      .def("set_next", &Graph::set_next, "state"_a, "node"_a)
      .def("set_output", &Graph::set_output, "node"_a)
      .def_property_readonly("channels", &Graph::channels)
      .def_property_readonly("takes_sigma", &Graph::takes_sigma)
      .def_property_readonly("multiple_of", &Graph::multiple_of)
      .def_property_readonly("halo", &Graph::halo);

  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan", "A graph made ready for one instruction set.")
      .def(py::init([](const Graph& graph, const std::string& precision, const std::string& isa,
                       const std::vector<std::tuple<int, float, int>>& levels) {
             std::vector<ImageLevels> images;
             for (const auto& [node, scale, zero] : levels) images.push_back({node, {scale, zero}});
             WithoutGil free;
             return std::make_shared<Plan>(graph, parse_precision(precision), usable_isa(isa), std::move(images));
           }),
           "graph"_a, "precision"_a = "float32", "isa"_a = "", "levels"_a = std::vector<std::tuple<int, float, int>>())
      .def_property_readonly("precision", [](const Plan& plan) { return precision_name(plan.precision()); })
      .def_property_readonly("isa", [](const Plan& plan) { return isa_name(plan.isa()); })
      .def_property_readonly("channels", [](const Plan& plan) { return plan.graph().channels(); })
      .def_property_readonly("takes_sigma", [](const Plan& plan) { return plan.graph().takes_sigma(); })
      .def_property_readonly("multiple_of", [](const Plan& plan) { return plan.graph().multiple_of(); })
      .def_property_readonly("sees_everything", [](const Plan& plan) { return plan.graph().sees_everything(); })
      .def_property_readonly("halo", [](const Plan& plan) { return plan.graph().halo(); })
      .def_property_readonly("states",
                             [](const Plan& plan) {
                               std::vector<std::pair<int64_t, int64_t>> states;
                               for (const State& state : plan.graph().states()) {
                                 const Node& node = plan.node(static_cast<size_t>(state.now));
                                 states.push_back({node.channels, node.stride});
                               }
                               return states;
                             })
      .def_property_readonly("grid", &Plan::grid)
      .def_property_readonly("packed_bytes", &Plan::packed_bytes);

  m.def("plan_bytes", &plan_bytes, "plan"_a, "card"_a, "The content of a plan file; card: JSON text.");
  m.def("load_plan", &load_plan, "path"_a, "isa"_a, "A plan file's plan, and its card as JSON text.");

  py::class_<RunReport>(m, "RunReport")
      .def_readonly("non_finite", &RunReport::non_finite)
      .def_readonly("strips", &RunReport::strips)
      .def_readonly("band", &RunReport::band)
      .def_readonly("working_bytes", &RunReport::working_bytes)
      .def_readonly("seconds", &RunReport::seconds);

  py::class_<Session>(m, "Session", "Runs a plan; keeps its working memory between runs.")
      .def(py::init([](std::shared_ptr<Plan> plan, int threads, int64_t memory) {
             return std::make_unique<Session>(std::move(plan), threads, memory);
           }),
           "plan"_a, "threads"_a, "memory"_a)
      .def("run", &run_session<Session>, "image"_a.noconvert(), "out"_a.noconvert(), "sigma"_a, "strength"_a, "clip"_a,
           "progress"_a)
      .def("reset", &Session::reset, py::call_guard<WithoutGil>())
      .def("state", &state_of<Session>, "number"_a, "[H, W, C], or None before the first run.")
      .def("set_state", &set_state<Session>, "number"_a, "image"_a.noconvert())
      .def("preview", &Session::preview, "height"_a, "width"_a);

  m.attr("MOST_INPUTS") = kMostInputs;
  m.attr("MOST_WINDOW") = kMostWindow;
  m.attr("EVERYTHING") = kEverything;
  m.def("hardware_threads", &hardware_threads, "CPUs that this process may run on.");
  m.def("host_isa", [] { return isa_name(host_isa()); }, "The instruction set in use: the CPU's, or FASTRESTORE_ISA.");
  m.def(
      "usable_isa", [](const std::string& name) { return isa_name(usable_isa(name)); }, "name"_a,
      "The name, or host_isa() for an empty one; ValueError if the CPU lacks it.");
  m.def("cpu_isa", [] { return isa_name(cpu_isa()); }, "The best instruction set of this CPU.");
  m.def(
      "fma_chains",
      [](const std::string& isa, int64_t iterations) {
        return fma_chains(isa.empty() ? host_isa() : parse_isa(isa), iterations);
      },
      "isa"_a, "iterations"_a, py::call_guard<WithoutGil>(),
      "Multiply-adds in registers; returns the operations done, for benchmarks.");
  m.def(
      "dot_chains",
      [](const std::string& type, const std::string& isa, int64_t iterations) {
        if (type != "bfloat16" && type != "int8") throw std::invalid_argument("no dot products of " + type);
        return dot_chains(type == "int8" ? DotType::int8 : DotType::bfloat16, parse_isa(isa), iterations);
      },
      "type"_a, "isa"_a, "iterations"_a, py::call_guard<WithoutGil>(),
      "Dot products of bfloat16 or int8 in registers; returns the operations done, for benchmarks.");
  m.def("built_isas", [] {
#if FR_X86
    return std::vector<std::string>{"baseline", "avx2", "avx512", "avx512_bf16", "amx"};
#else
    return std::vector<std::string>{"baseline"};
#endif
  });
}
