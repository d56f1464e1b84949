// What a float32 plan's images hold over some pictures, for choosing levels: first each image's smallest and largest
// value, then how often each of kBins equal parts of that range occurs.
#pragma once
#include <memory>
#include <vector>

#include "engine/session.h"

namespace fr {

class Calibration {
 public:
  static constexpr int64_t kBins = 4096;

  struct Image {
    int node = 0;
    float least = 0.0f, most = 0.0f;
    std::vector<int64_t> counts;  // empty before the first count
  };

  // Of the images that may be levels. Throws std::invalid_argument for a plan that is not of float32.
  Calibration(std::shared_ptr<const Plan> plan, int threads);

  // Runs the plan on a picture of floats, `pixels` [height][width][the plan's channels]. All pictures must be measured
  // before any is counted. Throws as Session::run does, and std::invalid_argument if an image holds NaN or infinities.
  void measure(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma);
  void count(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma);

  const Plan& plan() const { return *plan_; }
  const std::vector<Image>& images() const { return images_; }

 private:
  template <class See>
  void run(const float* pixels, int64_t height, int64_t width, std::optional<float> sigma, const See& see);

  std::shared_ptr<const Plan> plan_;
  Session session_;
  std::vector<Image> images_;
  bool measured_ = false;
};

}  // namespace fr
