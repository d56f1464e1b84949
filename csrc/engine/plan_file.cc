#include "engine/plan_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "base/buffer.h"
#include "base/safetensors.h"
#include "base/sha256.h"
#include "graph/graph_json.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "plan files hold little-endian numbers");

namespace fr {
namespace {

constexpr int64_t kFormat = 1;
constexpr char kDocumentKey[] = "fastrestore_plan";

void require(bool fine, const std::string& message) {
  if (!fine) throw std::invalid_argument(message);
}

Precision read_precision(const std::string& name) {
  try {
    return parse_precision(name);
  } catch (const std::invalid_argument&) {
    throw std::invalid_argument("precision " + quoted(name) + " is unknown to this version");
  }
}

std::string checksum_of(const std::string& document, std::vector<NamedTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  Sha256 sum(host_isa());
  sum.update(document.data(), document.size());
  for (const NamedTensor& tensor : tensors) {
    const std::string head =
        json::write(json::Array{tensor.name, json::Array(tensor.shape.begin(), tensor.shape.end())});
    sum.update(head.data(), head.size());
    sum.update(tensor.bytes, static_cast<size_t>(tensor.count) * sizeof(float));
  }
  return sum.hex();
}

template <class T>
const T& member(const json::Value& document, const char* key, const char* kind) {
  const json::Value* value = document.find(key);
  const T* found = value == nullptr ? nullptr : value->get<T>();
  require(found != nullptr, std::string("the plan's ") + key + " must be " + kind);
  return *found;
}

json::Value levels_to_json(const std::vector<ImageLevels>& images) {
  json::Array list;
  for (const ImageLevels& image : images)
    list.push_back(json::Object{{"node", image.node},
                                {"scale", static_cast<double>(image.levels.scale)},
                                {"zero", static_cast<int64_t>(image.levels.zero)}});
  return list;
}

int32_t small_integer(const json::Value& object, const char* key) {
  const int64_t value = member<int64_t>(object, key, "an integer");
  require(value >= 0 && value <= std::numeric_limits<int32_t>::max(),
          std::string("the plan's levels: ") + key + " is out of range");
  return static_cast<int32_t>(value);
}

std::vector<ImageLevels> levels_from_json(const json::Array& list) {
  std::vector<ImageLevels> images;
  for (const json::Value& entry : list) {
    const json::Object* members = entry.get<json::Object>();
    const json::Value* scale = entry.find("scale");
    require(members != nullptr && members->size() == 3 && scale != nullptr,
            "the plan's levels must be objects of exactly node, scale and zero");
    const int64_t* whole = scale->get<int64_t>();
    const double value = whole != nullptr ? static_cast<double>(*whole) : member<double>(entry, "scale", "a number");
    require(std::fabs(value) <= std::numeric_limits<float>::max(), "the plan's levels: a scale is beyond float32");
    images.push_back({small_integer(entry, "node"), {static_cast<float>(value), small_integer(entry, "zero")}});
  }
  return images;
}

// What the metadata says; the one that is not there stays empty.
struct Metadata {
  std::string document, checksum;
};

Metadata read_metadata(const SafetensorsHeader& header) {
  Metadata found;
  for (const auto& [key, value] : header.metadata) {
    require(key != "fastrestore", "this is a model file, not a plan: `fastrestore compile` makes one from it");
    require(key == kDocumentKey || key == "sha256", "metadata " + quoted(key) + " is unknown");
    (key == "sha256" ? found.checksum : found.document) = value;
  }
  require(!found.document.empty() && !found.checksum.empty(), "not a fastrestore plan file");
  return found;
}

PlanFile assemble(const SafetensorsHeader& header, const char* data, Checksum checksum) {
  const Metadata metadata = read_metadata(header);
  std::vector<NamedTensor> tensors;
  for (const TensorPlace& place : header.tensors)
    tensors.push_back({place.name, place.shape, data + place.begin, place.bytes / static_cast<int64_t>(sizeof(float))});
  json::Value document;
  try {
    document = json::parse(metadata.document);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(std::string("the plan's description is ") + error.what());
  }
  // Before the checksum, which the next format may compute in another way.
  require(member<int64_t>(document, "format", "an integer") == kFormat,
          "only plan files of format " + std::to_string(kFormat) + " can be read; a newer fastrestore wrote this");
  require(checksum == Checksum::ignore || checksum_of(metadata.document, tensors) == metadata.checksum,
          "the checksum does not match: the file is damaged or was altered");
  PlanFile file;
  file.precision = read_precision(member<std::string>(document, "precision", "a string"));
  const bool int8 = file.precision == Precision::int8;
  require(document.get<json::Object>()->size() == (int8 ? 7 : 6),
          "the plan's description must have exactly format, precision, channels, takes_sigma, card and graph, for int8 "
          "also levels");
  file.card = member<json::Object>(document, "card", "an object");
  const json::Value* graph = document.find("graph");
  require(graph != nullptr, "the plan's graph is missing");
  file.graph = graph_from_json(*graph, tensors);
  if (int8) file.levels = levels_from_json(member<json::Array>(document, "levels", "an array"));
  check_levels(file.graph, file.levels);
  require(member<int64_t>(document, "channels", "an integer") == file.graph.channels(),
          "the plan's channels are not those of its graph");
  require(member<bool>(document, "takes_sigma", "true or false") == file.graph.takes_sigma(),
          "the plan's takes_sigma is not that of its graph");
  return file;
}

class File {
 public:
  // A FIFO, which could block for ever, is refused.
  explicit File(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category());
    struct stat about;
    if (fstat(descriptor_, &about) != 0) {
      const int error = errno;
      close(descriptor_);
      throw std::system_error(error, std::generic_category());
    }
    if (!S_ISREG(about.st_mode)) {
      close(descriptor_);
      throw std::invalid_argument("not a regular file");
    }
    bytes_ = about.st_size;
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int64_t bytes() const { return bytes_; }

  void read(char* to, int64_t count) {
    while (count > 0) {
      const ssize_t got = ::read(descriptor_, to, static_cast<size_t>(std::min<int64_t>(count, 1 << 30)));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw std::system_error(errno, std::generic_category());
      require(got > 0, "the file became shorter while it was read");
      to += got;
      count -= got;
    }
  }

 private:
  int descriptor_;
  int64_t bytes_ = 0;
};

}  // namespace

std::string write_plan_file(const Graph& graph, Precision precision, const json::Value& card,
                            const std::vector<ImageLevels>& levels) {
  require(graph.output() >= 0, "the graph has no output");
  require(card.get<json::Object>() != nullptr, "the card must be a JSON object");
  std::vector<NamedTensor> tensors;
  json::Value nodes = graph_to_json(graph, tensors);
  json::Object about{{"format", kFormat},
                     {"precision", precision_name(precision)},
                     {"channels", graph.channels()},
                     {"takes_sigma", graph.takes_sigma()},
                     {"card", card},
                     {"graph", std::move(nodes)}};
  require(precision == Precision::int8 || levels.empty(), "only precision int8 has images of levels");
  if (precision == Precision::int8) about.push_back({"levels", levels_to_json(levels)});
  const std::string document = json::write(about);
  SafetensorsHeader header;
  header.metadata = {{kDocumentKey, document}, {"sha256", checksum_of(document, tensors)}};
  for (const NamedTensor& tensor : tensors)
    header.tensors.push_back({tensor.name, tensor.shape, 0, tensor.count * static_cast<int64_t>(sizeof(float))});
  std::string content = write_safetensors_header(header);
  for (const NamedTensor& tensor : tensors)
    content.append(tensor.bytes, static_cast<size_t>(tensor.count) * sizeof(float));
  read_plan_file(content);  // what cannot be read is not written: weights that are not finite, a card too deep
  return content;
}

PlanFile read_plan_file(std::string_view content, Checksum checksum) {
  const int64_t size = static_cast<int64_t>(content.size());
  const int64_t header = safetensors_header_bytes(content.data(), size);
  const int64_t begin = kSafetensorsPrefix + header;
  return assemble(
      parse_safetensors_header(content.substr(kSafetensorsPrefix, static_cast<size_t>(header)), size - begin),
      content.data() + begin, checksum);
}

PlanFile load_plan_file(const std::string& path) {
  require(path.find('\0') == std::string::npos, "a path cannot hold a zero byte");
  File file(path);
  char prefix[kSafetensorsPrefix] = {};
  if (file.bytes() >= kSafetensorsPrefix) file.read(prefix, kSafetensorsPrefix);
  // The header is checked against the file's size before the rest is read.
  std::string text(static_cast<size_t>(safetensors_header_bytes(prefix, file.bytes())), '\0');
  file.read(text.data(), static_cast<int64_t>(text.size()));
  const int64_t data_bytes = file.bytes() - kSafetensorsPrefix - static_cast<int64_t>(text.size());
  const SafetensorsHeader header = parse_safetensors_header(text, data_bytes);
  read_metadata(header);  // a large file of another kind is refused unread
  Buffer<char> data(data_bytes);
  file.read(data.data(), data_bytes);
  return assemble(header, data.data(), Checksum::verify);
}

}  // namespace fr
