/* A convolution with bias and ReLU in plain C, for `fastrestore bench own`.
 *
 *   cc -O3 -march=native -shared -fPIC convolution.c -o libconvolution.so
 *   fastrestore bench own ./libconvolution.so:convolution --operator conv2d
 */
#include <stdint.h>
#include <stdlib.h>

/* x: [height][width][channels], weight: [outputs][channels][kernel][kernel], out: [...][...][outputs]. */
void convolution(const float* x, const float* weight, const float* bias, float* out, int64_t height, int64_t width,
                 int64_t channels, int64_t outputs, int64_t kernel, int64_t stride, int64_t padding, int threads) {
  const int64_t rows = (height + 2 * padding - kernel) / stride + 1,
                columns = (width + 2 * padding - kernel) / stride + 1;
  /* By place and input channel, outputs last: the innermost loop then reads neighbours. */
  float* packed = malloc((size_t)(kernel * kernel * channels * outputs) * sizeof *packed);
  (void)threads;
  if (packed == NULL) return; /* the result stays unwritten, which the check sees */
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t k = 0; k < kernel * kernel; ++k)
        packed[(k * channels + c) * outputs + o] = weight[(o * channels + c) * kernel * kernel + k];
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      float* y = out + (row * columns + column) * outputs;
      for (int64_t o = 0; o < outputs; ++o) y[o] = bias[o];
      for (int64_t i = 0; i < kernel; ++i)
        for (int64_t j = 0; j < kernel; ++j) {
          const int64_t from_row = row * stride + i - padding, from_column = column * stride + j - padding;
          if (from_row < 0 || from_row >= height || from_column < 0 || from_column >= width) continue;
          const float* pixel = x + (from_row * width + from_column) * channels;
          const float* weights = packed + (i * kernel + j) * channels * outputs;
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t o = 0; o < outputs; ++o) y[o] += pixel[c] * weights[c * outputs + o];
        }
      for (int64_t o = 0; o < outputs; ++o) y[o] = y[o] > 0 ? y[o] : 0;
    }
  free(packed);
}
