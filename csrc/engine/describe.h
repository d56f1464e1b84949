// What a plan is made of, for people: nothing here takes part in running it.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/plan.h"

namespace fr {

// How much of each node an output pixel needs beyond itself, each way, in input pixels, at most over all positions. The
// input's is the halo; the output's own is 0. -1: nothing that leads to the output reads this node.
std::vector<int64_t> margins(const Graph& graph);

// How much of that a node's own operator adds.
std::vector<int64_t> margins_added(const Graph& graph);

}  // namespace fr
