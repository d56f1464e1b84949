// CUDA on the host: what csrc/cuda/device.cuh promises, so that the kernels' own source compiles with a C++ compiler
// (-DFR_EMULATE) and runs without a GPU.
//
// One fiber for each CUDA thread, one block at a time; warps and lanes run in an order drawn from a seed. Beyond
// computing, it checks shared memory for bounds, alignment, reads of what nothing wrote, reads of a cp.async
// destination before its wait, and races between barriers (every 4-byte word remembers who touched it since when);
// global memory for bounds and alignment against the buffers that were announced; barriers and warp collectives for
// missing lanes. It counts bank conflicts of shared memory, tensor-core instructions and bytes of global memory.
//
// It models no time, no cache, no memory model between blocks; products are summed in plain float32 order. What it
// takes an instruction to mean is this file's reading of the PTX manual.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "base/bfloat16.h"
#include "base/half.h"
#include "driver.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

namespace emulator {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = 64 << 10;

struct Counts {
  uint64_t mma = 0, wgmma = 0, shared_accesses = 0, bank_conflicts = 0, global_read = 0, global_written = 0;
  uint64_t barriers = 0, launches = 0;
};

enum class State { running, at_barrier, at_collective, at_condition, done };

class Machine;
// What a warp does together: args[lane] is what that lane brought.
using Collective = void(Machine& machine, unsigned warp, void* const* args);

struct PendingCopy {
  uint32_t to;
  const uint8_t* from;  // null: zeros
};

struct SharedAccess {
  uint32_t address;
  unsigned bytes;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  unsigned id = 0;
  State state = State::running;
  Collective* collective = nullptr;
  void* args = nullptr;
  std::function<bool()> ready;  // at_condition: runs on once this holds
  std::vector<PendingCopy> uncommitted;
  std::vector<std::vector<PendingCopy>> groups;
  std::vector<SharedAccess> accesses;  // since the warp last met
};

// What is known of 4 bytes of shared memory. Several: threads or warps more than one.
struct Word {
  static constexpr int kNone = -1, kSeveral = -2, kEngine = -9;  // the last: written by TMA
  int writer = kNone, reader = kNone, reading_warp = kNone;
  uint32_t written_in_block = 0, written_in_warp = 0, read_in_block = 0, read_in_warp = 0;  // epochs: barriers passed
  bool written = false, in_flight = false;
};

struct Buffer {
  const uint8_t* begin;
  size_t bytes;
  bool writable;
};

class Machine {
 public:
  static Machine& get() {
    static thread_local Machine machine;
    return machine;
  }

  // The device it plays.
  int capability = 90, processors = 2;
  int64_t shared_limit = 227 << 10;
  unsigned seed = 1;

  std::vector<Buffer> buffers;
  std::vector<uint8_t> shared;
  std::vector<Word> words;
  std::vector<Thread> threads;
  std::vector<uint32_t> warp_epoch;
  uint32_t block_epoch = 0;
  unsigned block = 0, blocks = 0, block_threads = 0;
  Thread* current = nullptr;
  Counts counts;
  std::mt19937 random;
  std::vector<std::function<bool()>> agents;    // work of other engines, called at random times until it returns true
  std::vector<std::function<void()>> at_start;  // of each block

  [[noreturn]] void fail(const char* what, uint64_t value = 0) const {
    char text[256];
    std::snprintf(text, sizeof text, "block %u thread %u: %s (0x%llx)", block, current ? current->id : 0, what,
                  static_cast<unsigned long long>(value));
    throw std::runtime_error(text);
  }

  void check_global(const void* address, size_t bytes, bool write) {
    const auto begin = static_cast<const uint8_t*>(address);
    if (reinterpret_cast<uintptr_t>(begin) % bytes != 0) fail("misaligned global access", uint64_t(uintptr_t(begin)));
    for (const Buffer& buffer : buffers)
      if ((buffer.writable || !write) && begin >= buffer.begin && begin + bytes <= buffer.begin + buffer.bytes) {
        (write ? counts.global_written : counts.global_read) += bytes;
        return;
      }
    fail(write ? "global write out of bounds" : "global read out of bounds", uint64_t(uintptr_t(begin)));
  }

  void check_shared(uint32_t address, uint32_t bytes) const {
    if (address + bytes > shared.size()) fail("shared memory out of bounds", address);
    if (address % bytes) fail("misaligned shared access", address);
  }

  void on_read(uint32_t address, uint32_t bytes, const Thread& thread) {
    const int own = static_cast<int>(thread.id), warp = own / int(kLanes);
    for (uint32_t i = address / 4; i < (address + bytes + 3) / 4; ++i) {
      Word& word = words[i];
      if (word.in_flight) fail("read of an asynchronous copy's destination before its wait", i * 4);
      if (!word.written) fail("read of shared memory nothing wrote", i * 4);
      if (word.writer != own && word.written_in_block == block_epoch &&
          !seen_by(warp, word.writer, word.written_in_warp))
        fail("race: read after another thread's write without a barrier", i * 4);
      if (word.read_in_block != block_epoch || word.reader == Word::kNone) {
        word.reader = own;
        word.reading_warp = warp;
      } else {
        if (word.reader != own) word.reader = Word::kSeveral;
        if (word.reading_warp != warp) word.reading_warp = Word::kSeveral;
      }
      word.read_in_block = block_epoch;
      word.read_in_warp = warp_epoch[size_t(warp)];
    }
  }

  void on_write(uint32_t address, uint32_t bytes, const Thread& thread, bool in_flight) {
    const int own = static_cast<int>(thread.id), warp = own / int(kLanes);
    for (uint32_t i = address / 4; i < (address + bytes + 3) / 4; ++i) {
      Word& word = words[i];
      if (word.in_flight && word.writer != own) fail("write over an asynchronous copy in flight", i * 4);
      if (word.reader != Word::kNone && word.read_in_block == block_epoch && word.reader != own &&
          !(word.reading_warp == warp && word.read_in_warp < warp_epoch[size_t(warp)]))
        fail("race: write after another thread's read without a barrier", i * 4);
      if (word.written && word.writer != own && word.written_in_block == block_epoch &&
          !seen_by(warp, word.writer, word.written_in_warp))
        fail("race: two writes without a barrier", i * 4);
      word.writer = own;
      word.written_in_block = block_epoch;
      word.written_in_warp = warp_epoch[size_t(warp)];
      word.in_flight = in_flight;
      word.written = !in_flight;
    }
  }

  void log(uint32_t address, unsigned bytes) { current->accesses.push_back({address, bytes}); }

  void wait_at(State state) {
    current->state = state;
    swapcontext(&current->context, &scheduler_);
  }
  void collective(Collective* run, void* args) {
    current->collective = run;
    current->args = args;
    wait_at(State::at_collective);
  }
  void wait_until(std::function<bool()> ready) {
    current->ready = std::move(ready);
    wait_at(State::at_condition);
  }
  void pass_barrier() {  // for all threads of the block
    for (uint32_t& epoch : warp_epoch) ++epoch;
    ++block_epoch;
    ++counts.barriers;
  }

  void launch(unsigned grid, unsigned block_size, size_t shared_bytes, std::function<void()> body) {
    if (block_size == 0 || block_size % kLanes || block_size > 1024) throw std::runtime_error("launch: odd block size");
    if (int64_t(shared_bytes) > shared_limit)
      throw std::runtime_error("launch: more shared memory than the device has");
    blocks = grid;
    block_threads = block_size;
    body_ = std::move(body);
    random.seed(seed);
    ++counts.launches;
    shared.resize((shared_bytes + 3) / 4 * 4);
    for (block = 0; block < grid; ++block) run_block();
    current = nullptr;
  }

 private:
  // Whether warp has met since one of its own threads wrote.
  bool seen_by(int warp, int writer, uint32_t epoch) const {
    return writer >= 0 && writer / int(kLanes) == warp && epoch < warp_epoch[size_t(warp)];
  }

  // The i-th plain access of each lane since the last meeting is one instruction.
  void count_conflicts(unsigned warp) {
    Thread* const lanes = &threads[warp * kLanes];
    size_t instructions = 0;
    for (unsigned l = 0; l < kLanes; ++l) instructions = std::max(instructions, lanes[l].accesses.size());
    for (size_t i = 0; i < instructions; ++i) {
      unsigned bytes = 4;
      for (unsigned l = 0; l < kLanes; ++l)
        if (i < lanes[l].accesses.size()) bytes = std::max(bytes, lanes[l].accesses[i].bytes);
      const unsigned together = std::min(kLanes, 128 / bytes);  // lanes that one cycle serves
      for (unsigned first = 0; first < kLanes; first += together) {
        std::array<std::vector<uint32_t>, 32> banks;
        size_t worst = 0;
        for (unsigned l = first; l < first + together; ++l) {
          if (i >= lanes[l].accesses.size()) continue;
          for (unsigned k = 0; k < (bytes + 3) / 4; ++k) {
            const uint32_t word = lanes[l].accesses[i].address / 4 + k;
            std::vector<uint32_t>& bank = banks[word % 32];
            if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
            worst = std::max(worst, bank.size());
          }
        }
        if (worst == 0) continue;
        ++counts.shared_accesses;
        counts.bank_conflicts += worst - 1;
      }
    }
    for (unsigned l = 0; l < kLanes; ++l) lanes[l].accesses.clear();
  }

  static void enter() {
    Machine& machine = get();
    try {
      machine.body_();
      if (!machine.current->uncommitted.empty()) machine.fail("a thread ended with uncommitted asynchronous copies");
    } catch (...) {
      machine.error_ = std::current_exception();
    }
    machine.current->state = State::done;
    swapcontext(&machine.current->context, &machine.scheduler_);
  }

  void start_block() {
    block_epoch = 1;
    warp_epoch.assign(block_threads / kLanes, 1);
    words.assign(shared.size() / 4, Word{});
    std::fill(shared.begin(), shared.end(), uint8_t(0xff));
    if (threads.size() != block_threads) threads = std::vector<Thread>(block_threads);
    for (unsigned i = 0; i < block_threads; ++i) {
      Thread& thread = threads[i];
      thread.id = i;
      thread.state = State::running;
      thread.uncommitted.clear();
      thread.groups.clear();
      thread.accesses.clear();
      if (!thread.stack) thread.stack.reset(new char[kStackBytes]);
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStackBytes;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, &Machine::enter, 0);
    }
    agents.clear();
    for (const auto& start : at_start) start();
  }

  // Runs a warp until all of its lanes wait for others. Returns whether anything ran.
  bool run_warp(unsigned warp, const std::vector<unsigned>& order) {
    bool progress = false;
    for (;;) {
      bool ran = false;
      for (const unsigned id : order) {
        if (id / kLanes != warp || threads[id].state != State::running) continue;
        current = &threads[id];
        swapcontext(&scheduler_, &current->context);
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        ran = progress = true;
      }
      unsigned waiting = 0;
      void* args[kLanes];
      Thread* const lanes = &threads[warp * kLanes];
      for (unsigned l = 0; l < kLanes; ++l) {
        waiting += lanes[l].state == State::at_collective;
        args[l] = lanes[l].args;
      }
      if (waiting == kLanes) {
        for (unsigned l = 1; l < kLanes; ++l)
          if (lanes[l].collective != lanes[0].collective) fail("lanes of one warp at different collectives");
        lanes[0].collective(*this, warp, args);
        for (unsigned l = 0; l < kLanes; ++l) lanes[l].state = State::running;
      } else if (!ran) {
        return progress;
      }
    }
  }

  bool run_agents() {
    const bool any = !agents.empty();
    for (size_t i = 0; i < agents.size();) {
      if ((random() & 1) && agents[i]())
        agents.erase(agents.begin() + static_cast<std::ptrdiff_t>(i));
      else
        ++i;
    }
    return any;
  }

  void run_block() {
    start_block();
    std::vector<unsigned> order(block_threads);
    for (unsigned i = 0; i < block_threads; ++i) order[i] = i;
    for (;;) {
      std::shuffle(order.begin(), order.end(), random);
      std::vector<unsigned> warps;
      for (const unsigned id : order)
        if (id % kLanes == 0) warps.push_back(id / kLanes);
      bool progress = false;
      for (const unsigned warp : warps) progress |= run_warp(warp, order);
      progress |= run_agents();
      unsigned done = 0, at_barrier = 0;
      for (Thread& thread : threads) {
        if (thread.state == State::at_condition && thread.ready()) {
          thread.state = State::running;
          progress = true;
        }
        done += thread.state == State::done;
        at_barrier += thread.state == State::at_barrier;
      }
      if (at_barrier == block_threads || (done == block_threads && agents.empty())) {
        for (unsigned w = 0; w < block_threads / kLanes; ++w) count_conflicts(w);
        if (done == block_threads) return;
        pass_barrier();
        for (Thread& thread : threads) thread.state = State::running;
      } else if (!progress) {
        fail("deadlock: divergent barrier or warp collective with missing lanes");
      }
    }
  }

 public:
  // __syncwarp: what the lanes wrote is now each other's to read.
  void meet(unsigned warp) {
    count_conflicts(warp);
    ++warp_epoch[warp];
  }

 private:
  ucontext_t scheduler_;
  std::function<void()> body_;
  std::exception_ptr error_;
};

struct Index {
  unsigned (*value)();
  operator unsigned() const { return value(); }
};
struct Dimension {
  Index x;
};

template <class T>
float to_float(uint16_t bits) {
  if (std::is_same<T, __half>::value) return fr::half_to_float(bits);
  return fr::bf16_to_float({bits});
}
template <class T>
uint16_t from_float(float value) {
  if (std::is_same<T, __half>::value) return fr::float_to_half(value);
  return fr::float_to_bf16(value).bits;
}

}  // namespace emulator

static const emulator::Dimension threadIdx{{[] { return emulator::Machine::get().current->id; }}};
static const emulator::Dimension blockIdx{{[] { return emulator::Machine::get().block; }}};
static const emulator::Dimension gridDim{{[] { return emulator::Machine::get().blocks; }}};
static const emulator::Dimension blockDim{{[] { return emulator::Machine::get().block_threads; }}};

inline void __syncthreads() { emulator::Machine::get().wait_at(emulator::State::at_barrier); }
inline void __syncwarp() {
  emulator::Machine::get().collective(
      [](emulator::Machine& machine, unsigned warp, void* const*) { machine.meet(warp); }, nullptr);
}

namespace fr::cuda {

using emulator::Machine;

inline uint32_t shared_base() { return 0; }

template <class T>
T shared_load(uint32_t address) {
  Machine& machine = Machine::get();
  machine.check_shared(address, sizeof(T));
  machine.on_read(address, sizeof(T), *machine.current);
  machine.log(address, sizeof(T));
  T value;
  std::memcpy(&value, &machine.shared[address], sizeof(T));
  return value;
}
template <class T>
void shared_store(uint32_t address, T value) {
  static_assert(sizeof(T) >= 4, "races are watched by words of 4 bytes");
  Machine& machine = Machine::get();
  machine.check_shared(address, sizeof(T));
  machine.on_write(address, sizeof(T), *machine.current, false);
  machine.log(address, sizeof(T));
  std::memcpy(&machine.shared[address], &value, sizeof(T));
}
template <class T>
T global_load(const T* address) {
  Machine::get().check_global(address, sizeof(T), false);
  return *address;
}
template <class T>
void global_store(T* address, T value) {
  Machine::get().check_global(address, sizeof(T), true);
  *address = value;
}
inline void global_add(unsigned long long* address, unsigned long long value) {
  Machine::get().check_global(address, sizeof *address, true);
  *address += value;
}

inline void cp_async16(uint32_t to, const void* from, bool valid) {
  Machine& machine = Machine::get();
  machine.check_shared(to, 16);
  if (valid) machine.check_global(from, 16, false);
  machine.on_write(to, 16, *machine.current, true);
  machine.current->uncommitted.push_back({to, valid ? static_cast<const uint8_t*>(from) : nullptr});
}
inline void cp_async_commit() {
  emulator::Thread& thread = *Machine::get().current;
  thread.groups.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}
template <int kMostPending>
void cp_async_wait() {
  Machine& machine = Machine::get();
  emulator::Thread& thread = *machine.current;
  while (thread.groups.size() > size_t(kMostPending)) {
    for (const emulator::PendingCopy& copy : thread.groups.front()) {
      if (copy.from)
        std::memcpy(&machine.shared[copy.to], copy.from, 16);
      else
        std::memset(&machine.shared[copy.to], 0, 16);
      machine.on_write(copy.to, 16, thread, false);
    }
    thread.groups.erase(thread.groups.begin());
  }
}

struct LoadMatrix {
  uint32_t address;
  uint32_t* out;
};
// Four 8x8 matrices of 16-bit values; lane 8 m + r gives the address of row r of matrix m. Without transposing, lane
// 4 r + c receives columns 2 c and 2 c + 1 of row r; transposed, rows 2 c and 2 c + 1 of column r.
template <bool kTranspose>
void load_matrices(Machine& machine, unsigned warp, void* const* args) {
  for (unsigned m = 0; m < 4; ++m) {
    uint16_t matrix[8][8];
    uint32_t seen = 0;
    for (unsigned r = 0; r < 8; ++r) {
      const LoadMatrix& lane = *static_cast<LoadMatrix*>(args[m * 8 + r]);
      machine.current = &machine.threads[warp * emulator::kLanes + m * 8 + r];
      machine.check_shared(lane.address, 16);
      machine.on_read(lane.address, 16, *machine.current);
      const uint32_t banks = 1u << (lane.address / 16 % 8);
      if (seen & banks) ++machine.counts.bank_conflicts;
      seen |= banks;
      std::memcpy(matrix[r], &machine.shared[lane.address], 16);
    }
    for (unsigned l = 0; l < emulator::kLanes; ++l) {
      const unsigned r = l / 4, c = l % 4 * 2;
      const uint32_t low = kTranspose ? matrix[c][r] : matrix[r][c];
      const uint32_t high = kTranspose ? matrix[c + 1][r] : matrix[r][c + 1];
      static_cast<LoadMatrix*>(args[l])->out[m] = low | high << 16;
    }
  }
  ++machine.counts.shared_accesses;
}
inline void ldmatrix_x4(uint32_t (&out)[4], uint32_t address) {
  LoadMatrix args{address, out};
  Machine::get().collective(load_matrices<false>, &args);
}
inline void ldmatrix_x4_transposed(uint32_t (&out)[4], uint32_t address) {
  LoadMatrix args{address, out};
  Machine::get().collective(load_matrices<true>, &args);
}

struct Mma {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};
template <class T>
void multiply_matrices(Machine& machine, unsigned, void* const* args) {
  float a[16][16], b[16][8];
  for (unsigned l = 0; l < emulator::kLanes; ++l) {
    const Mma& lane = *static_cast<Mma*>(args[l]);
    const unsigned row = l / 4, column = l % 4 * 2;
    for (unsigned e = 0; e < 2; ++e) {
      for (unsigned r = 0; r < 4; ++r)
        a[row + r % 2 * 8][column + e + r / 2 * 8] = emulator::to_float<T>(uint16_t(lane.a[r] >> 16 * e));
      for (unsigned r = 0; r < 2; ++r)
        b[column + e + r * 8][row] = emulator::to_float<T>(uint16_t(lane.b[r] >> 16 * e));
    }
  }
  for (unsigned l = 0; l < emulator::kLanes; ++l)
    for (unsigned r = 0; r < 4; ++r) {
      const unsigned row = l / 4 + r / 2 * 8, column = l % 4 * 2 + r % 2;
      float sum = 0.0f;
      for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      static_cast<Mma*>(args[l])->d[r] += sum;
    }
  ++machine.counts.mma;
}
template <class T>
void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Mma args{d, a, {b0, b1}};
  Machine::get().collective(multiply_matrices<T>, &args);
}

struct Exchange {
  float value;
  unsigned mask;
};
inline float shuffle_xor(float value, unsigned mask) {
  Exchange args{value, mask};
  Machine::get().collective(
      [](Machine&, unsigned, void* const* args) {
        float values[emulator::kLanes];
        for (unsigned l = 0; l < emulator::kLanes; ++l) values[l] = static_cast<Exchange*>(args[l])->value;
        for (unsigned l = 0; l < emulator::kLanes; ++l) {
          Exchange& lane = *static_cast<Exchange*>(args[l]);
          lane.value = values[l ^ lane.mask];
        }
      },
      &args);
  return args.value;
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float rsqrt_fast(float x) { return 1.0f / std::sqrt(x); }
inline float cos_pi(float x) { return std::cos(3.14159265f * x); }

template <class T>
float to_float(T value) {
  return emulator::to_float<T>(value.bits);
}
template <>
inline float to_float<float>(float value) {
  return value;
}
template <class T>
T from_float(float value) {
  return T{emulator::from_float<T>(value)};
}
template <>
inline float from_float<float>(float value) {
  return value;
}
template <class T>
uint32_t pack2(float low, float high) {
  return emulator::from_float<T>(low) | uint32_t(emulator::from_float<T>(high)) << 16;
}
template <class T>
float2 unpack2(uint32_t pair) {
  return {emulator::to_float<T>(uint16_t(pair)), emulator::to_float<T>(uint16_t(pair >> 16))};
}

}  // namespace fr::cuda
