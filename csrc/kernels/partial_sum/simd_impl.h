// The loops of every instruction set: vectors of channels. A row's pixels are added to four sums in turn, which are
// then added to the rest: no sum waits for the one before, and long rows round less.
#include "kernels/partial_sum/partial_sum.h"
#include "simd/vec.h"

namespace fr {
namespace FR_ISA {
namespace {

template <class T>
void add_rows(const PartialSum& s) {
  for (int64_t c = 0; c < s.channels; c += kWidth) {
    const int64_t lanes = min(s.channels - c, kWidth);
    Vec total = {};
    for (int64_t i = 0; i < s.row_count; ++i) {
      const T* in = static_cast<const T*>(s.rows[i]) + c;
      Vec part[4] = {};
      for (int64_t x = 0; x < s.pixels; ++x)
        part[x % 4] += lanes == kWidth ? load(in + x * s.pitch) : load_partial(in + x * s.pitch, lanes);
      total += (part[0] + part[1]) + (part[2] + part[3]);
    }
    if (lanes == kWidth)
      store(s.out + c, total);
    else
      store_partial(s.out + c, total, lanes);
  }
}

void partial_sum(const PartialSum& s) { s.element == Element::f32 ? add_rows<float>(s) : add_rows<Bf16>(s); }

}  // namespace
}  // namespace FR_ISA
}  // namespace fr
