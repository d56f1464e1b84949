// Hopper on the host, on top of emulator.h. TMA transfers land at a random later moment and then complete their
// mbarrier; wgmma is queued and computed at its wait, so that a missing wait or an early refill gives wrong results;
// TMA must not write over what stmatrix wrote before its writer fenced. The swizzle of 128 bytes, of TMA and of wgmma's
// operands, is modelled as address bits 4 to 6 ^= bits 7 to 9.
#pragma once
#include "emulator.h"

#define FR_SM90A 1

struct CUtensorMap {  // of 16-bit values; strides in bytes
  const uint8_t* data;
  std::array<int64_t, 4> sizes;
  std::array<int64_t, 3> strides;
  std::array<int, 4> box;
};

namespace emulator {

struct PhaseBarrier {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;
  int phase = 0;

  void settle() {
    if (pending != 0 || bytes != 0) return;
    phase ^= 1;
    pending = arrivals;
  }
};

struct QueuedProduct {
  std::array<float*, kLanes> sums;
  uint64_t a, b;
  bool half;
};

struct Hopper {
  std::map<uint32_t, PhaseBarrier> barriers;
  std::map<int, std::pair<int, unsigned>> named;          // threads that came, times passed
  std::map<unsigned, std::vector<QueuedProduct>> queued;  // by warp
  std::vector<uint8_t> unfenced;  // of each byte of shared memory: 1 + the warp that wrote it by stmatrix

  static Hopper& get() {
    static thread_local Hopper hopper;
    return hopper;
  }
  void start_block() {
    barriers.clear();
    named.clear();
    queued.clear();
    unfenced.assign(Machine::get().shared.size(), 0);
  }
  PhaseBarrier& barrier(uint32_t address) {
    const auto found = barriers.find(address);
    if (found == barriers.end()) Machine::get().fail("mbarrier used before its initialisation", address);
    return found->second;
  }
};

inline uint32_t swizzled(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

}  // namespace emulator

namespace fr::cuda {

using emulator::Hopper;

inline void barrier_init(uint32_t barrier, int arrivals) {
  Machine::get().check_shared(barrier, 8);
  Hopper::get().barriers[barrier] = {arrivals, arrivals, 0, 0};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint32_t address) {
  emulator::PhaseBarrier& barrier = Hopper::get().barrier(address);
  if (barrier.pending <= 0) Machine::get().fail("too many arrivals at an mbarrier", address);
  --barrier.pending;
  barrier.settle();
}
inline void barrier_expect(uint32_t address, int bytes) {
  Hopper::get().barrier(address).bytes += bytes;
  barrier_arrive(address);
}
inline void barrier_wait(uint32_t address, int parity) {
  emulator::PhaseBarrier* const barrier = &Hopper::get().barrier(address);
  Machine::get().wait_until([=] { return barrier->phase != parity; });
}
template <int kCount>
void named_barrier(int id) {
  auto* const barrier = &Hopper::get().named[id];
  const unsigned passed = barrier->second;
  if (++barrier->first == kCount) {
    *barrier = {0, passed + 1};
    Machine::get().pass_barrier();
    return;
  }
  Machine::get().wait_until([=] { return barrier->second != passed; });
}

inline void tma_load(uint32_t to, const CUtensorMap& map, uint32_t barrier, int c, int x, int y, int n) {
  Machine& machine = Machine::get();
  Hopper& hopper = Hopper::get();
  uint32_t bytes = 2;
  for (const int side : map.box) bytes *= static_cast<uint32_t>(side);
  if (to & 1023) machine.fail("a TMA destination is not aligned to its swizzle", to);
  if (to + bytes > machine.shared.size()) machine.fail("TMA writes past the shared memory", to);
  for (uint32_t i = to; i < to + bytes; i += 4) {
    if (hopper.unfenced[i]) machine.fail("TMA writes over what was written without a fence", i);
    machine.words[i / 4] = emulator::Word{};
    machine.words[i / 4].in_flight = true;
    machine.words[i / 4].writer = emulator::Word::kEngine;
  }
  std::memset(&machine.shared[to], 0xff, bytes);
  emulator::PhaseBarrier* const waiting = &hopper.barrier(barrier);
  const std::array<int64_t, 4> first = {c, x, y, n};
  machine.agents.push_back([=, &machine] {
    uint32_t at = to;
    std::array<int64_t, 4> i;
    for (i[3] = first[3]; i[3] < first[3] + map.box[3]; ++i[3])
      for (i[2] = first[2]; i[2] < first[2] + map.box[2]; ++i[2])
        for (i[1] = first[1]; i[1] < first[1] + map.box[1]; ++i[1])
          for (i[0] = first[0]; i[0] < first[0] + map.box[0]; ++i[0], at += 2) {
            bool inside = true;
            int64_t offset = i[0] * 2;
            for (size_t k = 0; k < 4; ++k) {
              inside = inside && i[k] >= 0 && i[k] < map.sizes[k];
              if (k > 0) offset += i[k] * map.strides[k - 1];
            }
            if (inside) machine.check_global(map.data + offset, 2, false);
            if (inside)
              std::memcpy(&machine.shared[emulator::swizzled(at)], map.data + offset, 2);
            else
              std::memset(&machine.shared[emulator::swizzled(at)], 0, 2);
          }
    for (uint32_t word = to / 4; word < at / 4; ++word) {
      machine.words[word].in_flight = false;
      machine.words[word].written = true;
    }
    waiting->bytes -= bytes;
    waiting->settle();
    return true;
  });
}
inline void tma_fence() {  // lanes of a warp run the same code, so one speaks for all
  const uint8_t own = static_cast<uint8_t>(1 + Machine::get().current->id / emulator::kLanes);
  for (uint8_t& warp : Hopper::get().unfenced)
    if (warp == own) warp = 0;
}

inline void wgmma_fence() {}
template <int kRegisters>
void fewer_registers() {}
template <int kRegisters>
void more_registers() {}

struct Product {
  float* sums;
  uint64_t a, b;
};
template <class T>
void wgmma_64x192x16(float (&sums)[96], uint64_t a, uint64_t b) {
  Product args{sums, a, b};
  Machine::get().collective(
      [](Machine&, unsigned warp, void* const* args) {
        const Product& first = *static_cast<Product*>(args[0]);
        emulator::QueuedProduct product{{}, first.a, first.b, std::is_same<T, __half>::value};
        for (unsigned l = 0; l < emulator::kLanes; ++l) product.sums[l] = static_cast<Product*>(args[l])->sums;
        Hopper::get().queued[warp].push_back(product);
      },
      &args);
}

// A warp's 16 of the 64 rows.
inline void compute_product(Machine& machine, const emulator::QueuedProduct& product, unsigned warp) {
  const auto value = [&](uint64_t descriptor, unsigned row, unsigned k) {
    if (descriptor >> 62 != 1) machine.fail("descriptor: only the swizzle of 128 bytes is modelled");
    if (descriptor >> 49 & 7) machine.fail("descriptor: a base offset is not modelled");
    const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
    const uint32_t group = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    const uint32_t address = emulator::swizzled(start + row / 8 * group + row % 8 * 128 + k * 2);
    uint16_t bits = 0xffff;  // NaN: past the end only columns that are not kept may look
    if (address + 2 <= machine.shared.size()) std::memcpy(&bits, &machine.shared[address], 2);
    return product.half ? emulator::to_float<__half>(bits) : emulator::to_float<__nv_bfloat16>(bits);
  };
  static thread_local float a[16][16], b[192][16];
  for (unsigned k = 0; k < 16; ++k) {
    for (unsigned row = 0; row < 16; ++row) a[row][k] = value(product.a, warp % 4 * 16 + row, k);
    for (unsigned column = 0; column < 192; ++column) b[column][k] = value(product.b, column, k);
  }
  for (unsigned l = 0; l < emulator::kLanes; ++l)
    for (unsigned i = 0; i < 96; ++i) {
      const unsigned row = l / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + l % 4 * 2 + i % 2;
      float sum = 0.0f;
      for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[column][k];
      product.sums[l][i] += sum;
    }
  ++machine.counts.wgmma;
}
inline void wgmma_wait() {
  Machine::get().collective(
      [](Machine& machine, unsigned warp, void* const*) {
        for (const emulator::QueuedProduct& product : Hopper::get().queued[warp])
          compute_product(machine, product, warp);
        Hopper::get().queued[warp].clear();
      },
      nullptr);
}

struct StoreMatrix {
  uint32_t address;
  const uint32_t* values;
};
inline void stmatrix_x4_transposed(uint32_t address, const uint32_t (&values)[4]) {
  StoreMatrix args{address, values};
  Machine::get().collective(
      [](Machine& machine, unsigned warp, void* const* args) {
        for (unsigned m = 0; m < 4; ++m) {
          uint32_t seen = 0;
          for (unsigned column = 0; column < 8; ++column) {
            const uint32_t to = static_cast<StoreMatrix*>(args[m * 8 + column])->address;
            machine.current = &machine.threads[warp * emulator::kLanes + m * 8 + column];
            machine.check_shared(to, 16);
            machine.on_write(to, 16, *machine.current, false);
            const uint32_t banks = 1u << (to / 16 % 8);
            if (seen & banks) ++machine.counts.bank_conflicts;
            seen |= banks;
            for (unsigned row = 0; row < 8; ++row) {  // lane 4 row + column / 2 holds two columns of the row
              const uint32_t pair = static_cast<StoreMatrix*>(args[row * 4 + column / 2])->values[m];
              const uint16_t value = static_cast<uint16_t>(pair >> 16 * (column % 2));
              std::memcpy(&machine.shared[to + row * 2], &value, 2);
            }
            std::memset(&Hopper::get().unfenced[to], static_cast<int>(1 + warp), 16);
          }
        }
        ++machine.counts.shared_accesses;
      },
      &args);
}

inline CUtensorMap make_tensor_map(const void* data, const int64_t (&sizes)[4], const int64_t (&strides)[3],
                                   const int (&box)[4]) {
  CUtensorMap map;
  map.data = static_cast<const uint8_t*>(data);
  std::copy_n(sizes, 4, map.sizes.begin());
  std::copy_n(strides, 3, map.strides.begin());
  std::copy_n(box, 4, map.box.begin());
  return map;
}

}  // namespace fr::cuda

// Every block finds this state fresh.
namespace emulator {
[[maybe_unused]] static const bool kHopperStarts = [] {
  Machine::get().at_start.push_back([] { Hopper::get().start_block(); });
  return true;
}();
}  // namespace emulator
