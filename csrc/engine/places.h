// Memory that images take and give back in a known order: each takes the lowest place that is free.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace fr {

class Places {
 public:
  explicit Places(int64_t begin) : begin_(begin), end_(begin) {}

  // The offset of `bytes` that are held from first_step to last_step. Calls come in the order of first_step.
  int64_t take(int64_t bytes, size_t first_step, size_t last_step) {
    const auto over = [&](const Place& place) { return place.last_step < first_step; };
    taken_.erase(std::remove_if(taken_.begin(), taken_.end(), over), taken_.end());
    int64_t offset = begin_;
    auto next = taken_.begin();
    for (; next != taken_.end() && next->offset - offset < bytes; ++next) offset = next->offset + next->bytes;
    taken_.insert(next, {offset, bytes, last_step});
    int64_t end = 0;
    if (__builtin_add_overflow(offset, bytes, &end)) throw std::length_error("the working memory exceeds 63 bits");
    end_ = std::max(end_, end);
    return offset;
  }

  int64_t end() const { return end_; }

 private:
  struct Place {
    int64_t offset, bytes;
    size_t last_step;
  };
  std::vector<Place> taken_;  // by offset
  int64_t begin_, end_;
};

}  // namespace fr
