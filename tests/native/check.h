// The few checks that the native tests need: a failed one prints where and what, and the test goes on.
#pragma once
#include <cstdio>
#include <exception>
#include <string>

namespace fr::test {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void report(bool ok, const char* file, int line, const std::string& what) {
  if (ok) return;
  if (++failures() <= 20) std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

// For the end of main.
inline int result() {
  if (failures() > 0) std::fprintf(stderr, "%d checks failed\n", failures());
  return failures() == 0 ? 0 : 1;
}

}  // namespace fr::test

#define CHECK(condition) ::fr::test::report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_SAYING(condition, text) \
  ::fr::test::report(static_cast<bool>(condition), __FILE__, __LINE__, std::string(#condition) + ": " + (text))
#define CHECK_THROWS(expression, Exception)                                                  \
  do {                                                                                       \
    bool thrown = false;                                                                     \
    try {                                                                                    \
      (void)(expression);                                                                    \
    } catch (const Exception&) {                                                             \
      thrown = true;                                                                         \
    }                                                                                        \
    ::fr::test::report(thrown, __FILE__, __LINE__, #expression " should throw " #Exception); \
  } while (false)
