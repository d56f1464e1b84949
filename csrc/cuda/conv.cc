// Which way a convolution goes, its checks and its weights; the ways themselves are in conv*.cu.
#include "cuda/checks.h"
#include "cuda/conv_paths.h"
#include "cuda/values.h"

namespace fr::cuda {
namespace {

bool is_depthwise(const ConvSpec& spec) {
  return spec.groups == spec.in_channels && spec.groups == spec.out_channels && spec.groups > 1;
}

int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, bool transposed) {
  return transposed ? (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
                    : (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

void check_convolution(const Convolution& conv) {
  const ConvSpec& s = conv.spec;
  const auto refuse = [](const std::string& what) { throw std::invalid_argument("convolve: " + what); };
  if (s.in_channels != conv.in.channels || s.out_channels != conv.out.channels || s.in_channels < 1 ||
      s.out_channels < 1 || s.groups < 1 || s.in_channels % s.groups || s.out_channels % s.groups)
    refuse("channels and groups do not fit the images");
  if (s.kernel_h < 1 || s.kernel_w < 1 || s.stride_h < 1 || s.stride_w < 1 || s.dilation_h < 1 || s.dilation_w < 1 ||
      s.pad_top < 0 || s.pad_left < 0)
    refuse("kernel, stride and dilation must be at least 1, padding at least 0");
  if (conv.transposed && (conv.edge != Edge::zero || s.dilation_h != 1 || s.dilation_w != 1))
    refuse("a transposed convolution has no dilation and no edge but zeros");
  if (conv.in.images != conv.out.images) refuse("input and output differ in their number of images");
  check_images(conv.x, conv.in, "convolve: x");
  check_images(conv.y, conv.out, "convolve: y");
  if (s.residual != Residual::none) check_images(conv.residual, conv.out, "convolve: residual");
}

}  // namespace

const char* conv_path_name(ConvPath path) {
  constexpr const char* kNames[kConvPaths] = {"conv3x3", "conv3x3_tma", "implicit", "depthwise", "plain"};
  return kNames[static_cast<int>(path)];
}

bool conv_path_supports(const Convolution& conv, ConvPath path, const Device& device) {
  const bool half = conv.type != Type::f32;
  switch (path) {
    case ConvPath::conv3x3:
      return conv3x3_supports(conv, device);
    case ConvPath::conv3x3_tma:
      return conv3x3_tma_supports(conv, device);
    case ConvPath::implicit:
      return half && device.capability >= 80 && !is_depthwise(conv.spec);
    case ConvPath::depthwise:
      return is_depthwise(conv.spec);
    case ConvPath::plain:
      return !half && !is_depthwise(conv.spec);
  }
  return false;
}

ConvPath choose_conv_path(const Convolution& conv, const Device& device) {
  for (const ConvPath path :
       {ConvPath::conv3x3_tma, ConvPath::conv3x3, ConvPath::depthwise, ConvPath::implicit, ConvPath::plain})
    if (conv_path_supports(conv, path, device)) return path;
  throw std::invalid_argument("convolve: float16 and bfloat16 need compute capability 8.0, this device has " +
                              std::to_string(device.capability / 10) + "." + std::to_string(device.capability % 10));
}

std::vector<uint8_t> pack_conv_weights(const ConvSpec& spec, bool transposed, Type type, const float* weight) {
  const int64_t taps = checked_product(spec.kernel_h, spec.kernel_w), bytes = type_bytes(type);
  const bool depthwise = is_depthwise(spec);
  const int64_t out_padded = depthwise ? round_up(spec.out_channels, 8) : round_up(spec.out_channels, 16);
  const int64_t in_padded = depthwise ? 1 : round_up(spec.in_channels, 16);
  const int64_t group_in = spec.in_channels / spec.groups, group_out = spec.out_channels / spec.groups;
  std::vector<uint8_t> packed(static_cast<size_t>(checked_product(taps, out_padded, in_padded, bytes)), 0);
  for (int64_t out = 0; out < spec.out_channels; ++out)
    for (int64_t i = 0; i < group_in; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t in = out / group_out * group_in + i;
        const int64_t from =
            transposed ? (in * group_out + out % group_out) * taps + tap : (out * group_in + i) * taps + tap;
        const int64_t to = (tap * out_padded + out) * in_padded + (depthwise ? 0 : in);
        store_value(type, weight[from], packed.data() + to * bytes);
      }
  return packed;
}

void convolve(const Convolution& conv, ConvPath path, Stream stream) {
  check_convolution(conv);
  if (conv.out.pixels() == 0) return;
  const ConvSpec& s = conv.spec;
  const auto fits = [&](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
    // An output may be larger by what torch calls output padding, or smaller where the caller wants no more.
    const int64_t size = out_size(in, kernel, stride, padding, dilation, conv.transposed);
    return in >= 1 && (conv.transposed ? out < size + stride : out <= size + padding + kernel * dilation);
  };
  if (!fits(conv.in.height, conv.out.height, s.kernel_h, s.stride_h, s.pad_top, s.dilation_h) ||
      !fits(conv.in.width, conv.out.width, s.kernel_w, s.stride_w, s.pad_left, s.dilation_w))
    throw std::invalid_argument("convolve: the output is larger than the input gives");
  if (conv.weight == nullptr || reinterpret_cast<uintptr_t>(conv.weight) % 16 != 0)
    throw std::invalid_argument("convolve: weight must be aligned to 16 bytes");
  const Device device = current_device();
  if (!conv_path_supports(conv, path, device))
    throw std::invalid_argument(std::string("convolve: ") + conv_path_name(path) + " cannot do this convolution here");
  switch (path) {
    case ConvPath::conv3x3:
      return conv3x3(conv, device, stream);
    case ConvPath::conv3x3_tma:
      return conv3x3_tma(conv, device, stream);
    case ConvPath::implicit:
      return conv_implicit(conv, stream);
    case ConvPath::depthwise:
      return conv_depthwise(conv, stream);
    case ConvPath::plain:
      return conv_plain(conv, stream);
  }
}

}  // namespace fr::cuda
