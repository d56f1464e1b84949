// SHA-256 (FIPS 180-4), by the CPU's own instructions where it has them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/isa.h"

namespace fr {

class Sha256 {
 public:
  explicit Sha256(Isa allowed = cpu_isa());  // Isa::none: the plain computation
  void update(const void* data, size_t size);
  std::string hex();  // 64 lower-case digits; ends the computation

 private:
  void (*blocks_)(uint32_t* state, const unsigned char* bytes, size_t count);  // of 64 bytes
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  unsigned char pending_[64] = {};
  uint64_t bytes_ = 0;
};

}  // namespace fr
