// A thread pool that divides a loop among a fixed number of threads. Each begins with the same share of the indices in
// every loop of as many threads, for its cache's sake; which thread takes which index in the end is not defined, and
// results must not depend on it.
#pragma once
#include <cstdint>

namespace fr {

// What a loop calls for each index: a reference to any callable, which must outlive the loop. std::function would
// allocate for every loop.
class LoopBody {
 public:
  template <class Callable>
  LoopBody(const Callable& callable)  // implicit, so that a lambda can be given
      : callable_(&callable), call_([](const void* what, int64_t index, int thread) {
          (*static_cast<const Callable*>(what))(index, thread);
        }) {}
  void operator()(int64_t index, int thread) const { call_(callable_, index, thread); }

 private:
  const void* callable_;
  void (*call_)(const void*, int64_t, int);
};

int hardware_threads();  // CPUs this process may run on

// Calls body(index, thread) for each index in [0, count), on up to `threads` threads, the caller being
// thread 0; returns when all are done. An exception in body stops the loop and is rethrown here. Loops of
// several callers run at the same time; a call from inside a body runs on that body's thread alone.
// Idle threads sleep; signals are left to the caller's threads; after a fork the child makes threads of its own.
// Where no more threads can be had, the loop is done by those that are there. Once the threads are there, a loop
// allocates nothing.
void parallel_for(int64_t count, int threads, LoopBody body);

}  // namespace fr
