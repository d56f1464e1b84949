#include <vector>

#include "check.h"
#include "kernels/pixel_shuffle/pixel_shuffle.h"

using namespace fr;

namespace {

constexpr float kUntouched = -7.0f;

// Both directions against the formula in the header, with pads after the channels.
void check(int64_t channels, int64_t r, int64_t cells, int64_t pad) {
  const int64_t packed_pitch = channels * r * r + pad, pitch = channels + pad;
  std::vector<float> packed(cells * packed_pitch);
  for (size_t i = 0; i < packed.size(); ++i) packed[i] = static_cast<float>(i);
  std::vector<std::vector<float>> rows(r, std::vector<float>(cells * r * pitch, kUntouched));
  std::vector<float*> out;
  for (auto& row : rows) out.push_back(row.data());
  pixel_shuffle_row(packed.data(), packed_pitch, out.data(), pitch, channels, r, cells);
  for (int64_t a = 0; a < r; ++a)
    for (int64_t x = 0; x < cells; ++x)
      for (int64_t b = 0; b < r; ++b)
        for (int64_t c = 0; c < pitch; ++c)
          CHECK(rows[a][(x * r + b) * pitch + c] ==
                (c < channels ? packed[x * packed_pitch + c * r * r + a * r + b] : kUntouched));
  std::vector<float> back(packed.size(), kUntouched);
  pixel_unshuffle_row(out.data(), pitch, back.data(), packed_pitch, channels, r, cells);
  for (size_t i = 0; i < back.size(); ++i)
    CHECK(back[i] == (static_cast<int64_t>(i) % packed_pitch < channels * r * r ? packed[i] : kUntouched));
}

}  // namespace

int main() {
  for (int64_t channels : {0, 1, 3, 4, 15, 16, 17})
    for (int64_t r : {1, 2, 3, 4, 5})
      for (int64_t cells : {0, 1, 2, 7})
        for (int64_t pad : {0, 3}) check(channels, r, cells, pad);
  return fr::test::result();
}
