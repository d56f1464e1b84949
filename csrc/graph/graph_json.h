// A graph as JSON and named tensors, and back. Reading rebuilds it through Graph's own methods, so whatever a file
// says passes the same checks as a graph made by hand.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "graph/graph.h"

namespace fr {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  const char* bytes = nullptr;  // float32, little endian, at any address
  int64_t count = 0;
};

// {"nodes": [{"op", "inputs", ...}], "output": n}. The tensors' bytes belong to the graph.
json::Value graph_to_json(const Graph& graph, std::vector<NamedTensor>& tensors);

// Throws std::invalid_argument that names the node or the tensor for anything that is not exactly what
// graph_to_json writes: unknown operators and attributes, tensors that are missing, used twice, unused, of a wrong
// shape or not finite.
Graph graph_from_json(const json::Value& document, const std::vector<NamedTensor>& tensors);

}  // namespace fr
