#include <set>
#include <string>

#include "base/json.h"
#include "base/sha256.h"
#include "check.h"
#include "engine/plan.h"
#include "engine/plan_file.h"
#include "plans.h"

using namespace fr;

namespace {

void check_json() {
  for (const char* text :
       {"null", "[]", "{}", "[1,-2,0.5,1e+300,true,false,null]", "{\"a\":{\"b\":[\"\\u0007 \\\" \\\\ \xcf\x83\"]}}",
        "9223372036854775807", "-9223372036854775808", "-0.0"})
    CHECK_SAYING(json::write(json::parse(text)) == text, json::write(json::parse(text)));
  CHECK(json::write(json::parse(" [ 1 , {\"\\u03c3\\ud83d\\ude00\" : 1.0 } ]\n")) ==
        "[1,{\"\xcf\x83\xf0\x9f\x98\x80\":1.0}]");
  for (const char* text : {"",
                           " ",
                           "[",
                           "]",
                           "[1,]",
                           "{\"a\":1,}",
                           "{\"a\"}",
                           "{a:1}",
                           "{\"a\":1,\"a\":2}",
                           "01",
                           "+1",
                           "1.",
                           ".5",
                           "1e",
                           "0x10",
                           "NaN",
                           "Infinity",
                           "1e999",
                           "9223372036854775808",
                           "nul",
                           "truefalse",
                           "1 2",
                           "\"",
                           "\"\t\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"\xff\"",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xcf\"",
                           "'a'",
                           "// a\n1"})
    CHECK_SAYING(([&] {
                   try {
                     json::parse(text);
                   } catch (const std::invalid_argument&) {
                     return true;
                   }
                   return false;
                 }()),
                 text);
  CHECK_THROWS(json::parse(std::string_view("1\0", 2)), std::invalid_argument);
  CHECK_THROWS(json::parse(std::string(1 << 20, '[')), std::invalid_argument);
  std::string many = "[0";
  for (int64_t i = 0; i < json::kMaxValues; ++i) many += ",0";
  CHECK_THROWS(json::parse(many + "]"), std::invalid_argument);
}

std::string digest(const std::string& text, size_t step, Isa isa) {
  Sha256 sum(isa);
  for (size_t i = 0; i < text.size(); i += step) sum.update(text.data() + i, std::min(step, text.size() - i));
  return sum.hex();
}

void check_sha256(Isa isa) {  // FIPS 180-4's examples
  const auto digest = [isa](const std::string& text, size_t step) { return ::digest(text, step, isa); };
  CHECK(digest("", 1) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string long_one(1'000'000, 'a');
  for (size_t step : {1, 63, 64, 65, 1000, 1'000'000})
    CHECK(digest(long_one, step) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  for (size_t size = 50; size < 130; ++size)  // the padding's cases
    CHECK(digest(std::string(size, 'x'), 7) == digest(std::string(size, 'x'), size));
}

void check_round_trip(const Graph& graph, Precision precision) {
  const std::vector<ImageLevels> levels = test::some_levels(graph, precision);
  const std::string content = write_plan_file(graph, precision, json::Object{{"name", "test"}}, levels);
  const PlanFile file = read_plan_file(content);
  CHECK(file.precision == precision && file.levels.size() == levels.size());
  for (size_t i = 0; i < levels.size(); ++i)
    CHECK(file.levels[i].node == levels[i].node && file.levels[i].levels.scale == levels[i].levels.scale &&
          file.levels[i].levels.zero == levels[i].levels.zero);
  CHECK(write_plan_file(file.graph, file.precision, file.card, file.levels) == content);
  CHECK(file.graph.halo() == graph.halo() && file.graph.multiple_of() == graph.multiple_of());
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    CHECK(file.graph.nodes()[n].weight == graph.nodes()[n].weight);
    CHECK(file.graph.nodes()[n].bias == graph.nodes()[n].bias);
  }
}

// The round trips and the fuzz target's seeds hold every operator: a new one belongs into plans.h.
void check_coverage() {
  std::set<std::string> held;
  for (const Graph& graph : test::all_graphs(1))
    for (const Node& node : graph.nodes()) held.insert(op_name(node.op));
  for (int op = 0; *op_name(static_cast<Op>(op)) != '\0'; ++op)
    CHECK_SAYING(held.count(op_name(static_cast<Op>(op))) == 1, op_name(static_cast<Op>(op)));
}

// Whichever bit is wrong, and wherever the file ends, it is refused.
void check_damage() {
  Graph graph;
  const int input = graph.input(1);
  graph.set_output(graph.conv2d(input, test::conv_spec(1, 1, 3, 1, 1), test::weights(9), test::weights(1)));
  const std::string content = write_plan_file(graph, Precision::float32, json::Object());
  const auto accepted = [](const std::string& damaged) {
    try {
      read_plan_file(damaged);
    } catch (const std::invalid_argument&) {
      return false;
    }
    return true;
  };
  CHECK(accepted(content));
  for (size_t bit = 0; bit < 8 * content.size(); ++bit) {
    std::string damaged = content;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    CHECK_SAYING(!accepted(damaged), "bit " + std::to_string(bit));
  }
  for (size_t size = 0; size < content.size(); ++size) CHECK(!accepted(content.substr(0, size)));
  CHECK(!accepted(content + '\0'));
}

// What Graph's methods refuse, whoever calls them.
void check_graph_limits() {
  const auto conv = [](ConvSpec spec, int64_t values) {
    Graph graph;
    return graph.conv2d(graph.input(spec.in_channels), spec, test::weights(values), {});
  };
  ConvSpec spec = test::conv_spec(1, 1, 3, 1, 1);
  CHECK(conv(spec, 9) == 1);
  CHECK_THROWS(conv(spec, 8), std::invalid_argument);
  for (int64_t ConvSpec::* field :
       {&ConvSpec::kernel_h, &ConvSpec::stride_h, &ConvSpec::stride_w, &ConvSpec::pad_top, &ConvSpec::pad_left,
        &ConvSpec::dilation_w, &ConvSpec::groups, &ConvSpec::out_channels})
    for (int64_t value : {int64_t{-1}, int64_t{1} << 31, int64_t{1} << 62, INT64_MIN}) {
      ConvSpec wrong = spec;
      wrong.*field = value;
      CHECK_THROWS(conv(wrong, 9), std::logic_error);
    }
  spec.stride_h = spec.stride_w = 0;
  CHECK_THROWS(conv(spec, 9), std::invalid_argument);
  Graph strides;  // the least common multiple of 11, 13 and 7 * 16 exceeds the limit, though no stride does
  strides.input(1);
  strides.pixel_unshuffle(0, 11);
  CHECK_THROWS(strides.pixel_unshuffle(strides.pixel_unshuffle(0, 7), 16), std::invalid_argument);
  Graph many;
  many.input(1);
  CHECK_THROWS(([&] {
                 for (int i = 0; i < 30'000; ++i) many.concat({0});
               }()),
               std::invalid_argument);
  Graph wide;
  wide.input(1);
  const std::vector<int> parts(64, 0);
  for (int i = 0; i < 1500; ++i) wide.concat(parts);
  CHECK_THROWS(([&] {
                 for (int i = 0; i < 100; ++i) wide.concat(parts);
               }()),
               std::invalid_argument);
}

}  // namespace

int main() {
  check_json();
  check_sha256(Isa::none);
  check_sha256(cpu_isa());
  for (const Graph& graph : test::all_graphs(3))
    for (Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8})
      check_round_trip(graph, precision);
  CHECK(!test::some_levels(test::residual_graph(3), Precision::int8).empty());
  check_coverage();
  check_damage();
  check_graph_limits();
  return test::result();
}
