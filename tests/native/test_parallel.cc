// The thread pool: every index once, exceptions, several callers, fork, sleep, and nothing allocated.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/parallel.h"
#include "check.h"

namespace fr {
namespace {

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

bool every_index_once(int64_t count, int threads) {
  std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
  std::atomic<bool> thread_in_range{true};
  parallel_for(count, threads, [&](int64_t i, int thread) {
    ++calls[static_cast<size_t>(i)];
    if (thread < 0 || thread >= threads) thread_in_range = false;
  });
  bool once = thread_in_range;
  for (const std::atomic<int>& called : calls) once = once && called == 1;
  return once;
}

void test_indices() {
  for (int threads : {1, 2, 3, 8})
    for (int64_t count : {0, 1, 2, 7, 1000}) CHECK(every_index_once(count, threads));
}

void test_nested() {
  std::atomic<int> inner{0};
  parallel_for(4, 4, [&](int64_t, int) {
    parallel_for(5, 4, [&](int64_t, int thread) {
      CHECK(thread == 0);
      ++inner;
    });
  });
  CHECK(inner == 20);
}

void test_exception() {
  for (int64_t bad : {0, 17, 99})
    for (int threads : {1, 3}) {
      CHECK_THROWS(parallel_for(100, threads,
                                [&](int64_t i, int) {
                                  if (i == bad) throw std::runtime_error("stop");
                                }),
                   std::runtime_error);
      CHECK(every_index_once(100, threads));
    }
}

void test_many_callers() {
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 16; ++c)
    callers.emplace_back([&, c] {
      for (int round = 0; round < 100; ++round) {
        std::atomic<int64_t> sum{0};
        parallel_for(50, 2 + c % 3, [&](int64_t i, int) { sum += i; });
        right += sum == 1225;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(right == 1600);
}

void test_idle_threads_sleep() {
  CHECK(every_index_once(1000, 4));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  const double spent = cpu_seconds() - before;
  CHECK_SAYING(spent < 0.02, std::to_string(spent) + " s of CPU while idle");
}

void test_fork() {
  CHECK(every_index_once(100, 3));
  const pid_t child = fork();
  if (child == 0) _exit(every_index_once(100, 3) && every_index_once(100, 2) ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

std::atomic<std::thread::id> handler_ran_on;

// A host's handler runs on the host's threads, whatever ours are doing.
void test_signals_are_left_to_the_caller() {
  struct sigaction action = {}, before = {};
  action.sa_handler = [](int) { handler_ran_on = std::this_thread::get_id(); };
  sigaction(SIGUSR1, &action, &before);
  for (int round = 0; round < 20; ++round) {
    handler_ran_on = std::thread::id();
    std::atomic<bool> sent{false};
    parallel_for(3, 3, [&](int64_t i, int thread) {
      if (thread == 0 && !sent.exchange(true)) kill(getpid(), SIGUSR1);
      if (i >= 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
    if (!sent) kill(getpid(), SIGUSR1);
    CHECK(handler_ran_on.load() == std::this_thread::get_id());
  }
  sigaction(SIGUSR1, &before, nullptr);
}

// A process that may have no more threads still gets its result.
void test_no_threads_to_be_had() {
  if (geteuid() == 0) return;  // whom the limit does not bind
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {1, 1};
    setrlimit(RLIMIT_NPROC, &none);
    _exit(every_index_once(100, 3) ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace fr

int main() {
  using namespace fr;
  test_indices();
  test_nested();
  test_exception();
  test_many_callers();
  test_idle_threads_sleep();
  test_fork();
  test_signals_are_left_to_the_caller();
  test_no_threads_to_be_had();
  return test::result();
}
