// fastrestore._C.cuda: the GPU kernels, for fastrestore/ops. Tensors come as addresses with their sizes and pitches, in
// values; the stream as the number that torch knows it by.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>

#include "cuda/kernels.h"
#include "engine/cuda_session.h"
#include "engine/plan.h"
#include "python/gil.h"
#include "python/run_session.h"

namespace py = pybind11;
using namespace py::literals;

namespace fr::cuda {
namespace {

using Address = uintptr_t;
using Pair = std::array<int64_t, 2>;  // along height, along width

// A batch of NHWC images on the device.
struct Tensor {
  Address data;
  Extent extent;
  std::array<int64_t, 3> pitch;

  ConstImages in() const { return {reinterpret_cast<const void*>(data), pitch[0], pitch[1], pitch[2]}; }
  Images out() const { return {reinterpret_cast<void*>(data), pitch[0], pitch[1], pitch[2]}; }
};

Type parse_type(const std::string& name) {
  if (name == "float16") return Type::f16;
  if (name == "bfloat16") return Type::bf16;
  if (name == "float32") return Type::f32;
  throw std::invalid_argument("cuda: a type is float16, bfloat16 or float32, got '" + name + "'");
}

std::string type_name(Type type) { return type == Type::f16 ? "float16" : type == Type::bf16 ? "bfloat16" : "float32"; }

Pixel parse_pixel(const std::string& name) {
  if (name == "uint8") return Pixel::u8;
  if (name == "uint16") return Pixel::u16;
  if (name == "float16") return Pixel::f16;
  if (name == "float32") return Pixel::f32;
  throw std::invalid_argument("cuda: a pixel is uint8, uint16, float16 or float32, got '" + name + "'");
}

Edge parse_edge(const std::string& name) {
  if (name == "zero") return Edge::zero;
  if (name == "reflect") return Edge::reflect;
  if (name == "clamp") return Edge::clamp;
  throw std::invalid_argument("cuda: an edge is zero, reflect or clamp, got '" + name + "'");
}

Activation parse_activation(const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  if (name == "gelu") return Activation::gelu;
  throw std::invalid_argument("cuda: an activation is none, relu, leaky_relu or gelu, got '" + name + "'");
}

ConvPath parse_path(const std::string& name) {
  for (int i = 0; i < kConvPaths; ++i)
    if (name == conv_path_name(static_cast<ConvPath>(i))) return static_cast<ConvPath>(i);
  throw std::invalid_argument("cuda: unknown way to compute a convolution: '" + name + "'");
}

Pool parse_pool(const std::string& name) {
  if (name == "max") return Pool::max;
  if (name == "average") return Pool::average;
  throw std::invalid_argument("cuda: a pool is max or average, got '" + name + "'");
}

Stream stream_of(Address stream) { return reinterpret_cast<Stream>(stream); }

std::string convolve_tensors(const std::string& type, const Tensor& x, Address weight, Address bias,
                             const std::optional<Tensor>& residual, const Tensor& y, const Pair& kernel,
                             const Pair& stride, const Pair& padding, const Pair& dilation, int64_t groups,
                             bool transposed, const std::string& edge, const std::string& activation, float slope,
                             float scale, bool residual_first, const std::string& path, Address stream) {
  Convolution conv;
  ConvSpec& spec = conv.spec;
  spec.in_channels = x.extent.channels;
  spec.out_channels = y.extent.channels;
  spec.kernel_h = kernel[0];
  spec.kernel_w = kernel[1];
  spec.stride_h = stride[0];
  spec.stride_w = stride[1];
  spec.pad_top = padding[0];
  spec.pad_left = padding[1];
  spec.dilation_h = dilation[0];
  spec.dilation_w = dilation[1];
  spec.groups = groups;
  spec.activation = parse_activation(activation);
  spec.slope = slope;
  spec.scale = scale;
  if (residual) spec.residual = residual_first ? Residual::before_activation : Residual::after_scale;
  conv.transposed = transposed;
  conv.edge = parse_edge(edge);
  conv.type = parse_type(type);
  conv.in = x.extent;
  conv.out = y.extent;
  conv.x = x.in();
  conv.y = y.out();
  if (residual) conv.residual = residual->in();
  conv.weight = reinterpret_cast<const void*>(weight);
  conv.bias = reinterpret_cast<const float*>(bias);
  const ConvPath way = path == "auto" ? choose_conv_path(conv, current_device()) : parse_path(path);
  convolve(conv, way, stream_of(stream));
  return conv_path_name(way);
}

py::object named(const RunReport& report) {
  return py::module_::import("types").attr("SimpleNamespace")(
      "non_finite"_a = report.non_finite, "recomputed"_a = report.recomputed, "strips"_a = report.strips,
      "band"_a = report.band, "working_bytes"_a = report.working_bytes);
}

}  // namespace
}  // namespace fr::cuda

std::shared_ptr<fr::CudaSession> make_cuda_session(std::shared_ptr<const fr::Graph> graph, const std::string& type,
                                                   int64_t memory) {
  fr::WithoutGil free;
  return std::make_shared<fr::CudaSession>(std::move(graph), fr::cuda::parse_type(type), memory);
}

void bind_cuda(py::module_& parent) {
  using namespace fr::cuda;
  using fr::CudaSession;
  py::module_ m = parent.def_submodule("cuda", "Kernels for NVIDIA GPUs.");
  py::register_local_exception<NoDevice>(m, "NoDevice", PyExc_RuntimeError);
  const py::call_guard<fr::WithoutGil> release;

  py::class_<Tensor>(m, "Images", py::module_local(),
                     "A batch of NHWC images: address, [N, H, W, C], pitches of image, row and pixel.")
      .def(py::init([](Address data, std::array<int64_t, 4> sizes, std::array<int64_t, 3> pitch) {
             return Tensor{data, {sizes[0], sizes[1], sizes[2], sizes[3]}, pitch};
           }),
           "data"_a, "sizes"_a, "pitch"_a);
  py::class_<PictureRows>(m, "Picture", py::module_local(),
                          "Rows of interleaved pixels: type, [H, W, C], bytes of a row.")
      .def(py::init([](const std::string& type, std::array<int64_t, 3> sizes, int64_t row_bytes) {
             return PictureRows{parse_pixel(type), sizes[0], sizes[1], sizes[2], row_bytes};
           }),
           "type"_a, "sizes"_a, "row_bytes"_a);

  m.def("device_count", &device_count, release, "GPUs of this machine; raises NoDevice rather than returning 0.");
  m.def("current_device", [] {
    const Device device = current_device();
    return py::dict("capability"_a = device.capability, "processors"_a = device.processors,
                    "shared_limit"_a = device.shared_limit);
  });
  m.def("convolve", &convolve_tensors, release,
        "act(conv(x, weight) + bias [+ residual]) * scale [+ residual]; returns the way that was taken.", "type"_a,
        "x"_a, "weight"_a, "bias"_a, "residual"_a, "y"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
        "transposed"_a, "edge"_a, "activation"_a, "slope"_a, "scale"_a, "residual_first"_a, "path"_a, "stream"_a);
  m.def(
      "pixel_shuffle",
      [](const std::string& type, const Tensor& x, int64_t r, const Tensor& y, Address stream) {
        pixel_shuffle(parse_type(type), x.in(), x.extent, r, y.out(), stream_of(stream));
      },
      release, "type"_a, "x"_a, "r"_a, "y"_a, "stream"_a);
  m.def(
      "pixel_unshuffle",
      [](const std::string& type, const Tensor& x, int64_t r, const Tensor& y, Address stream) {
        pixel_unshuffle(parse_type(type), x.in(), x.extent, r, y.out(), stream_of(stream));
      },
      release, "type"_a, "x"_a, "r"_a, "y"_a, "stream"_a);
  m.def(
      "gather_tile",
      [](const PictureRows& picture, Address pixels, int64_t top, int64_t left, const std::string& edge,
         const std::string& type, const Tensor& y, Address stream) {
        gather_tile(picture, reinterpret_cast<const void*>(pixels), top, left, parse_edge(edge), parse_type(type),
                    y.extent, y.out(), stream_of(stream));
      },
      release, "picture"_a, "pixels"_a, "top"_a, "left"_a, "edge"_a, "type"_a, "y"_a, "stream"_a);
  m.def(
      "blend_tile",
      [](const std::string& type, const Tensor& x, std::array<int64_t, 4> ramps, Address sums, int64_t width,
         int64_t top, int64_t left, Address stream) {
        blend_tile(parse_type(type), x.in(), x.extent, {ramps[0], ramps[1], ramps[2], ramps[3]},
                   reinterpret_cast<float*>(sums), width, top, left, stream_of(stream));
      },
      release, "ramps: pixels at the top, bottom, left and right.", "type"_a, "x"_a, "ramps"_a, "sums"_a, "width"_a,
      "top"_a, "left"_a, "stream"_a);
  m.def(
      "store_tile",
      [](const std::string& type, const Tensor& x, const PictureRows& picture, Address image, Address out, int64_t top,
         int64_t left, float strength, bool clip, Address non_finite, Address stream) {
        store_tile(parse_type(type), x.in(), x.extent, picture, reinterpret_cast<const void*>(image), picture,
                   reinterpret_cast<void*>(out), top, left, strength, clip,
                   reinterpret_cast<unsigned long long*>(non_finite), stream_of(stream));
      },
      release, "type"_a, "x"_a, "picture"_a, "image"_a, "out"_a, "top"_a, "left"_a, "strength"_a, "clip"_a,
      "non_finite"_a, "stream"_a);
  m.def(
      "warp",
      [](const std::string& type, const Tensor& x, const Tensor& flow, const Tensor& y, Address stream) {
        warp(parse_type(type), x.in(), x.extent, flow.in(), y.out(), stream_of(stream));
      },
      release, "type"_a, "x"_a, "flow"_a, "y"_a, "stream"_a);
  m.def(
      "channel_pool",
      [](const std::string& type, const std::string& kind, const Tensor& x, const Tensor& y, Address stream) {
        channel_pool(parse_type(type), parse_pool(kind), x.in(), x.extent, y.out(), stream_of(stream));
      },
      release, "type"_a, "kind"_a, "x"_a, "y"_a, "stream"_a);
  m.def(
      "local_mean",
      [](const std::string& type, int64_t side, const Tensor& x, Address sums, const Tensor& y, Address stream) {
        local_mean(parse_type(type), side, x.in(), x.extent, reinterpret_cast<float*>(sums), y.out(),
                   stream_of(stream));
      },
      release, "sums: float32 [N, H, W, C], C rounded up to a multiple of 8.", "type"_a, "side"_a, "x"_a, "sums"_a,
      "y"_a, "stream"_a);
  m.def(
      "combine",
      [](const std::string& type, const std::string& formula, const std::array<std::string, 2>& types, const Tensor& a,
         const Tensor& b, const std::array<int64_t, 2>& first, const Tensor& y, Address stream) {
        PixelOperation operation;
        operation.kind = PixelOperation::combine;
        operation.formula = fr::parse_formula(formula);
        const PixelOperand operands[2] = {{a.in(), parse_type(types[0]), first[0]},
                                          {b.in(), parse_type(types[1]), first[1]}};
        pointwise(parse_type(type), operation, operands[0], operands[1], y.out(), y.extent, stream_of(stream));
      },
      release, "types: of a and b; first: the channel of each that y's first is made of.", "type"_a, "formula"_a,
      "types"_a, "a"_a, "b"_a, "first"_a, "y"_a, "stream"_a);
  m.def(
      "activate",
      [](const std::string& type, const std::string& curve, const std::array<float, 3>& numbers,
         const std::string& of_x, const Tensor& x, const Tensor& y, Address stream) {
        PixelOperation operation;
        operation.kind = PixelOperation::activate;
        operation.curve = {fr::parse_curve(curve), numbers[0], numbers[1], numbers[2]};
        pointwise(parse_type(type), operation, {x.in(), parse_type(of_x)}, {}, y.out(), y.extent, stream_of(stream));
      },
      release, "numbers: a, b and c of the curve; of_x: x's type.", "type"_a, "curve"_a, "numbers"_a, "of_x"_a, "x"_a,
      "y"_a, "stream"_a);
  m.def(
      "copy_channels",
      [](const std::string& type, const std::string& of_x, const Tensor& x, int64_t from, int64_t to, int64_t count,
         bool ends, const Tensor& y, Address stream) {
        PixelOperation operation;
        operation.first = to;
        operation.ends = ends;
        Extent part = y.extent;
        part.channels = count;
        pointwise(parse_type(type), operation, {x.in(), parse_type(of_x), from}, {}, y.out(), part, stream_of(stream));
      },
      release, "count channels of x, from channel `from` on, into y's from `to` on; ends: those beyond become 0.",
      "type"_a, "of_x"_a, "x"_a, "from"_a, "to"_a, "count"_a, "ends"_a, "y"_a, "stream"_a);
  m.def(
      "layer_norm",
      [](const std::string& type, const Tensor& x, Address scale, Address shift, float epsilon, bool subtract_mean,
         const Tensor& y, Address stream) {
        const LayerNorm norm{reinterpret_cast<const float*>(scale), reinterpret_cast<const float*>(shift), epsilon,
                             subtract_mean};
        layer_norm(parse_type(type), norm, x.in(), x.extent, y.out(), stream_of(stream));
      },
      release, "type"_a, "x"_a, "scale"_a, "shift"_a, "epsilon"_a, "subtract_mean"_a, "y"_a, "stream"_a);
  m.def(
      "gated_front",
      [](const std::string& type, float epsilon, const std::array<Address, 4>& block, const Tensor& x, const Tensor& y,
         Address sums, Address stream) {
        const GatedFront front{epsilon, reinterpret_cast<const void*>(block[0]),
                               reinterpret_cast<const void*>(block[1]), reinterpret_cast<const float*>(block[2]),
                               reinterpret_cast<const float*>(block[3])};
        gated_front(parse_type(type), front, x.in(), x.extent, y.out(), reinterpret_cast<float*>(sums),
                    stream_of(stream));
      },
      release, "block: expand, depthwise, their biases.", "type"_a, "epsilon"_a, "block"_a, "x"_a, "y"_a, "sums"_a,
      "stream"_a);
  m.def(
      "gated_back",
      [](const std::string& type, float epsilon, const std::array<Address, 6>& block, const Tensor& gated,
         const Tensor& scale, const Tensor& x, const Tensor& y, Address stream) {
        const GatedBack back{epsilon,
                             reinterpret_cast<const void*>(block[0]),
                             reinterpret_cast<const void*>(block[1]),
                             reinterpret_cast<const void*>(block[2]),
                             reinterpret_cast<const float*>(block[3]),
                             reinterpret_cast<const float*>(block[4]),
                             reinterpret_cast<const float*>(block[5]),
                             scale.extent.pixels() == 1};
        gated_back(parse_type(type), back, gated.in(), scale.in(), x.in(), x.extent, y.out(), stream_of(stream));
      },
      release, "block: project, expand, contract, their biases.", "type"_a, "epsilon"_a, "block"_a, "gated"_a,
      "scale"_a, "x"_a, "y"_a, "stream"_a);
  m.def(
      "gated_block_supports",
      [](const std::string& type, int64_t channels) {
        return gated_block_supports(parse_type(type), channels, current_device());
      },
      "type"_a, "channels"_a);
  m.def(
      "mean_of_sums",
      [](const std::string& type, Address sums, const std::array<int64_t, 4>& sizes, int64_t groups, const Tensor& y,
         Address stream) {
        mean_of_sums(parse_type(type), reinterpret_cast<const float*>(sums), {sizes[0], sizes[1], sizes[2], sizes[3]},
                     groups, y.out(), stream_of(stream));
      },
      release, "sizes: of the image that was summed, [N, H, W, C].", "type"_a, "sums"_a, "sizes"_a, "groups"_a, "y"_a,
      "stream"_a);
  m.def(
      "row_grams",
      [](const std::string& type, const Tensor& x, int64_t heads, int64_t fold, Address grams, Address stream) {
        row_grams(parse_type(type), x.in(), x.extent, heads, fold, reinterpret_cast<float*>(grams), stream_of(stream));
      },
      release, "type"_a, "x"_a, "heads"_a, "fold"_a, "grams"_a, "stream"_a);
  m.def(
      "softmax_of_grams",
      [](Address grams, int64_t rows, int64_t heads, int64_t channels, Address temperature, Address weights,
         Address stream) {
        softmax_of_grams(reinterpret_cast<float*>(grams), rows, heads, channels,
                         reinterpret_cast<const float*>(temperature), reinterpret_cast<float*>(weights),
                         stream_of(stream));
      },
      release, "channels: of a head.", "grams"_a, "rows"_a, "heads"_a, "channels"_a, "temperature"_a, "weights"_a,
      "stream"_a);
  m.def(
      "fold_mixture",
      [](const std::string& type, Address weights, int64_t channels, int64_t heads, Address project,
         int64_t out_channels, Address folded, Address stream) {
        fold_mixture(parse_type(type), reinterpret_cast<const float*>(weights), channels, heads,
                     reinterpret_cast<const float*>(project), out_channels, reinterpret_cast<void*>(folded),
                     stream_of(stream));
      },
      release, "type"_a, "weights"_a, "channels"_a, "heads"_a, "project"_a, "out_channels"_a, "folded"_a, "stream"_a);
  m.def(
      "gate",
      [](const std::string& type, bool gelu, const Tensor& x, const Tensor& y, Address stream) {
        gate(parse_type(type), gelu, x.in(), y.extent, y.out(), stream_of(stream));
      },
      release, "type"_a, "gelu"_a, "x"_a, "y"_a, "stream"_a);
  m.def(
      "window_attention",
      [](const std::string& type, const Tensor& qkv, int64_t heads, int64_t side, int64_t shift, float scale,
         Address bias, const Tensor& y, Address stream) {
        const WindowAttention attention{heads, y.extent.channels / heads,           side, shift,
                                        scale, reinterpret_cast<const float*>(bias)};
        window_attention(parse_type(type), attention, qkv.in(), y.extent, y.out(), stream_of(stream));
      },
      release, "type"_a, "qkv"_a, "heads"_a, "side"_a, "shift"_a, "scale"_a, "bias"_a, "y"_a, "stream"_a);

  py::class_<CudaSession, std::shared_ptr<CudaSession>>(
      m, "Session", py::module_local(), "Runs a plan on the current GPU; keeps its memory between runs.")
      .def(py::init([](const std::shared_ptr<fr::Plan>& plan, const std::string& type, int64_t memory) {
             return make_cuda_session({plan, &plan->graph()},
                                      type.empty() ? type_name(fr::cuda_type(plan->precision())) : type, memory);
           }),
           "type: empty for the one that suits the plan's precision.", "plan"_a, "type"_a, "memory"_a)
      .def_property_readonly("precision",
                             [](const CudaSession& session) { return type_name(session.program().type()); })
      .def(
          "run",
          [](CudaSession& session, const py::array& image, py::array& out, std::optional<float> sigma, float strength,
             bool clip, const py::object& progress) {
            return named(fr::run_session(session, image, out, sigma, strength, clip, progress));
          },
          "image"_a.noconvert(), "out"_a.noconvert(), "sigma"_a, "strength"_a, "clip"_a, "progress"_a)
      .def(
          "run_there",
          [](CudaSession& session, Address image, Address out, const std::string& pixel, std::array<int64_t, 3> sizes,
             std::optional<float> sigma, float strength, bool clip, Address stream) {
            fr::Picture picture;
            picture.in = reinterpret_cast<const void*>(image);
            picture.out = reinterpret_cast<void*>(out);
            picture.type = parse_pixel(pixel);
            picture.height = sizes[0];
            picture.width = sizes[1];
            picture.channels = sizes[2];
            picture.in_row_bytes = picture.out_row_bytes = sizes[1] * sizes[2] * fr::pixel_bytes(picture.type);
            fr::RunOptions options;
            options.sigma = sigma;
            options.strength = strength;
            options.clip = clip;
            options.stream = stream_of(stream);
            fr::RunReport report;
            {
              fr::WithoutGil free;
              report = session.run(picture, options);
            }
            return named(report);
          },
          "Pictures on the device, [H, W, C] without gaps: addresses, the pixel's name and the sizes.", "image"_a,
          "out"_a, "pixel"_a, "sizes"_a, "sigma"_a, "strength"_a, "clip"_a, "stream"_a)
      .def("reset", &CudaSession::reset, release)
      .def("state", &fr::state_of<CudaSession>, "number"_a)
      .def("set_state", &fr::set_state<CudaSession>, "number"_a, "image"_a.noconvert())
      .def(
          "preview",
          [](const CudaSession& session, int64_t height, int64_t width) {
            return named(session.preview(height, width));
          },
          "height"_a, "width"_a)
      .def_property_readonly(
          "steps",
          [](const CudaSession& session) {
            py::list steps;
            for (const fr::CudaStep& step : session.program().steps())
              steps.append(py::make_tuple(session.program().way_of(step), step.nodes));
            return steps;
          },
          "What is launched in order: the way, and the numbers of the nodes that it computes.");
}
