#include "engine/calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace fr {
namespace {

constexpr int64_t kUnlimited = int64_t{1} << 62;

}  // namespace

Calibration::Calibration(std::shared_ptr<const Plan> plan, int threads)
    : plan_(std::move(plan)), session_(plan_, threads, kUnlimited) {
  if (plan_->precision() != Precision::float32)
    throw std::invalid_argument("calibration: the plan must be of precision float32");
  const std::vector<bool> allowed = images_for_levels(plan_->graph());
  for (size_t n = 0; n < allowed.size(); ++n)
    if (allowed[n]) images_.push_back({static_cast<int>(n), 0.0f, 0.0f, {}});
}

template <class See>
void Calibration::run(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma, const See& see) {
  const int64_t channels = plan_->graph().channels();
  std::vector<float> result(static_cast<size_t>(checked_product(height, width, channels)));
  Picture picture;
  picture.in = pixels;
  picture.out = result.data();
  picture.height = height;
  picture.width = width;
  picture.channels = channels;
  picture.in_row_bytes = picture.out_row_bytes = width * channels * static_cast<int64_t>(sizeof(float));
  std::vector<Image*> by_node(plan_->size(), nullptr);
  for (Image& image : images_) by_node[static_cast<size_t>(image.node)] = &image;
  RunOptions options;
  options.sigma = sigma;
  options.observe = [&](size_t n, const FloatRows& rows, int64_t begin, int64_t end) {
    if (by_node[n] == nullptr) return;
    const int64_t own = plan_->node(n).channels;
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = rows.columns.begin; x < rows.columns.end; ++x) {
        const float* pixel = rows.at(y, x);
        for (int64_t c = 0; c < own; ++c) see(*by_node[n], pixel[c]);
      }
  };
  session_.run(picture, options);
}

void Calibration::measure(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma) {
  measured_ = true;
  for (const Image& image : images_)
    if (!image.counts.empty()) throw std::invalid_argument("calibration: measure all pictures before counting");
  run(pixels, height, width, sigma, [](Image& image, float value) {
    if (!std::isfinite(value))
      throw std::invalid_argument("calibration: image " + std::to_string(image.node) + " is not finite everywhere");
    image.least = std::min(image.least, value);
    image.most = std::max(image.most, value);
  });
}

void Calibration::count(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma) {
  if (!measured_) throw std::invalid_argument("calibration: measure all pictures before counting");
  for (Image& image : images_) image.counts.resize(static_cast<size_t>(kBins), 0);
  run(pixels, height, width, sigma, [](Image& image, float value) {
    const double range = static_cast<double>(image.most) - static_cast<double>(image.least);
    const double place = range > 0 ? (value - static_cast<double>(image.least)) / range * kBins : 0.0;
    const int64_t bin = std::clamp<int64_t>(static_cast<int64_t>(place), 0, kBins - 1);
    ++image.counts[static_cast<size_t>(bin)];
  });
}

}  // namespace fr
