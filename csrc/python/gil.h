// The interpreter's lock, given up and taken back so that a process can end while our threads are at work.
#pragma once
#include <Python.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace fr {

// A daemon thread that wants the lock of an interpreter that ends is ended by CPython before 3.14 with pthread_exit,
// whose unwinding meets destructors that may not throw, and kills the process.  Such a thread sleeps instead, as from
// 3.14 on.
template <class Take>
void take_or_sleep(Take&& take) {
#if defined(__GLIBCXX__)
  try {
    take();
  } catch (abi::__forced_unwind&) {
    for (;;) pause();
  }
#else
  take();
#endif
}

// While it lives, other threads run Python.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    take_or_sleep([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// While it lives, this thread runs Python: for callbacks, in a thread that gave the lock up.
class WithGil {
 public:
  WithGil() {
    take_or_sleep([this] { state_ = PyGILState_Ensure(); });
  }
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace fr
