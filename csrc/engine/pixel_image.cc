#include "engine/pixel_image.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "kernels/pixel_shuffle/pixel_shuffle.h"

namespace fr {
namespace {

constexpr int64_t kTaskValues = 1 << 16;  // less does not pay for the handing over to another thread

// Calls part(begin, end) for pieces of [0, count) of about kTaskValues / values_each.
template <class Part>
void in_parts(int64_t count, int64_t values_each, int threads, Part part) {
  const int64_t step = std::max<int64_t>(1, kTaskValues / std::max<int64_t>(1, values_each));
  parallel_for(ceil_div(count, step), threads,
               [&](int64_t index, int) { part(index * step, std::min(count, (index + 1) * step)); });
}

// Calls cells(packed, rows) for each row of cells; rows: its r rows of pixels.
template <class T, class Cells>
void for_each_row(int64_t packed_pitch, T* pixels, int64_t images, int64_t height, int64_t width, int64_t channels,
                  int64_t r, int threads, Cells cells) {
  if (r < 1) throw std::invalid_argument("pixel_shuffle: the factor must be at least 1");
  const int64_t packed_row = checked_product(width, packed_pitch);
  const int64_t row = checked_product(width, r, channels);
  in_parts(checked_product(images, height), packed_row, threads, [&](int64_t begin, int64_t end) {
    std::vector<T*> rows(r);
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t a = 0; a < r; ++a) rows[a] = pixels + (y * r + a) * row;
      cells(y * packed_row, rows.data());
    }
  });
}

}  // namespace

void pixel_shuffle_images(const float* packed, float* out, int64_t images, int64_t height, int64_t width,
                          int64_t channels, int64_t r, int threads) {
  const int64_t pitch = checked_product(channels, r, r);
  for_each_row(pitch, out, images, height, width, channels, r, threads, [&](int64_t offset, float* const* rows) {
    pixel_shuffle_row(packed + offset, pitch, rows, channels, channels, r, width);
  });
}

void pixel_unshuffle_images(const float* in, float* packed, int64_t images, int64_t height, int64_t width,
                            int64_t channels, int64_t r, int threads) {
  const int64_t pitch = checked_product(channels, r, r);
  for_each_row(pitch, in, images, height, width, channels, r, threads, [&](int64_t offset, const float* const* rows) {
    pixel_unshuffle_row(rows, channels, packed + offset, pitch, channels, r, width);
  });
}

void convert_in_values(Pixel type, const void* image, float* out, int64_t values, int threads) {
  ConvertInFn* const convert = get_convert_in(type);
  const char* from = static_cast<const char*>(image);
  in_parts(values, 1, threads, [&](int64_t begin, int64_t end) {
    convert(from + begin * pixel_bytes(type), 1, out + begin, 1, 1, end - begin);
  });
}

void convert_out_values(Pixel type, const float* restored, void* out, int64_t values, bool clip, int threads) {
  ConvertOutFn* const convert = get_convert_out(type);
  char* to = static_cast<char*>(out);
  in_parts(values, 1, threads, [&](int64_t begin, int64_t end) {
    convert(restored + begin, 1, 1, nullptr, to + begin * pixel_bytes(type), 1, end - begin, 1.0f, clip);
  });
}

}  // namespace fr
