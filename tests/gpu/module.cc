// The GPU kernels on the host, as a Python module: the bindings of fastrestore._C.cuda over emulated kernels, and the
// machine that they run on.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "emulator.h"
#include "engine/cuda_session.h"
#include "engine/plan_file.h"

namespace py = pybind11;
using namespace py::literals;

void bind_cuda(py::module_& parent);
std::shared_ptr<fr::CudaSession> make_cuda_session(std::shared_ptr<const fr::Graph> graph, const std::string& type,
                                                   int64_t memory);

PYBIND11_MODULE(fr_emulated, m) {
  using emulator::Machine;
  bind_cuda(m);
  m.def(
      "set_device",
      [](int capability, int processors, int64_t shared_limit, unsigned seed) {
        Machine& machine = Machine::get();
        machine.capability = capability;
        machine.processors = processors;
        machine.shared_limit = shared_limit;
        machine.seed = seed;
      },
      "capability"_a, "processors"_a, "shared_limit"_a, "seed"_a);
  m.def(
      "announce",
      [](const std::vector<std::tuple<uintptr_t, size_t, bool>>& buffers) {
        std::vector<emulator::Buffer>& known = Machine::get().buffers;
        known.clear();
        for (const auto& [begin, bytes, writable] : buffers)
          known.push_back({reinterpret_cast<const uint8_t*>(begin), bytes, writable});
      },
      "buffers"_a, "The global memory that kernels may touch: address, bytes, whether they may write.");
  m.def(
      "open_session",
      [](const std::string& path, const std::string& type, int64_t memory) {
        auto graph = std::make_shared<const fr::Graph>(fr::load_plan_file(path).graph);
        return make_cuda_session(std::move(graph), type, memory);
      },
      "path"_a, "type"_a, "memory"_a, "A session for the graph of a plan file.");
  m.def("take_counts", [] {
    const emulator::Counts counts = std::exchange(Machine::get().counts, {});
    return py::dict("mma"_a = counts.mma, "wgmma"_a = counts.wgmma, "shared_accesses"_a = counts.shared_accesses,
                    "bank_conflicts"_a = counts.bank_conflicts, "global_read"_a = counts.global_read,
                    "global_written"_a = counts.global_written, "barriers"_a = counts.barriers,
                    "launches"_a = counts.launches);
  });
}
