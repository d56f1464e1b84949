#include "base/parallel.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fr {
namespace {

// How long a worker looks for new work before it sleeps. Layers follow one another within microseconds; a
// wake-up through the kernel costs about ten.
constexpr int kSpins = 2000;

void relax() {
#if FR_X86
  __builtin_ia32_pause();
#endif
}

struct Loop {
  const LoopBody* body;
  int64_t count;
  int helpers_wanted;   // guarded by the pool's mutex
  int next_thread = 1;  // guarded by the pool's mutex
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers_inside{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // written once, by whoever sets failed first

  void work(int thread) {
    for (int64_t i; !failed.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < count;) {
      try {
        (*body)(i, thread);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

thread_local bool inside_loop = false;

class Pool {
 public:
  void run(Loop& loop) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (workers_ < loop.helpers_wanted) add_workers(loop.helpers_wanted);
      if (workers_ > 0) {
        loops_.push_back(&loop);
        pending_.fetch_add(1);
      } else {
        loop.helpers_wanted = 0;
      }
    }
    if (sleeping_.load() > 0) wake_.notify_all();
    inside_loop = true;
    loop.work(0);
    inside_loop = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (loop.helpers_wanted > 0) retire(loop);
    }
    for (int spins = 0; loop.helpers_inside.load() > 0; ++spins)
      if (spins < kSpins)
        relax();
      else
        std::this_thread::yield();
    if (loop.error) std::rethrow_exception(loop.error);
  }

 private:
  void add_workers(int wanted) {  // needs the mutex; fewer if the system refuses
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: a host's signal handlers never run on our threads
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void retire(Loop& loop) {  // needs the mutex
    loop.helpers_wanted = 0;
    loops_.erase(std::find(loops_.begin(), loops_.end(), &loop));
    pending_.fetch_sub(1);
  }

  void serve() {
    inside_loop = true;
    for (;;) {
      for (int spins = 0; spins < kSpins && pending_.load(std::memory_order_relaxed) == 0; ++spins) relax();
      Loop* loop = nullptr;
      int thread = 0;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, [this] { return !loops_.empty(); });
        --sleeping_;
        loop = loops_.front();
        thread = loop->next_thread++;
        loop->helpers_inside.fetch_add(1);
        if (--loop->helpers_wanted == 0) retire(*loop);
      }
      loop->work(thread);
      loop->helpers_inside.fetch_sub(1);  // the last touch: the caller may now return and destroy the loop
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Loop*> loops_;  // those that still want helpers, oldest first
  std::atomic<int> pending_{0};
  std::atomic<int> sleeping_{0};
  int workers_ = 0;
};

// Never destroyed: its detached threads may still look at it while the process exits. A child of fork()
// inherits the object but none of its threads, so it starts a pool of its own.
Pool& pool() {
  static std::mutex mutex;
  static std::atomic<Pool*> current{nullptr};
  static std::atomic<pid_t> owner{0};
  if (owner.load() != getpid()) {
    std::lock_guard<std::mutex> lock(mutex);
    if (owner.load() != getpid()) {
      current = new Pool;
      owner = getpid();
    }
  }
  return *current;
}

}  // namespace

int hardware_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(int64_t count, int threads, LoopBody body) {
  const int used = static_cast<int>(std::min<int64_t>(threads, count));
  if (used <= 1 || inside_loop) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  Loop loop;
  loop.body = &body;
  loop.count = count;
  loop.helpers_wanted = used - 1;
  pool().run(loop);
}

}  // namespace fr
