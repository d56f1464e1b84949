// What to compute: a list of operators on NHWC images. Knows no device, no instruction set, no image size.
//
// Every node is an image whose sides are those of the input divided by the node's stride; the input's sides are
// multiples of multiple_of(). Statistics of a whole image are an image of one pixel (`whole`); what they are made from
// is one of one column, with a pixel for each `fold` rows. Nodes stand in the order of computation.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/arithmetic/arithmetic.h"
#include "kernels/conv2d/conv2d.h"
#include "kernels/pool/pool.h"
#include "kernels/resize/resize.h"

namespace fr {

enum class Op {
  input,
  sigma_plane,
  conv2d,
  conv_transpose2d,
  pixel_shuffle,
  pixel_unshuffle,
  concat,
  add,
  multiply,
  affine,
  activate,
  pool,
  resize,
  layer_norm,
  partial_sum,
  mean,
  window_attention,
  partial_gram,
  channel_softmax,
  mix,
  state,
  warp,
  gate,
  combine,
  channel_pool,
  local_mean
};

constexpr size_t kMostInputs = 64;                 // of one node
constexpr int64_t kFold = 4;                       // rows that are summed at once
constexpr int64_t kMostWindow = 64;                // side of an attention window
constexpr int64_t kMostSide = 1 << 16;             // of the window of a local mean
constexpr int64_t kEverything = int64_t{1} << 40;  // a reach beyond every image

const char* op_name(Op op);
Activation parse_activation(const std::string& name);  // throws std::invalid_argument for an unknown name

// What an operator reads outside of the image. reflect: ... 2 1 | 0 1 2 ...; clamp: ... 0 0 | 0 1 2 ...
enum class Border : int32_t { zero, reflect, clamp };
Border parse_border(const std::string& name);  // throws std::invalid_argument for an unknown name

// What a session keeps from one picture to the next: node `now` begins as zeros, later as what `next` was.
struct State {
  int now = -1, next = -1;
};

// Columns (or rows) [begin, end) of a node.
struct Interval {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
};

Interval hull(Interval a, Interval b);  // the smallest that holds both

enum class Axis { rows, columns };

// Channels [first, first + count) of a node.
struct Channels {
  int64_t first = 0, count = 0;
};

struct Node {
  Op op = Op::input;
  std::vector<int> inputs;  // node numbers, all smaller than this node's own
  int64_t channels = 0;
  int64_t stride = 1;  // input pixels per pixel of this node, each way
  bool whole = false;  // one pixel, which stands for the whole image
  int64_t fold = 0;    // one column, each pixel of which stands for so many rows of the image; 0: an image
  int broadcast = -1;  // which of the inputs is one pixel, read for every pixel of this image

  // conv2d, conv_transpose2d: the residual, if any, is the last input. For a transposed convolution the spec's
  // kernel, stride and padding are those of the transposed one, and weight is [in][out][kh][kw].
  // pool takes kernel, stride, padding and dilation from here too.
  ConvSpec conv;
  std::vector<float> weight;     // conv2d: [out][in / groups][kh][kw]; affine, layer_norm: scale [channels];
                                 // prelu: slope [channels]; window_attention: [heads][2 * window - 1][2 * window - 1];
                                 // channel_softmax: temperature [heads]
  std::vector<float> bias;       // [out], or empty; affine, layer_norm: shift [channels]
  Border border = Border::zero;  // conv2d; input: what pads the picture to multiple_of()

  std::vector<Channels> parts;           // concat, multiply, gate, combine: what is taken of each input
  CurveSpec curve;                       // activate, gate
  Formula formula = Formula::divide;     // combine
  Pool pool = Pool::max;                 // pool, channel_pool
  int64_t divisor = 0;                   // pool, average: 0 counts the pixels that lie inside
  Resize mode = Resize::nearest;         // resize
  bool enlarge = true;                   // resize
  int64_t factor = 1;                    // pixel_shuffle, pixel_unshuffle, resize
  float scale_a = 1.0f, scale_b = 1.0f;  // add: scale_a * inputs[0] + scale_b * inputs[1]
  float sigma_scale = 1.0f;              // sigma_plane: the plane holds sigma * sigma_scale
  float epsilon = 0.0f;                  // layer_norm
  bool centred = true;                   // layer_norm: whether the mean is taken off
  int64_t heads = 1;                     // attention
  int64_t window = 1, shift = 0;         // window_attention: side of a window, and where the first whole one begins
  int64_t side = 1;                      // local_mean: of a window
};

// Whether a node divides or takes roots or logarithms, which makes some finite values infinite or NaN.
bool has_poles(const Node& node);
bool compares(const Node& node, size_t which);  // input `which`: whether it is greater than something

// How many rows or columns node `node` has when the picture has `side` of them.
int64_t extent(const Node& node, Axis axis, int64_t side);

// The window of a grid of windows (the first whole one begins at `shift`, before it stands a smaller one) that x is in.
Interval window_at(const Node& node, int64_t x);

// The window that local_mean takes around pixel x of [0, size); near an edge, the nearest that lies inside.
Interval mean_window(int64_t side, int64_t x, int64_t size);

class Graph {
 public:
  // Each returns the new node's number and throws std::invalid_argument, saying what does not fit, otherwise.
  int input(int64_t channels, Border border = Border::clamp);
  int sigma_plane(int like, float scale);
  int conv2d(int x, ConvSpec spec, std::vector<float> weight, std::vector<float> bias, int residual = -1,
             Border border = Border::zero);
  int conv_transpose2d(int x, ConvSpec spec, std::vector<float> weight, std::vector<float> bias, int residual = -1);
  int pixel_shuffle(int x, int64_t factor);
  int pixel_unshuffle(int x, int64_t factor);
  int concat(const std::vector<int>& parts);
  int concat(const std::vector<int>& parts, const std::vector<Channels>& channels);  // of each part these
  int add(int a, int b, float scale_a, float scale_b);
  // As many channels of both, or one of one: it serves for all. b may be one pixel, which serves for all pixels.
  int multiply(int a, int b, Channels of_a, Channels of_b);
  int gate(int a, int b, Channels of_a, Channels of_b, CurveSpec curve);     // curve(a) * b; a curve without slopes
  int combine(int a, int b, Channels of_a, Channels of_b, Formula formula);  // operands as multiply's
  int affine(int x, std::vector<float> scale, std::vector<float> shift);
  int activate(int x, CurveSpec curve, std::vector<float> slope = {});
  int pool(int x, Pool kind, ConvSpec window, int64_t divisor);  // channels in `window` are ignored
  int channel_pool(int x, Pool kind);                            // of each pixel's channels, to one
  int resize(int x, Resize mode, bool enlarge, int64_t factor);
  // (x - mean) / sqrt(variance + epsilon) * scale + shift by pixel over its channels; not centred: x / sqrt(...).
  int layer_norm(int x, std::vector<float> scale, std::vector<float> shift, float epsilon, bool centred);
  // The mean of all pixels is made of sums over kFold rows.
  int partial_sum(int x);
  int mean(int partial);
  // By channel, of the window of `side` pixels around each pixel (mean_window); a picture's smaller side stands for it.
  int local_mean(int x, int64_t side);
  // Softmax attention of each pixel to those of its window. x: queries, keys and values one after the other, each by
  // head; bias by distance, [heads][2 window - 1][2 window - 1].
  int window_attention(int x, int64_t heads, int64_t window, int64_t shift, std::vector<float> bias);
  // Softmax attention between channels: the products of each head's queries and keys (channels [0, 2/3) of x) over all
  // pixels are made of sums over kFold rows; their softmax is a pixel of [head][channel][channel] weights, by which mix
  // gives each head's share of x's `values` anew.
  int partial_gram(int x, int64_t heads);
  int channel_softmax(int partial, std::vector<float> temperature);
  int mix(int weights, int x, Channels values, int64_t heads);
  // x seen through a flow of two channels, along width and along height, in pixels of x; bilinear, edges repeated.
  int warp(int x, int flow);
  // An image from the run before, of this graph's size / stride. Each must be given its successor before the graph is
  // used; that is kept in float32.
  int state(int64_t channels, int64_t stride);
  void set_next(int state, int node);
  void set_output(int node);  // must have the input's size and channels

  const std::vector<Node>& nodes() const { return nodes_; }
  int output() const { return output_; }
  const std::vector<State>& states() const { return states_; }
  bool is_result(size_t node) const;  // the output, or a state's successor
  bool takes_sigma() const;
  int64_t channels() const;                             // of input and output
  int64_t multiple_of() const { return multiple_of_; }  // least common multiple of the strides
  bool sees_everything() const;                         // whether an output pixel depends on the whole picture
  int64_t halo() const;  // the furthest that an output pixel looks, in input pixels, each way; -1: at everything
  // The same of all results: how much of the picture, and of the states, must lie around a part that is computed.
  int64_t reach() const;

 private:
  const Node& at(int node) const;
  Node of_two(Op op, int a, int b, Channels of_a, Channels of_b) const;
  int append(Node node);
  int64_t reach_of(const std::vector<int>& results) const;

  std::vector<Node> nodes_;
  std::vector<State> states_;
  int output_ = -1;
  size_t inputs_ = 0;  // of all nodes
  int64_t multiple_of_ = 1;
};

// What output [begin, end) of a node needs of input number `which`, by the mathematics alone; not clipped to the image.
Interval needed(const Node& node, size_t which, Interval output, Axis axis);

// The rows or columns inside the image that output [begin, end) reads of input `which`, which has `size` of them:
// where `needed` reaches beyond the image, those that stand in for what is outside.
Interval read_inside(const Node& node, size_t which, Interval output, Axis axis, int64_t size);

// The pixel of [0, size) that stands in for pixel x under a border other than zero.
int64_t border_pixel(Border border, int64_t x, int64_t size);

inline int64_t kernel_side(const ConvSpec& spec, Axis axis) {  // dilation included
  return axis == Axis::rows ? (spec.kernel_h - 1) * spec.dilation_h + 1 : (spec.kernel_w - 1) * spec.dilation_w + 1;
}
inline int64_t padding(const ConvSpec& spec, Axis axis) { return axis == Axis::rows ? spec.pad_top : spec.pad_left; }

// Pixels beyond the image's end that the last output reads, if positive.
inline int64_t overhang(const ConvSpec& spec, Axis axis) {
  return kernel_side(spec, axis) - padding(spec, axis) - spec.stride_h;
}

int64_t floor_div(int64_t a, int64_t b);  // rounds towards minus infinity, unlike a / b

// Whether input `which` of a node is the residual of its epilogue.
inline bool is_residual(const Node& node, size_t which) {
  return which == 1 && (node.op == Op::conv2d || node.op == Op::conv_transpose2d);
}

// A transposed convolution of stride s is s * s ordinary ones, one for each phase of the output grid. Along one
// axis, phase a takes the kernel taps k = first_tap + s * j at input offsets first_offset - j, j in [0, taps).
struct Phase {
  int64_t first_tap = 0, first_offset = 0, taps = 0;
};
Phase transposed_phase(int64_t kernel, int64_t stride, int64_t padding, int64_t phase);

}  // namespace fr
