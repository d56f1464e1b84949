// GPU kernels, one fused operation each, on raw device pointers and a stream. None allocates, waits for the device or
// keeps anything, so all may be captured into a CUDA graph. Plain C++: no CUDA header is needed to call them.
//
// Images are NHWC. A pixel's channels are padded to a multiple of 8, its pitch and every other pitch is a multiple of
// 8 values, and data is aligned to 16 bytes. Padding channels of an input may hold anything finite; those of an output
// become 0. An output must not overlap an input, unless a kernel says so.
//
// Each throws std::invalid_argument for what it cannot do, NoDevice where there is no GPU, CudaError where the runtime
// reports one. Sums are float32 whatever the type.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/arithmetic/arithmetic.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/convert/convert.h"
#include "kernels/pool/pool.h"
#include "kernels/resize/resize.h"

namespace fr::cuda {

class NoDevice : public std::runtime_error {
 public:
  explicit NoDevice(const std::string& why) : std::runtime_error("no usable CUDA device: " + why) {}
};
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Stream = void*;  // a cudaStream_t; null: the default stream

enum class Type : int32_t { f16, bf16, f32 };
constexpr int64_t type_bytes(Type type) { return type == Type::f32 ? 4 : 2; }

struct Device {
  int capability = 0;  // 10 * major + minor
  int processors = 0;
  int64_t shared_limit = 0;  // bytes of shared memory that one block may ask for
};
constexpr int kLeastCapability = 80;  // that kernels are compiled for
Device current_device();
int device_count();  // throws NoDevice rather than returning 0

template <class Data>
struct ImagesOf {
  Data* data = nullptr;
  int64_t image_pitch = 0, row_pitch = 0, pixel_pitch = 0;  // in values
};
using Images = ImagesOf<void>;
struct ConstImages : ImagesOf<const void> {
  ConstImages() = default;
  ConstImages(const void* at, int64_t image, int64_t row, int64_t pixel)
      : ImagesOf<const void>{at, image, row, pixel} {}
  ConstImages(const Images& images)
      : ImagesOf<const void>{images.data, images.image_pitch, images.row_pitch, images.pixel_pitch} {}
};

struct Extent {
  int64_t images = 0, height = 0, width = 0, channels = 0;
  constexpr int64_t pixels() const { return images * height * width; }
};

// What stands in for pixels outside of an image. reflect: ... 2 1 | 0 1 2 ...; clamp: ... 0 0 | 0 1 2 ...
enum class Edge : int32_t { zero, reflect, clamp };

// Convolution: y = act(conv(x, w) + bias [+ r]) * scale [+ r], as kernels/conv2d/conv2d.h says it.
//
//   conv3x3      stride 1, padding 1, up to 96 input channels, tensor cores: the tile and its halo in shared memory
//   conv3x3_tma  the same for sm_90a (wgmma, TMA), 64 to 64 channels
//   implicit     anything dense, tensor cores; groups as zeros in dense weights
//   depthwise    as many groups as channels, in and out
//   plain        float32
enum class ConvPath : int32_t { conv3x3, conv3x3_tma, implicit, depthwise, plain };
constexpr int kConvPaths = 5;
const char* conv_path_name(ConvPath path);

struct Convolution {
  ConvSpec spec;
  bool transposed = false;  // then the spec's kernel, stride and padding are those of the transposed convolution
  Edge edge = Edge::zero;
  Type type = Type::f16;
  Extent in, out;
  ConstImages x, residual;  // residual: of the output's extent; unused when spec.residual is none
  Images y;
  const void* weight = nullptr;  // as pack_conv_weights leaves it, on the device
  const float* bias = nullptr;   // [out channels], or null
};

// The fastest path that can do this convolution on this device. Throws std::invalid_argument if there is none.
ConvPath choose_conv_path(const Convolution& conv, const Device& device);
bool conv_path_supports(const Convolution& conv, ConvPath path, const Device& device);

// weight: [out][in / groups][kernel_h][kernel_w], transposed [in][out / groups][kernel_h][kernel_w].
// The result, in values of the type: [kernel_h * kernel_w][out][in], both padded with zeros to multiples of 16;
// depthwise: [kernel_h * kernel_w][channels], padded to a multiple of 8.
std::vector<uint8_t> pack_conv_weights(const ConvSpec& spec, bool transposed, Type type, const float* weight);

void convolve(const Convolution& conv, ConvPath path, Stream stream);

// out[y * r + i][x * r + j][c] = packed[y][x][(c * r + i) * r + j]; `in` is the extent of x.
void pixel_shuffle(Type type, const ConstImages& x, const Extent& in, int64_t r, const Images& y, Stream stream);
void pixel_unshuffle(Type type, const ConstImages& x, const Extent& in, int64_t r, const Images& y, Stream stream);

// A picture, rows of interleaved pixels, of which those from row `top` and column `left` on are held.
struct PictureRows {
  Pixel type = Pixel::f32;
  int64_t height = 0, width = 0, channels = 0;
  int64_t row_bytes = 0;  // from row to row of what is held
  int64_t top = 0, left = 0;
};

// Rows [top, top + out.height) and columns [left, left + out.width) of a picture, converted as kernels/convert does;
// outside of it what `edge` says. out.channels are the picture's, or any where the picture has 1.
void gather_tile(const PictureRows& picture, const void* pixels, int64_t top, int64_t left, Edge edge, Type type,
                 const Extent& out, const Images& y, Stream stream);

// How one tile's weight falls off towards its neighbours: within `ramp` pixels of a side that has one, as a raised
// cosine, so that two tiles that overlap by `ramp` pixels sum to 1.
struct TileWeight {
  int64_t ramp_top = 0, ramp_bottom = 0, ramp_left = 0, ramp_right = 0;
};

// sums[y][x][c] += weight * x over the tile, at (top, left) of a float32 image of width `width` and in.channels.
void blend_tile(Type type, const ConstImages& x, const Extent& in, const TileWeight& weight, float* sums, int64_t width,
                int64_t top, int64_t left, Stream stream);

// Writes restored pixels at (top, left) of a picture: v = image + strength * (restored - image), clipped and converted
// as kernels/convert does. Adds to *non_finite (on the device) how many restored values were NaN or infinite. `result`
// says how out is held; its type and sizes are the picture's.
void store_tile(Type type, const ConstImages& x, const Extent& in, const PictureRows& picture, const void* image,
                const PictureRows& result, void* out, int64_t top, int64_t left, float strength, bool clip,
                unsigned long long* non_finite, Stream stream);

// y = (x - mean) / sqrt(variance + epsilon) * scale + shift over a pixel's channels; without mean (bias-free norm of
// Restormer): y = x / sqrt(variance + epsilon) * scale. scale, shift: float32 [channels]; shift may be null.
struct LayerNorm {
  const float* scale = nullptr;
  const float* shift = nullptr;
  float epsilon = 1e-6f;
  bool subtract_mean = true;
};
void layer_norm(Type type, const LayerNorm& norm, const ConstImages& x, const Extent& in, const Images& y,
                Stream stream);

// y[c] = act(x[c]) * x[c + out.channels]; act is the identity (NAFNet's gate) or gelu (Restormer's).
void gate(Type type, bool gelu, const ConstImages& x, const Extent& out, const Images& y, Stream stream);

// NAFNet's block in two kernels, of float16 or bfloat16, around the mean that it needs: with y = x + project(g * scale)
// and g = gate(depthwise(expand(norm(x)))), where gate(a, b) = a * b and depthwise is 3x3 with zeros around, the block
// is y + contract(gate(expand(norm(y)))). The norms are plain: what they scale and shift by is part of the weights and
// biases that follow. Weights are packed; channels are 32, 64, 128, 256 or 512.
struct GatedFront {
  float epsilon = 0.0f;                                           // of the norm
  const void *expand = nullptr, *depthwise = nullptr;             // to 2 * channels, and of them
  const float *expand_bias = nullptr, *depthwise_bias = nullptr;  // [2 * channels], or null
};
struct GatedBack {
  float epsilon = 0.0f;
  const void *project = nullptr, *expand = nullptr, *contract = nullptr;
  const float *project_bias = nullptr, *expand_bias = nullptr, *contract_bias = nullptr;
  bool one_scale = true;  // scale is one pixel, for all
};
bool gated_block_supports(Type type, int64_t channels, const Device& device);
int64_t gated_front_tiles(const Extent& in);
// Writes g and, unless they are null, its sums over each tile, float32 [tiles][channels], for mean_of_sums.
void gated_front(Type type, const GatedFront& block, const ConstImages& x, const Extent& in, const Images& y,
                 float* sums, Stream stream);
void gated_back(Type type, const GatedBack& block, const ConstImages& gated, const ConstImages& scale,
                const ConstImages& x, const Extent& out, const Images& y, Stream stream);

// What is read for each pixel: channels from `first` on; one_channel: that one serves for all; one_pixel: pixel (0, 0)
// of each image does.
struct PixelOperand {
  ConstImages x;
  Type type = Type::f32;
  int64_t first = 0;
  bool one_channel = false, one_pixel = false;
};

// fill: scale_a; copy: a, into channels [first, first + out.channels) of y, whose other channels stay, but that those
// up to the next multiple of 8 become 0 if this `ends` the pixel; add: scale_a * a + scale_b * b; multiply: a * b;
// combine: the formula of a and b; gate: the curve of a, times b; affine: a * table[c] + table[channels + c]; activate:
// the curve of a, with slopes table[c] for prelu.
struct PixelOperation {
  enum Kind : int32_t { fill, copy, add, multiply, combine, gate, affine, activate };
  Kind kind = copy;
  float scale_a = 1.0f, scale_b = 1.0f;
  CurveSpec curve;
  Formula formula = Formula::divide;
  const float* table = nullptr;  // on the device
  int64_t first = 0;             // copy
  bool ends = false;             // copy
};
// type: of y.
void pointwise(Type type, const PixelOperation& operation, const PixelOperand& a, const PixelOperand& b,
               const Images& y, const Extent& out, Stream stream);

// As kernels/pool says it.
struct PoolWindow {
  Pool kind = Pool::max;
  int64_t kernel_h = 1, kernel_w = 1, stride = 1, pad_top = 0, pad_left = 0, dilation_h = 1, dilation_w = 1;
  int64_t divisor = 0;
};
void pool(Type type, const PoolWindow& window, const ConstImages& x, const Extent& in, const Images& y,
          const Extent& out, Stream stream);

// As kernels/channel_pool says it: of each pixel's channels, to one.
void channel_pool(Type type, Pool kind, const ConstImages& x, const Extent& in, const Images& y, Stream stream);

// As kernels/local_mean says which window: its mean by channel, a window being no larger than the image. sums: float32
// [images][height][width][channels, rounded up to a multiple of 8], for the means along columns. Sums are compensated:
// whatever the window, each of the two means is within 2^-23 of the mean of the magnitudes, and what enters a window
// and leaves it again leaves next to no trace. NaN and infinities may reach up to 64 pixels further than the window.
void local_mean(Type type, int64_t side, const ConstImages& x, const Extent& in, float* sums, const Images& y,
                Stream stream);

// As kernels/resize says it; a factor that enlarges or, otherwise, divides the sides.
void resize(Type type, Resize mode, bool enlarge, int64_t factor, const ConstImages& x, const Extent& in,
            const Images& y, Stream stream);

// Statistics of one whole image in two steps, in float32 and in an order that depends on the image's size alone: sums
// of `fold` rows, [ceil(height / fold)][channels], and the mean over all pixels that `groups` such rows of sums make,
// [channels], written as a pixel of y.
void row_sums(Type type, const ConstImages& x, const Extent& in, int64_t fold, float* sums, Stream stream);
void mean_of_sums(Type type, const float* sums, const Extent& in, int64_t groups, const Images& y, Stream stream);

// Attention between channels, as kernels/channel_attention says it: products of each head's queries and keys over
// `fold` rows, [ceil(height / fold)][heads][n * (n + 2)]; the softmax of their sum (which takes the first row's place),
// weights [heads][n][n]; and the values of x, its channels from `first` on, mixed by these. The products are made on
// tensor cores, squares and all in one pass, for float16 and bfloat16 and heads of up to 48 channels, a multiple of 8.
void row_grams(Type type, const ConstImages& x, const Extent& in, int64_t heads, int64_t fold, float* grams,
               Stream stream);
void softmax_of_grams(float* grams, int64_t rows, int64_t heads, int64_t channels, const float* temperature,
                      float* weights, Stream stream);
void mix_channels(Type type, const float* weights, const ConstImages& x, int64_t first, int64_t heads, const Images& y,
                  const Extent& out, Stream stream);

// As kernels/warp says it: y(p) = x(p + flow(p)), bilinear, the edge's pixels beyond the image. flow: two channels,
// along width and along height.
void warp(Type type, const ConstImages& x, const Extent& in, const ConstImages& flow, const Images& y, Stream stream);

// A 1x1 convolution of what mix_channels gives is one of the values themselves: its weights, from those of the mixture
// and `project`, float32 [out_channels][channels], packed as pack_conv_weights does.
void fold_mixture(Type type, const float* weights, int64_t channels, int64_t heads, const float* project,
                  int64_t out_channels, void* folded, Stream stream);

// Attention of each pixel to those of its window of side x side pixels (side at most 8).
//
// qkv: 3 * heads * head_channels channels, q, k and v one after the other, each by head; head_channels at most 32 and a
// multiple of 2. bias: float32 [heads][(2 side - 1)^2], added to the scores by the pixels' distance; null: none. The
// grid of windows is shifted by `shift`, and the smaller windows that this leaves at the edges keep to themselves.
struct WindowAttention {
  int64_t heads = 1, head_channels = 0, side = 8, shift = 0;
  float scale = 1.0f;  // of q * k
  const float* bias = nullptr;
};
void window_attention(Type type, const WindowAttention& attention, const ConstImages& qkv, const Extent& out,
                      const Images& y, Stream stream);

}  // namespace fr::cuda
