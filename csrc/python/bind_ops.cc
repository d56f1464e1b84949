// The operators of fastrestore/ops: tensors come as addresses with their sizes and pitches, in elements.
#include <pybind11/native_enum.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "engine/attention_image.h"
#include "engine/conv_image.h"
#include "engine/pixel_image.h"
#include "graph/graph.h"
#include "python/gil.h"

namespace py = pybind11;
using namespace py::literals;

namespace fr {
namespace {

using Address = uintptr_t;
using Pair = std::array<int64_t, 2>;   // along height, along width
using Pitch = std::array<int64_t, 3>;  // from image to image, row to row, pixel to pixel
using Sizes = std::array<int64_t, 4>;  // as torch gives them: [N, C, H, W], [out, in / groups, kernel_h, kernel_w]

ConvAlgorithm parse_algorithm(const std::string& name, const ConvSpec& spec) {
  if (name == "auto") return choose_conv_algorithm(spec, host_isa());
  if (name == "direct") return ConvAlgorithm::direct;
  if (name == "winograd4") return ConvAlgorithm::winograd4;
  if (name == "reference") return ConvAlgorithm::reference;
  throw std::invalid_argument("conv2d: unknown algorithm '" + name + "': use auto, direct, winograd4 or reference");
}

template <class T>
NhwcView<T> view(Address address, const Pitch& pitch) {
  return {reinterpret_cast<T*>(address), pitch[0], pitch[1], pitch[2]};
}

void check_address(Address address, int64_t values, const char* op) {
  if (address == 0 && values > 0)
    throw std::invalid_argument(std::string(op) + ": a null address for a tensor with values");
}

void conv2d(Address x, const Sizes& x_sizes, const Pitch& x_pitch, Address weight, const Sizes& weight_sizes,
            Address bias, Address residual, const Pitch& residual_pitch, Address out, const Sizes& out_sizes,
            const Pair& stride, const Pair& padding, const Pair& dilation, int64_t groups,
            const std::string& activation, float slope, float scale, bool residual_first, const std::string& algorithm,
            int threads) {
  ConvSpec spec;
  spec.in_channels = x_sizes[1];
  spec.out_channels = weight_sizes[0];
  spec.kernel_h = weight_sizes[2];
  spec.kernel_w = weight_sizes[3];
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
  if (residual != 0) spec.residual = residual_first ? Residual::before_activation : Residual::after_scale;
  if (checked_product(weight_sizes[1], groups) != x_sizes[1])
    throw std::invalid_argument("conv2d: the weight is for " + std::to_string(weight_sizes[1] * groups) +
                                " input channels, x has " + std::to_string(x_sizes[1]));
  ConvImages images;
  images.images = x_sizes[0];
  images.in_height = x_sizes[2];
  images.in_width = x_sizes[3];
  images.out_height = conv_out_size(x_sizes[2], spec.kernel_h, spec.stride_h, spec.pad_top, spec.dilation_h);
  images.out_width = conv_out_size(x_sizes[3], spec.kernel_w, spec.stride_w, spec.pad_left, spec.dilation_w);
  const Sizes wanted = {x_sizes[0], spec.out_channels, images.out_height, images.out_width};
  if (out_sizes != wanted) throw std::invalid_argument("conv2d: the output has the wrong sizes");
  const int64_t out_row = checked_product(images.out_width, spec.out_channels);
  const int64_t out_image = checked_product(images.out_height, out_row);
  images.in = view<const float>(x, x_pitch);
  images.residual = view<const float>(residual, residual_pitch);
  images.out = view<float>(out, {out_image, out_row, spec.out_channels});
  check_address(x, checked_product(x_sizes[0], x_sizes[1], x_sizes[2], x_sizes[3]), "conv2d");
  check_address(weight, 1, "conv2d");
  check_address(out, checked_product(out_image, x_sizes[0]), "conv2d");
  const PackedConv conv = pack_conv(spec, parse_algorithm(algorithm, spec), host_isa(),
                                    reinterpret_cast<const float*>(weight), reinterpret_cast<const float*>(bias));
  conv_images(conv, images, threads);
}

void pixel_shuffle(Address packed, Address out, int64_t images, int64_t height, int64_t width, int64_t channels,
                   int64_t r, int threads) {
  const int64_t values = checked_product(images, height, width, channels, r, r);
  check_address(packed, values, "pixel_shuffle");
  check_address(out, values, "pixel_shuffle");
  pixel_shuffle_images(reinterpret_cast<const float*>(packed), reinterpret_cast<float*>(out), images, height, width,
                       channels, r, threads);
}

void pixel_unshuffle(Address in, Address packed, int64_t images, int64_t height, int64_t width, int64_t channels,
                     int64_t r, int threads) {
  const int64_t values = checked_product(images, height, width, channels, r, r);
  check_address(in, values, "pixel_unshuffle");
  check_address(packed, values, "pixel_unshuffle");
  pixel_unshuffle_images(reinterpret_cast<const float*>(in), reinterpret_cast<float*>(packed), images, height, width,
                         channels, r, threads);
}

void window_attention(Address in, Address out, int64_t images, int64_t height, int64_t width, int64_t heads,
                      int64_t head_channels, int64_t side, int64_t shift, Address bias, int threads) {
  if (heads < 1 || head_channels < 1 || side < 1 || side > kMostWindow || shift < 0 || shift >= side)
    throw std::invalid_argument("window_attention: heads, channels, side or shift out of range");
  const int64_t values = checked_product(images, height, width, heads, head_channels);
  check_address(in, values, "window_attention");
  check_address(out, values, "window_attention");
  check_address(bias, 1, "window_attention");
  if (values == 0) return;
  AttentionImages attention;
  attention.in = reinterpret_cast<const float*>(in);
  attention.out = reinterpret_cast<float*>(out);
  attention.images = images;
  attention.height = height;
  attention.width = width;
  attention.heads = heads;
  attention.head_channels = head_channels;
  attention.side = side;
  attention.shift = shift;
  attention.bias = reinterpret_cast<const float*>(bias);
  window_attention_images(attention, threads);
}

void from_pixels(Pixel type, Address image, Address out, int64_t values, int threads) {
  check_address(image, values, "from_pixels");
  check_address(out, values, "from_pixels");
  convert_in_values(type, reinterpret_cast<const void*>(image), reinterpret_cast<float*>(out), values, threads);
}

void to_pixels(Pixel type, Address x, Address out, int64_t values, bool clip, int threads) {
  check_address(x, values, "to_pixels");
  check_address(out, values, "to_pixels");
  convert_out_values(type, reinterpret_cast<const float*>(x), reinterpret_cast<void*>(out), values, clip, threads);
}

}  // namespace
}  // namespace fr

void bind_ops(py::module_& m) {
  const py::call_guard<fr::WithoutGil> release;
  py::native_enum<fr::Pixel>(m, "Pixel", "enum.Enum", "How a picture stores a value.")
      .value("u8", fr::Pixel::u8)
      .value("u16", fr::Pixel::u16)
      .value("f16", fr::Pixel::f16)
      .value("f32", fr::Pixel::f32)
      .finalize();
  m.def("conv2d", &fr::conv2d, release, "act(conv(x, weight) + bias [+ residual]) * scale [+ residual], in float32.",
        "x"_a, "x_sizes"_a, "x_pitch"_a, "weight"_a, "weight_sizes"_a, "bias"_a, "residual"_a, "residual_pitch"_a,
        "out"_a, "out_sizes"_a, "stride"_a, "padding"_a, "dilation"_a, "groups"_a, "activation"_a, "slope"_a, "scale"_a,
        "residual_first"_a, "algorithm"_a, "threads"_a);
  m.def("pixel_shuffle", &fr::pixel_shuffle, release, "[N, H, W, C r r] -> [N, H r, W r, C]", "packed"_a, "out"_a,
        "images"_a, "height"_a, "width"_a, "channels"_a, "r"_a, "threads"_a);
  m.def("pixel_unshuffle", &fr::pixel_unshuffle, release, "[N, H r, W r, C] -> [N, H, W, C r r]", "x"_a, "out"_a,
        "images"_a, "height"_a, "width"_a, "channels"_a, "r"_a, "threads"_a);
  m.def("window_attention", &fr::window_attention, release, "[N, H, W, 3 C] -> [N, H, W, C]", "x"_a, "out"_a,
        "images"_a, "height"_a, "width"_a, "heads"_a, "head_channels"_a, "side"_a, "shift"_a, "bias"_a, "threads"_a);
  m.def("from_pixels", &fr::from_pixels, release, "Pixels to float32.", "type"_a, "image"_a, "out"_a, "values"_a,
        "threads"_a);
  m.def("to_pixels", &fr::to_pixels, release, "float32 to pixels.", "type"_a, "x"_a, "out"_a, "values"_a, "clip"_a,
        "threads"_a);
}
