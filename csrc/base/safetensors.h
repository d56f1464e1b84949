// The safetensors container: eight bytes of length, a JSON header that places the tensors, their bytes. The format
// itself promises little, so all that a header says is checked before a byte of data is touched.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fr {

struct TensorPlace {
  std::string name;
  std::vector<int64_t> shape;    // at most 8 sizes, each at least 1
  int64_t begin = 0, bytes = 0;  // its float32 values, little endian, within the data
};

struct SafetensorsHeader {
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<TensorPlace> tensors;  // in the data's order, without gap or overlap
};

constexpr int64_t kSafetensorsPrefix = 8;

// The header's length. prefix: the file's first 8 bytes. Throws std::invalid_argument, as does what follows, for a
// length above 16 MiB or beyond the file's end.
int64_t safetensors_header_bytes(const char* prefix, int64_t file_bytes);

// header: its text; data_bytes: what follows it in the file. Only float32 is accepted. The message of a refusal
// names the tensor.
SafetensorsHeader parse_safetensors_header(std::string_view header, int64_t data_bytes);

// Prefix and header of a file, padded so that the data begins at a multiple of 64 bytes. begin is not read: the
// tensors follow one another.
std::string write_safetensors_header(const SafetensorsHeader& header);

// The beginning of a name from outside, as one line of a message can hold it.
std::string quoted(std::string_view name);

}  // namespace fr
