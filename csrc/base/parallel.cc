#include "base/parallel.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bitset>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fr {
namespace {

// How long a worker looks for new work before it sleeps. Layers follow one another within microseconds, an uneven
// layer's last piece takes some hundreds; a wake-up through the kernel costs tens.
constexpr std::chrono::microseconds kLookingTime{500};
constexpr int kLooks = 64;  // between two readings of the clock

constexpr int kMostThreads = 1024;
constexpr int64_t kMostIndices = int64_t{1} << 31;  // of a loop: a share packs two of them

void relax() {
#if FR_X86
  __builtin_ia32_pause();
#endif
}

// Looks for `found` until it is true or the time is over.
template <class Found>
bool look_for(const Found& found) {
  const auto end = std::chrono::steady_clock::now() + kLookingTime;
  do {
    for (int look = 0; look < kLooks; ++look) {
      if (found()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// The indices [begin, end) that a thread has still to do: it takes them from the front, others from the back.
class Share {
 public:
  void set(int64_t begin, int64_t end) { range_.store(pack(begin, end), std::memory_order_relaxed); }

  int64_t take_first() {
    uint64_t range = range_.load();
    while (begin_of(range) < end_of(range))
      if (range_.compare_exchange_weak(range, pack(begin_of(range) + 1, end_of(range)))) return begin_of(range);
    return -1;
  }

  int64_t take_last() {
    uint64_t range = range_.load();
    while (begin_of(range) < end_of(range))
      if (range_.compare_exchange_weak(range, pack(begin_of(range), end_of(range) - 1))) return end_of(range) - 1;
    return -1;
  }

 private:
  static uint64_t pack(int64_t begin, int64_t end) { return static_cast<uint64_t>(begin) << 32 | end; }
  static int64_t begin_of(uint64_t range) { return static_cast<int64_t>(range >> 32); }
  static int64_t end_of(uint64_t range) { return static_cast<int64_t>(range & 0xffffffff); }

  std::atomic<uint64_t> range_;
};

// Each thread has its share of the indices, the same in every loop of as many threads: what one layer wrote in its
// share of the columns is in the cache of the core that reads it in the next. Who has finished takes from the others.
struct Loop {
  const LoopBody* body;
  int threads;
  int helpers_wanted;                 // guarded by the pool's mutex
  std::bitset<kMostThreads> present;  // guarded by the pool's mutex
  Share shares[kMostThreads];         // of `threads` threads
  std::atomic<int> helpers_inside{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // written once, by whoever sets failed first

  Loop(const LoopBody& what, int64_t count, int used) : body(&what), threads(used), helpers_wanted(used - 1) {
    present[0] = true;
    for (int t = 0; t < used; ++t) shares[t].set(count * t / used, count * (t + 1) / used);
  }

  // The number that a worker works under: its own if it is free, so that shares stay with their cores.
  int enter(int worker) {  // needs the pool's mutex
    int thread = worker < threads ? worker : 1;
    while (present[thread]) thread = thread + 1 < threads ? thread + 1 : 1;
    present[thread] = true;
    return thread;
  }

  void work(int thread) {
    for (int64_t i; !failed.load(std::memory_order_relaxed) && (i = next(thread)) >= 0;) {
      try {
        (*body)(i, thread);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }

  int64_t next(int thread) {
    int64_t index = shares[thread].take_first();
    for (int other = 1; index < 0 && other < threads; ++other) index = shares[(thread + other) % threads].take_last();
    return index;
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
    while (!look_for([&] { return loop.helpers_inside.load() == 0; })) std::this_thread::yield();
    if (loop.error) std::rethrow_exception(loop.error);
  }

 private:
  void add_workers(int wanted) {  // needs the mutex; fewer if the system refuses
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited: a host's signal handlers never run on our threads
    try {
      for (; workers_ < wanted; ++workers_) std::thread([this, number = workers_ + 1] { serve(number); }).detach();
    } catch (const std::system_error&) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void retire(Loop& loop) {  // needs the mutex
    loop.helpers_wanted = 0;
    loops_.erase(std::find(loops_.begin(), loops_.end(), &loop));
    pending_.fetch_sub(1);
  }

  void serve(int number) {
    inside_loop = true;
    for (;;) {
      look_for([this] { return pending_.load(std::memory_order_relaxed) > 0; });
      Loop* loop = nullptr;
      int thread = 0;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        if (loops_.empty()) {
          ++sleeping_;
          wake_.wait(lock, [this] { return !loops_.empty(); });
          --sleeping_;
        }
        loop = loops_.front();
        thread = loop->enter(number);
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
  const int used = static_cast<int>(std::min<int64_t>(std::min(threads, kMostThreads), count));
  if (used <= 1 || inside_loop) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  for (int64_t done = 0; done < count; done += kMostIndices) {
    const auto slice = [&](int64_t i, int thread) { body(done + i, thread); };
    const LoopBody part(slice);
    Loop loop(part, std::min(kMostIndices, count - done), used);
    pool().run(loop);
  }
}

}  // namespace fr
