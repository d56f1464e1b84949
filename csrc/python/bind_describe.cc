// What a plan does and takes, as dicts for fastrestore/planview.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine/describe.h"
#include "engine/layout.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fr {
namespace {

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::none:
      return "none";
    case Activation::relu:
      return "relu";
    case Activation::leaky_relu:
      return "leaky_relu";
    case Activation::gelu:
      return "gelu";
  }
  return "";
}

const char* name_of(Residual residual) {
  switch (residual) {
    case Residual::none:
      return "none";
    case Residual::before_activation:
      return "before activation";
    case Residual::after_scale:
      return "after scale";
  }
  return "";
}

const char* name_of(Element element) {
  return element == Element::f32 ? "float32" : element == Element::bf16 ? "bfloat16" : "uint8";
}

py::dict conv_dict(const Node& node, const Step& step) {
  const ConvSpec& spec = node.conv;
  int64_t packed = 0;
  for (const PackedConv& conv : step.convs) packed += conv.weights.bytes() + conv.bias.bytes();
  return py::dict("in_channels"_a = spec.in_channels, "out_channels"_a = spec.out_channels,
                  "kernel"_a = py::make_tuple(spec.kernel_h, spec.kernel_w), "stride"_a = spec.stride_h,
                  "padding"_a = py::make_tuple(spec.pad_top, spec.pad_left), "dilation"_a = spec.dilation_h,
                  "groups"_a = spec.groups, "bias"_a = !node.bias.empty(), "activation"_a = name_of(spec.activation),
                  "slope"_a = spec.slope, "scale"_a = spec.scale, "residual"_a = name_of(spec.residual),
                  "packed_bytes"_a = packed);
}

// Multiply-adds of attention for each pixel of the image that it is of.
int64_t products_per_pixel(const Plan& plan, size_t n) {
  const Node& node = plan.node(n);
  if (node.op == Op::window_attention) return 2 * node.window * node.window * node.channels;
  if (node.op == Op::mix) return node.channels * node.channels / node.heads;
  if (node.op != Op::partial_gram) return 0;
  const int64_t channels = plan.node(static_cast<size_t>(node.inputs[0])).channels / 3;
  return channels * (channels / node.heads + 2);
}

py::list plan_steps(const Plan& plan) {
  const std::vector<int64_t> margin = margins(plan.graph()), added = margins_added(plan.graph());
  py::list steps;
  for (size_t n = 0; n < plan.size(); ++n) {
    const Node& node = plan.node(n);
    const Step& step = plan.step(n);
    py::dict about("op"_a = op_name(node.op), "kernel"_a = step.convs.empty() ? "" : step.convs[0].variant,
                   "channels"_a = node.channels, "stride"_a = node.stride, "inputs"_a = node.inputs,
                   "pixel_bytes"_a = step.pitch * element_bytes(step.element), "element"_a = name_of(step.element),
                   "row_grid"_a = step.row_grid, "margin"_a = margin[n], "halo"_a = added[n]);
    about["products"] = products_per_pixel(plan, n);
    if (node.factor > 1) about["factor"] = node.factor;
    if (node.op == Op::window_attention)
      about["detail"] = std::to_string(node.window) + "x" + std::to_string(node.window) +
                        (node.shift > 0 ? " from " + std::to_string(node.shift) : "");
    if (node.op == Op::activate || node.op == Op::gate) about["detail"] = curve_name(node.curve.curve);
    if (node.op == Op::resize) about["detail"] = resize_name(node.mode);
    if (node.op == Op::combine) about["detail"] = formula_name(node.formula);
    if (node.op == Op::local_mean) about["detail"] = std::to_string(node.side) + "x" + std::to_string(node.side);
    if (node.op == Op::pool || node.op == Op::channel_pool)
      about["detail"] = node.pool == Pool::max ? "max" : "average";
    if (!step.convs.empty()) about["conv"] = conv_dict(node, step);
    steps.append(about);
  }
  return steps;
}

py::dict plan_layout(const Plan& plan, int64_t height, int64_t width, int threads, int64_t memory) {
  if (height < 1 || width < 1) throw py::value_error("the picture is empty");
  const Layout layout = make_layout(plan, height, width, threads, memory);
  std::vector<int64_t> columns(plan.size(), 0);  // of all strips together
  std::vector<int64_t> kept, passing, heights, widths;
  for (const HeldRows& held : layout.held) {
    kept.push_back(held.kept);
    passing.push_back(held.passing);
  }
  for (size_t n = 0; n < plan.size(); ++n) {
    heights.push_back(extent(plan.node(n), Axis::rows, layout.height));
    widths.push_back(extent(plan.node(n), Axis::columns, layout.width));
  }
  for (const Strip& strip : layout.strips)
    for (size_t n = 0; n < plan.size(); ++n) columns[n] += std::max<int64_t>(0, strip.columns[n].size());
  return py::dict("height"_a = layout.height, "width"_a = layout.width, "band"_a = layout.band, "lead"_a = layout.lead,
                  "heights"_a = heights, "widths"_a = widths, "strips"_a = layout.strips.size(),
                  "rings_bytes"_a = layout.ring_bytes, "ring_rows"_a = kept, "ring_row_bytes"_a = layout.row_bytes,
                  "passing_rows"_a = passing, "passing_bytes"_a = layout.workspace_offset - layout.ring_bytes,
                  "columns"_a = columns, "workspace_bytes"_a = workspace_bytes(plan),
                  "working_bytes"_a = layout.arena_bytes);
}

}  // namespace
}  // namespace fr

void bind_describe(py::module_& m) {
  m.def("plan_steps", &fr::plan_steps, "plan"_a, "One dict a node.");
  m.def("plan_layout", &fr::plan_layout, "plan"_a, "height"_a, "width"_a, "threads"_a, "memory"_a,
        "Strips, bands and rings for one picture size.");
}
