#include "engine/picture.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/buffer.h"

namespace fr {
namespace {

constexpr int64_t kMaxSide = 1 << 24;  // of a picture: no product of sizes comes near 63 bits

}  // namespace

MemoryBudgetExceeded::MemoryBudgetExceeded(int64_t budget, int64_t needed_bytes)
    : std::runtime_error("a memory budget of " + std::to_string(budget) + " bytes is too small: this model needs " +
                         std::to_string(needed_bytes) + " bytes for pictures of this size"),
      needed(needed_bytes) {}

void check_picture_size(int64_t height, int64_t width) {
  if (height < 1 || width < 1) throw std::invalid_argument("session: the picture is empty");
  if (height > kMaxSide || width > kMaxSide)
    throw std::invalid_argument("session: the sides of a picture may have up to " + std::to_string(kMaxSide) +
                                " pixels, got " + std::to_string(height) + " x " + std::to_string(width));
}

void check_state(const Graph& graph, size_t number) {
  if (number >= graph.states().size())
    throw std::invalid_argument("session: there is no state " + std::to_string(number));
}

void check_state(const Graph& graph, size_t number, const StateImage& image) {
  check_state(graph, number);
  const int64_t channels = graph.nodes()[static_cast<size_t>(graph.states()[number].now)].channels;
  if (image.channels != channels ||
      static_cast<int64_t>(image.values.size()) != checked_product(image.height, image.width, channels))
    throw std::invalid_argument("session: state " + std::to_string(number) + " has " + std::to_string(channels) +
                                " channels, the given image " + std::to_string(image.channels));
}

void check_run(const Graph& graph, const Picture& picture, const RunOptions& options) {
  check_picture_size(picture.height, picture.width);
  if (picture.channels != graph.channels() && picture.channels != 1)
    throw std::invalid_argument("session: the model takes " + std::to_string(graph.channels()) +
                                " channels, the picture has " + std::to_string(picture.channels));
  const int64_t row_bytes = checked_product(picture.width, picture.channels, pixel_bytes(picture.type));
  if (picture.in_row_bytes < row_bytes || picture.out_row_bytes < row_bytes)
    throw std::invalid_argument("session: a row of the picture is shorter than its pixels");
  checked_product(picture.height, std::max(picture.in_row_bytes, picture.out_row_bytes));
  if (graph.takes_sigma() != options.sigma.has_value())
    throw std::invalid_argument(graph.takes_sigma() ? "session: this model needs sigma"
                                                    : "session: this model takes no sigma");
  if (options.sigma && !(*options.sigma >= 0 && std::isfinite(*options.sigma)))
    throw std::invalid_argument("session: sigma must be finite and not negative");
  if (!std::isfinite(options.strength)) throw std::invalid_argument("session: strength must be finite");
}

}  // namespace fr
