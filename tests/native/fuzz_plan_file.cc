// A plan file with any content is refused or runs: no crash, no undefined behaviour, no unbounded memory. With clang,
// -fsanitize=fuzzer and -DFR_LIBFUZZER this is a libFuzzer target; otherwise it has a main of its own, which mutates
// the small plans of plans.h for the given number of seconds (default 5) or tries the files it is given.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/plan_file.h"
#include "engine/session.h"
#include "plans.h"

using namespace fr;

namespace {

constexpr int64_t kMemory = 64 << 20;
int64_t accepted = 0, ran = 0;  // how far the inputs came: a fuzz run in which none is accepted proves little

void run(const Graph& graph, Precision precision, const std::vector<ImageLevels>& levels) {
  if (graph.multiple_of() > 64) return;  // a padded picture would be large and slow
  const int64_t channels = graph.channels(), height = 9, width = 23;
  if (channels > 64) return;
  Session session(std::make_shared<Plan>(graph, precision, host_isa(), levels), 1, kMemory);
  std::vector<float> in(static_cast<size_t>(height * width * channels), 0.25f), out(in.size());
  Picture picture;
  picture.in = in.data();
  picture.out = out.data();
  picture.height = height;
  picture.width = width;
  picture.channels = channels;
  picture.in_row_bytes = picture.out_row_bytes = width * channels * static_cast<int64_t>(sizeof(float));
  RunOptions options;
  if (graph.takes_sigma()) options.sigma = 10.0f;
  session.run(picture, options);
  ++ran;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  try {
    read_plan_file(content);
  } catch (const std::invalid_argument&) {
  }
  // Again past the checksum, which no mutation survives.
  try {
    const PlanFile file = read_plan_file(content, Checksum::ignore);
    ++accepted;
    file.graph.halo();
    run(file.graph, file.precision, file.levels);
  } catch (const std::logic_error&) {  // invalid_argument, length_error
  } catch (const MemoryBudgetExceeded&) {
  }
  return 0;
}

#ifndef FR_LIBFUZZER
namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t bound) { return bound == 0 ? 0 : static_cast<size_t>(random() % bound); }

const char* const kValues[] = {"0",
                               "-1",
                               "1",
                               "2",
                               "3",
                               "7",
                               "16",
                               "17",
                               "64",
                               "65",
                               "65536",
                               "65537",
                               "1e30",
                               "1e999",
                               "null",
                               "true",
                               "\"\"",
                               "2147483648",
                               "4294967296",
                               "[]",
                               "9223372036854775807",
                               "{}",
                               "0.5",
                               "-0.0",
                               "281474976710656",
                               "1e-50",
                               "[0]",
                               "18446744073709551616"};

// Replaces a run of digits in the header, which is where sizes stand.
void replace_number(std::string& content, Random& random) {
  const size_t header = std::min<size_t>(content.size(), 4096);
  size_t at = 8 + below(random, header);
  while (at < content.size() && (content[at] < '0' || content[at] > '9')) ++at;
  size_t end = at;
  while (end < content.size() && content[end] >= '0' && content[end] <= '9') ++end;
  if (at < end) content.replace(at, end - at, kValues[below(random, std::size(kValues))]);
}

void mutate(std::string& content, Random& random) {
  const size_t size = content.size();
  const size_t at = below(random, size), length = 1 + below(random, std::min<size_t>(size - at, 64));
  switch (below(random, 9)) {
    case 0:
      content[at] = static_cast<char>(content[at] ^ 1 << below(random, 8));
      break;
    case 1:
      content[at] = static_cast<char>(random());
      break;
    case 2:
      content.erase(at, length);
      break;
    case 3:
      content.insert(at, content.substr(below(random, size), length));
      break;
    case 4:
      content.resize(at);
      break;
    case 5:
      content.insert(at, std::string(length, "[{\"0,"[below(random, 5)]));
      break;
    default:
      replace_number(content, random);
  }
}

// Makes the length of the header right again, so that most mutants come past it.
void mend(std::string& content, size_t data_bytes) {
  if (content.size() < 8 + data_bytes) return;
  const uint64_t header = content.size() - 8 - data_bytes;
  for (size_t i = 0; i < 8; ++i) content[i] = static_cast<char>(header >> (8 * i));
}

int fuzz(double seconds) {
  std::vector<std::string> seeds;
  for (Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8})
    for (int64_t channels : {1, 3})
      for (const Graph& graph : test::all_graphs(channels))
        seeds.push_back(
            write_plan_file(graph, precision, json::Object{{"name", "fuzz"}}, test::some_levels(graph, precision)));
  const auto data_bytes = [](const std::string& content) {
    uint64_t header;
    std::memcpy(&header, content.data(), 8);
    return content.size() - 8 - header;
  };
  Random random(1);
  int64_t tried = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    const std::string& seed = seeds[below(random, seeds.size())];
    std::string content = seed;
    for (size_t i = below(random, 4); i > 0 && !content.empty(); --i) mutate(content, random);
    if (below(random, 8) != 0) mend(content, data_bytes(seed));
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(content.data()), content.size());
    ++tried;
  }
  std::printf("%lld plan files tried, %lld accepted, %lld ran\n", static_cast<long long>(tried),
              static_cast<long long>(accepted), static_cast<long long>(ran));
  return ran > 0 && accepted < tried ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  char* rest = nullptr;
  const double seconds = argc > 1 ? std::strtod(argv[1], &rest) : 5.0;
  if (argc == 1 || *rest == '\0') return fuzz(seconds);
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(content.data()), content.size());
  }
  return 0;
}
#endif
