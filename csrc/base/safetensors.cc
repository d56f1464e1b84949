#include "base/safetensors.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "base/buffer.h"
#include "base/json.h"

namespace fr {
namespace {

constexpr int64_t kMaxHeader = 16 << 20;
constexpr int64_t kMaxTensors = 20'000;
constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxSize = int64_t{1} << 48;  // of one dimension, and of an offset
constexpr int64_t kAlignment = 64;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// The integers of an array, each from `least` to 2^48; false if that is not what the value is.
bool read_sizes(const json::Value* value, int64_t least, std::vector<int64_t>& sizes) {
  const json::Array* items = value == nullptr ? nullptr : value->get<json::Array>();
  if (items == nullptr || items->size() > kMaxRank) return false;
  for (const json::Value& item : *items) {
    const int64_t* size = item.get<int64_t>();
    if (size == nullptr || *size < least || *size > kMaxSize) return false;
    sizes.push_back(*size);
  }
  return true;
}

TensorPlace read_place(const std::string& name, const json::Value& entry) {
  const std::string where = "tensor " + quoted(name);
  const json::Object* members = entry.get<json::Object>();
  const json::Value* dtype = entry.find("dtype");
  if (members == nullptr || members->size() != 3 || dtype == nullptr || entry.find("shape") == nullptr ||
      entry.find("data_offsets") == nullptr)
    refuse(where + " must have dtype, shape and data_offsets");
  const std::string* type = dtype->get<std::string>();
  if (type == nullptr || *type != "F32") refuse(where + " must have dtype F32");
  TensorPlace place;
  place.name = name;
  std::vector<int64_t> offsets;
  if (!read_sizes(entry.find("shape"), 1, place.shape)) refuse(where + " must have a shape of at most 8 sizes >= 1");
  if (!read_sizes(entry.find("data_offsets"), 0, offsets) || offsets.size() != 2 || offsets[0] > offsets[1])
    refuse(where + " must have two data_offsets, the second not before the first");
  place.begin = offsets[0];
  place.bytes = offsets[1] - offsets[0];
  int64_t wanted = sizeof(float);
  for (int64_t size : place.shape)
    if (__builtin_mul_overflow(wanted, size, &wanted)) refuse(where + " has a shape whose product exceeds 63 bits");
  if (wanted != place.bytes)
    refuse(where + " needs " + std::to_string(wanted) + " bytes by its shape, " + std::to_string(place.bytes) +
           " are given");
  return place;
}

}  // namespace

std::string quoted(std::string_view name) {
  std::string text = "'";
  for (char c : name.substr(0, 60)) text.push_back(c >= ' ' && c < 0x7f && c != '\'' ? c : '?');
  return text + (name.size() > 60 ? "...'" : "'");
}

int64_t safetensors_header_bytes(const char* prefix, int64_t file_bytes) {
  if (file_bytes < kSafetensorsPrefix) refuse(std::to_string(file_bytes) + " bytes are too few for a safetensors file");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(prefix[i]);
  if (length > static_cast<uint64_t>(kMaxHeader))
    refuse("not a safetensors file: it claims a header of " + std::to_string(length) + " bytes");
  if (static_cast<int64_t>(length) > file_bytes - kSafetensorsPrefix)
    refuse("the file is cut: a header of " + std::to_string(length) + " bytes in a file of " +
           std::to_string(file_bytes));
  return static_cast<int64_t>(length);
}

SafetensorsHeader parse_safetensors_header(std::string_view text, int64_t data_bytes) {
  json::Value table;
  try {
    table = json::parse(text);
  } catch (const std::invalid_argument& error) {
    refuse(std::string("the safetensors header is ") + error.what());
  }
  const json::Object* entries = table.get<json::Object>();
  if (entries == nullptr) refuse("the safetensors header must be a JSON object");
  SafetensorsHeader header;
  for (const json::Member& entry : *entries) {
    if (entry.key != "__metadata__") {
      header.tensors.push_back(read_place(entry.key, entry.value));
      if (static_cast<int64_t>(header.tensors.size()) > kMaxTensors)
        refuse("more than " + std::to_string(kMaxTensors) + " tensors");
      continue;
    }
    const json::Object* metadata = entry.value.get<json::Object>();
    if (metadata == nullptr) refuse("the safetensors metadata must map strings to strings");
    for (const json::Member& item : *metadata) {
      const std::string* value = item.value.get<std::string>();
      if (value == nullptr) refuse("the safetensors metadata must map strings to strings");
      header.metadata.emplace_back(item.key, *value);
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorPlace& a, const TensorPlace& b) { return a.begin < b.begin; });
  int64_t end = 0;
  for (const TensorPlace& place : header.tensors) {  // none is empty, so equal beginnings overlap
    if (place.begin != end)
      refuse("tensor " + quoted(place.name) + (place.begin < end ? " overlaps another" : " leaves a gap before it"));
    end += place.bytes;
    if (end > data_bytes)
      refuse("the file is cut: tensor " + quoted(place.name) + " ends at byte " + std::to_string(end) +
             " of the data, which has " + std::to_string(data_bytes));
  }
  if (end != data_bytes) refuse("the file has " + std::to_string(data_bytes - end) + " trailing bytes");
  return header;
}

std::string write_safetensors_header(const SafetensorsHeader& header) {
  json::Object table, metadata;
  for (const auto& [key, value] : header.metadata) metadata.push_back({key, value});
  table.push_back({"__metadata__", std::move(metadata)});
  int64_t end = 0;
  for (const TensorPlace& place : header.tensors) {
    json::Array shape(place.shape.begin(), place.shape.end());
    json::Array offsets{end, end + place.bytes};
    end += place.bytes;
    table.push_back({place.name, json::Object{{"dtype", "F32"}, {"shape", shape}, {"data_offsets", offsets}}});
  }
  std::string text = json::write(table);
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()) + kSafetensorsPrefix, kAlignment) -
                                  kSafetensorsPrefix),
              ' ');
  if (static_cast<int64_t>(text.size()) > kMaxHeader) refuse("the header would exceed 16 MiB");
  std::string prefix;
  for (int i = 0; i < 8; ++i) prefix.push_back(static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i)));
  return prefix + text;
}

}  // namespace fr
