// A thread pool that divides a loop among a fixed number of threads. Which thread takes which index is
// not defined; results must not depend on it.
#pragma once
#include <cstdint>
#include <functional>

namespace fr {

int hardware_threads();  // CPUs this process may run on

// Calls body(index, thread) for each index in [0, count), on up to `threads` threads, the caller being
// thread 0; returns when all are done. An exception in body stops the loop and is rethrown here. Loops of
// several callers run at the same time; a call from inside a body runs on that body's thread alone.
// After a fork the child makes threads of its own.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t index, int thread)>& body);

}  // namespace fr
