// The plan file, model.frp: one safetensors container. Its metadata holds "fastrestore_plan", a JSON document
// {format, precision, channels, takes_sigma, card, graph}, for int8 also levels, a list of {node, scale, zero}, and
// "sha256" over that document's text and each tensor's name, shape and bytes. The tensors are the unpacked float32
// weights, so that one file serves every machine.
#pragma once
#include <string>
#include <string_view>

#include "base/json.h"
#include "engine/plan.h"
#include "graph/graph.h"

namespace fr {

struct PlanFile {
  Graph graph;
  Precision precision = Precision::float32;
  std::vector<ImageLevels> levels;    // of precision int8
  json::Value card = json::Object();  // what is known of the model: name, task, licence and so on; an object
};

// The content of a file. Throws std::invalid_argument if the graph has no output, holds weights that are not finite
// or exceeds a limit of the format, and for levels that a plan refuses.
std::string write_plan_file(const Graph& graph, Precision precision, const json::Value& card,
                            const std::vector<ImageLevels>& levels = {});

enum class Checksum { verify, ignore };  // ignore: for the fuzz target, which would not get past it

// Throws std::invalid_argument, in one sentence, for whatever is not exactly such a file.
PlanFile read_plan_file(std::string_view content, Checksum checksum = Checksum::verify);

// Reads a regular file. Throws std::system_error if that fails, and as above.
PlanFile load_plan_file(const std::string& path);

}  // namespace fr
