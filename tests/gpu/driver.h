// The emulated device's streams: what is enqueued waits there until somebody waits for it, and then runs in an order
// drawn from the machine's seed, as far as streams and events allow. So what is ordered by luck alone goes wrong: a
// slot that is filled again before it was read, a result that is taken before it was copied.
//
// It keeps a record of all that was asked, from which the host's plan can be read without running anything.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

// stream: 0 is the host, where `what` is a wait.  event: 0 is none.  amount: bytes of a copy, launches of a graph.
struct Entry {
  std::string what;
  int stream = 0, event = 0;
  int64_t amount = 0;
};

class Driver {
 public:
  static Driver& get() {
    static thread_local Driver driver;
    return driver;
  }

  std::vector<Entry> record;
  unsigned seed = 1;
  int64_t device_bytes = 0, most_device_bytes = 0;

  void* make() { return reinterpret_cast<void*>(static_cast<uintptr_t>(++last_)); }

  // The default stream runs at once, after all others.
  void enqueue(void* stream, const std::string& what, int64_t amount, std::function<void()> work) {
    if (recording_ != nullptr) {
      if (stream != recording_) throw std::runtime_error("launched on another stream than the one that is recorded");
      launches_.back().push_back(std::move(work));
      return;
    }
    record.push_back({what, number(stream), 0, amount});
    streams_[number(stream)].push_back({std::move(work), 0, 0});
    if (stream == nullptr) drain();
  }

  void mark(void* event, void* stream) {
    check_not_recording();
    const int e = number(event);
    const uint64_t mark = ++marked_[e];
    record.push_back({"record", number(stream), e, 0});
    streams_[number(stream)].push_back({[this, e, mark] { reached_[e] = mark; }, 0, 0});
    if (stream == nullptr) drain();
  }
  void hold(void* stream, void* event) {
    check_not_recording();
    record.push_back({"wait for", number(stream), number(event), 0});
    streams_[number(stream)].push_back({nullptr, number(event), marked_[number(event)]});
  }

  void wait_event(void* event) {
    record.push_back({"wait", 0, number(event), 0});
    run_until([&] { return reached_[number(event)] >= marked_[number(event)]; });
  }
  void wait_stream(void* stream) {
    record.push_back({"wait for stream", number(stream), 0, 0});
    run_until([&] { return streams_[number(stream)].empty(); });
  }
  void drain() {
    run_until([&] {
      for (const auto& [number, queue] : streams_)
        if (!queue.empty()) return false;
      return true;
    });
  }

  void* begin_recording(void* stream) {
    check_not_recording();
    recording_ = stream;
    launches_.emplace_back();
    return reinterpret_cast<void*>(launches_.size());
  }
  void end_recording() { recording_ = nullptr; }
  void replay(void* launches, void* stream) {
    const size_t which = reinterpret_cast<size_t>(launches) - 1;
    enqueue(stream, "replay", static_cast<int64_t>(launches_.at(which).size()), [this, which] {
      for (const auto& launch : launches_[which]) launch();
    });
  }

 private:
  struct Item {
    std::function<void()> work;  // or none, and an event that must have reached a mark
    int event;
    uint64_t mark;
  };

  static int number(void* handle) { return static_cast<int>(reinterpret_cast<uintptr_t>(handle)); }
  void check_not_recording() const {
    if (recording_ != nullptr) throw std::runtime_error("not allowed while launches are recorded");
  }

  template <class Done>
  void run_until(Done done) {
    check_not_recording();
    random_.seed(seed + ++waits_);
    while (!done()) {
      std::vector<int> ready;
      for (const auto& [number, queue] : streams_)
        if (!queue.empty() && (queue.front().work || reached_[queue.front().event] >= queue.front().mark))
          ready.push_back(number);
      if (ready.empty()) throw std::runtime_error("deadlock: every stream waits for an event");
      std::deque<Item>& queue = streams_[ready[random_() % ready.size()]];
      const Item item = std::move(queue.front());
      queue.pop_front();
      if (item.work) item.work();
    }
  }

  std::map<int, std::deque<Item>> streams_;
  std::map<int, uint64_t> marked_, reached_;
  std::vector<std::vector<std::function<void()>>> launches_;
  void* recording_ = nullptr;
  int last_ = 0;
  unsigned waits_ = 0;
  std::mt19937 random_;
};

}  // namespace emulator
