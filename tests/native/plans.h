// Small graphs for tests: together they hold every operator.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "engine/plan.h"

namespace fr::test {

inline std::vector<float> weights(int64_t count, float scale = 0.1f) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * std::sin(static_cast<float>(i) * 1.7f + 1.0f);
  return values;
}

inline ConvSpec conv_spec(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad) {
  ConvSpec spec;
  spec.in_channels = in;
  spec.out_channels = out;
  spec.kernel_h = spec.kernel_w = kernel;
  spec.stride_h = spec.stride_w = stride;
  spec.pad_top = spec.pad_left = pad;
  return spec;
}

// Sigma plane, concat, strided and transposed convolution, residual, sum; halves the picture and doubles it again.
inline Graph small_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  const int sigma = graph.sigma_plane(input, 1.0f / 255);
  const int joined = graph.concat({input, sigma});
  ConvSpec down = conv_spec(channels + 1, 4, 2, 2, 0);
  down.activation = Activation::leaky_relu;
  down.slope = 0.2f;
  const int half = graph.conv2d(joined, down, weights(4 * (channels + 1) * 4), weights(4));
  ConvSpec grouped = conv_spec(4, 4, 3, 1, 2);
  grouped.dilation_h = grouped.dilation_w = 2;
  grouped.groups = 2;
  grouped.residual = Residual::after_scale;
  const int deep = graph.conv2d(half, grouped, weights(4 * 2 * 9), {}, half);
  const int up =
      graph.conv_transpose2d(deep, conv_spec(4, channels, 2, 2, 0), weights(4 * channels * 4), weights(channels));
  graph.set_output(graph.add(up, input, 0.5f, 1.0f));
  return graph;
}

// Pixel unshuffle and shuffle, and a Winograd convolution.
inline Graph shuffled_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  const int small = graph.pixel_unshuffle(input, 2);
  ConvSpec first = conv_spec(4 * channels, 16, 3, 1, 1);
  first.activation = Activation::relu;
  const int wide = graph.conv2d(small, first, weights(16 * 4 * channels * 9), weights(16));
  ConvSpec second = conv_spec(16, 4 * channels, 3, 1, 1);
  second.residual = Residual::before_activation;
  const int narrow = graph.conv2d(wide, second, weights(16 * 4 * channels * 9), weights(4 * channels), small);
  graph.set_output(graph.pixel_shuffle(narrow, 2));
  return graph;
}

// Every other operator: borders, products, pooling, curves, resizing, grouped transposed convolution.
inline Graph varied_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  const int reflected =
      graph.conv2d(input, conv_spec(channels, 4, 3, 1, 1), weights(4 * channels * 9), weights(4), -1, Border::reflect);
  const int clamped = graph.conv2d(input, conv_spec(channels, 4, 5, 1, 2), weights(4 * channels * 25), {}, -1,
                                   Border::clamp);  // and a copy of the input, which has another margin
  const int gate = graph.activate(graph.affine(reflected, weights(4), weights(4)), {Curve::sigmoid});
  const int product =
      graph.gate(graph.multiply(clamped, gate, {0, 4}, {1, 1}), reflected, {0, 4}, {0, 4}, {Curve::gelu});
  const int bent = graph.activate(product, {Curve::prelu}, weights(4));
  const int limited = graph.activate(bent, {Curve::clamp, -std::numeric_limits<float>::infinity(), 0.5f});
  const int most = graph.pool(limited, Pool::max, conv_spec(0, 0, 2, 2, 0), 0);
  const int mean = graph.pool(limited, Pool::average, conv_spec(0, 0, 3, 2, 1), 9);
  const int both = graph.concat({most, mean}, {{1, 3}, {0, 1}});
  ConvSpec grouped = conv_spec(4, 4, 2, 2, 0);
  grouped.groups = 2;
  const int up = graph.conv_transpose2d(both, grouped, weights(4 * 2 * 4), {});
  int sum = graph.add(up, graph.resize(most, Resize::bilinear, true, 2), 1.0f, 0.5f);
  sum =
      graph.add(sum, graph.resize(graph.resize(sum, Resize::bicubic, false, 2), Resize::nearest_exact, true, 2), 1, 1);
  graph.set_output(graph.conv2d(sum, conv_spec(4, channels, 1, 1, 0), weights(4 * channels), weights(channels)));
  return graph;
}

// Norm, windows, and what waits for the whole picture: attention between channels, a mean that scales an image.
inline Graph attention_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels, Border::reflect);
  const int first = graph.conv2d(input, conv_spec(channels, 12, 3, 1, 1), weights(12 * channels * 9), weights(12));
  const int normed = graph.layer_norm(first, weights(12), weights(12), 1e-5f, false);
  const int windows = graph.window_attention(normed, 2, 4, 1, weights(2 * 7 * 7));
  const int mixed = graph.mix(graph.channel_softmax(graph.partial_gram(normed, 2), weights(2)), normed, {8, 4}, 2);
  const int mean = graph.mean(graph.partial_sum(mixed));
  const int sum = graph.add(windows, graph.multiply(mixed, mean, {0, 4}, {0, 4}), 1.0f, 1.0f);
  graph.set_output(graph.conv2d(sum, conv_spec(4, channels, 1, 1, 0), weights(4 * channels), weights(channels)));
  return graph;
}

// Quotients, roots, logarithms and comparisons of what one channel or all say, and means over windows.
inline Graph measured_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  const int first = graph.conv2d(input, conv_spec(channels, 8, 3, 1, 1), weights(8 * channels * 9), weights(8, 0.5f));
  const int mean = graph.local_mean(first, 5);
  const int level =
      graph.activate(graph.activate(graph.multiply(mean, mean, {0, 8}, {0, 8}), {Curve::log1p}), {Curve::sqrt});
  const int quotient = graph.combine(graph.affine(level, std::vector<float>(8, 1.0f), std::vector<float>(8, 0.5f)),
                                     graph.activate(level, {Curve::exp}), {0, 8}, {2, 1}, Formula::divide);
  const int most = graph.channel_pool(quotient, Pool::max), average = graph.channel_pool(mean, Pool::average);
  const int mask = graph.combine(average, graph.activate(most, {Curve::reciprocal}), {0, 1}, {0, 1}, Formula::above);
  const int other = graph.activate(graph.activate(most, {Curve::log}), {Curve::above, -0.5f});
  const int limited =
      graph.combine(graph.multiply(first, mask, {0, 8}, {0, 1}), quotient, {0, 8}, {0, 8}, Formula::minimum);
  const int sum = graph.combine(graph.local_mean(limited, 384), other, {0, 8}, {0, 1}, Formula::maximum);
  graph.set_output(graph.conv2d(sum, conv_spec(8, channels, 1, 1, 0), weights(8 * channels), weights(channels)));
  return graph;
}

// A running mean of the pictures, which moves along, and of what a convolution makes of them at half size.
inline Graph recurrent_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  const int before = graph.state(channels, 1), deep = graph.state(2, 2);
  const int flow = graph.conv2d(input, conv_spec(channels, 2, 3, 1, 1), weights(2 * channels * 9), weights(2, 3.0f));
  const int mean = graph.add(input, graph.warp(before, flow), 0.25f, 0.75f);
  const int half = graph.conv2d(mean, conv_spec(channels, 2, 2, 2, 0), weights(2 * channels * 4), {});
  const int next = graph.add(half, deep, 0.5f, 0.5f);
  const int up = graph.conv_transpose2d(next, conv_spec(2, channels, 2, 2, 0), weights(2 * channels * 4), {});
  graph.set_output(graph.add(mean, up, 1.0f, 1.0f));
  graph.set_next(before, mean);
  graph.set_next(deep, next);
  return graph;
}

// A residual block between the first convolution and the last: images that may be levels.
inline Graph residual_graph(int64_t channels) {
  Graph graph;
  const int input = graph.input(channels);
  ConvSpec spec = conv_spec(channels, 20, 3, 1, 1);
  spec.activation = Activation::relu;
  const int first = graph.conv2d(input, spec, weights(20 * channels * 9), weights(20));
  spec = conv_spec(20, 20, 3, 1, 1);
  spec.activation = Activation::leaky_relu;
  spec.slope = 0.2f;
  const int second = graph.conv2d(first, spec, weights(20 * 20 * 9), weights(20), -1, Border::reflect);
  spec.residual = Residual::after_scale;
  const int third = graph.conv2d(second, spec, weights(20 * 20 * 9), {}, first);
  const int sum = graph.add(third, first, 1.0f, 0.5f);
  const int fourth = graph.conv2d(sum, conv_spec(20, 20, 1, 1, 0), weights(20 * 20), weights(20));
  graph.set_output(graph.conv2d(fourth, conv_spec(20, channels, 3, 1, 1), weights(channels * 20 * 9), {}));
  return graph;
}

inline std::vector<Graph> all_graphs(int64_t channels) {
  return {small_graph(channels),     shuffled_graph(channels), varied_graph(channels),  attention_graph(channels),
          recurrent_graph(channels), residual_graph(channels), measured_graph(channels)};
}

// For int8: levels of every image that may have them.
inline std::vector<ImageLevels> some_levels(const Graph& graph, Precision precision) {
  std::vector<ImageLevels> levels;
  const std::vector<bool> allowed = images_for_levels(graph);
  for (size_t n = 0; precision == Precision::int8 && n < allowed.size(); ++n)
    if (allowed[n]) levels.push_back({static_cast<int>(n), {0.01f * static_cast<float>(n + 1), 60}});
  return levels;
}

}  // namespace fr::test
