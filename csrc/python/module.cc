// fastrestore._C. Import torch first: then both use torch's copy of what they share (see fastrestore/ops).
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_ops(py::module_& m);
void bind_engine(py::module_& m);
void bind_calibration(py::module_& m);
void bind_describe(py::module_& m);
#if FR_CUDA
void bind_cuda(py::module_& m);
#endif

PYBIND11_MODULE(_C, m) {
  m.doc() = "The C++ core of fastrestore.";
  bind_ops(m);
  bind_engine(m);
  bind_calibration(m);
  bind_describe(m);
#if FR_CUDA
  bind_cuda(m);
#endif
}
