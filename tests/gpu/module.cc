// The GPU kernels on the host, as a Python module: the bindings of fastrestore._C.cuda over emulated kernels, and the
// machine that they run on.
#include <pybind11/numpy.h>
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
        emulator::Driver::get().seed = seed;
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
  m.def(
      "run_there",
      [](const py::object& session, const py::array_t<float, py::array::c_style>& image, bool image_there) {
        fr::cuda::DeviceMemory in(image.nbytes()), out(image.nbytes());
        std::memcpy(in.data(), image.data(), static_cast<size_t>(image.nbytes()));
        const void* const from = image_there ? static_cast<const void*>(in.data()) : image.data();
        session.attr("run_there")(reinterpret_cast<uintptr_t>(from), reinterpret_cast<uintptr_t>(out.data()), "float32",
                                  py::make_tuple(image.shape(0), image.shape(1), image.shape(2)), py::none(), 1.0f,
                                  false, 0);
        py::array_t<float> result({image.shape(0), image.shape(1), image.shape(2)});
        std::memcpy(result.mutable_data(), out.data(), static_cast<size_t>(image.nbytes()));
        return result;
      },
      "session"_a, "image"_a, "image_there"_a,
      "The session's result in the device's memory, for a picture there or in the host's.");
  m.def(
      "take_record",
      [] {
        py::list entries;
        for (const emulator::Entry& entry : std::exchange(emulator::Driver::get().record, {}))
          entries.append(py::make_tuple(entry.what, entry.stream, entry.event, entry.amount));
        return entries;
      },
      "What the host asked of the device: what, stream, event, bytes of a copy or launches.");
  m.def("take_device_bytes", [] {
    emulator::Driver& driver = emulator::Driver::get();
    return std::exchange(driver.most_device_bytes, driver.device_bytes);
  });
  m.def("take_counts", [] {
    const emulator::Counts counts = std::exchange(Machine::get().counts, {});
    return py::dict("mma"_a = counts.mma, "wgmma"_a = counts.wgmma, "shared_accesses"_a = counts.shared_accesses,
                    "bank_conflicts"_a = counts.bank_conflicts, "global_read"_a = counts.global_read,
                    "global_written"_a = counts.global_written, "barriers"_a = counts.barriers,
                    "launches"_a = counts.launches);
  });
}
