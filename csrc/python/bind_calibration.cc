// Calibration for fastrestore/calibrate.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine/calibration.h"
#include "python/gil.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace fr {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using See = void (Calibration::*)(const float*, int64_t, int64_t, std::optional<float>);

template <See see>
void look(Calibration& calibration, const Floats& image, std::optional<float> sigma) {
  const int64_t channels = calibration.plan().graph().channels();
  if (image.ndim() != 3 || image.shape(2) != channels || image.size() == 0)
    throw py::value_error("calibration: an image must be [H, W, " + std::to_string(channels) + "] and not empty");
  const float* pixels = image.data();
  const int64_t height = image.shape(0), width = image.shape(1);
  WithoutGil free;
  (calibration.*see)(pixels, height, width, sigma);
}

}  // namespace
}  // namespace fr

void bind_calibration(py::module_& m) {
  using namespace fr;
  py::class_<Calibration>(m, "Calibration", "What a float32 plan's images hold over some pictures.")
      .def(py::init([](std::shared_ptr<Plan> plan, int threads) {
             return std::make_unique<Calibration>(std::move(plan), threads);
           }),
           "plan"_a, "threads"_a)
      .def("measure", &look<&Calibration::measure>, "image"_a.noconvert(), "sigma"_a)
      .def("count", &look<&Calibration::count>, "image"_a.noconvert(), "sigma"_a)
      .def(
          "images",
          [](const Calibration& calibration) {
            py::list images;
            for (const Calibration::Image& image : calibration.images())
              images.append(py::make_tuple(
                  image.node, image.least, image.most,
                  py::array_t<int64_t>(static_cast<py::ssize_t>(image.counts.size()), image.counts.data())));
            return images;
          },
          "Of each image that may be levels: node, least value, most, counts of equal parts of that range.");
}
