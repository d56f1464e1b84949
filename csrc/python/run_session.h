// A session's run on arrays, for the bindings of every kind of session.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/picture.h"
#include "python/gil.h"

namespace fr {

namespace py = pybind11;

inline Pixel pixel_type(const py::array& image) {
  const py::dtype type = image.dtype();  // compared by content: equal dtypes need not be one object
  const char kind = type.kind();
  const py::ssize_t size = type.itemsize();
  if (size == 1 || type.byteorder() == '=') {
    if (kind == 'u' && size == 1) return Pixel::u8;
    if (kind == 'u' && size == 2) return Pixel::u16;
    if (kind == 'f' && size == 4) return Pixel::f32;
    if (kind == 'f' && size == 2) return Pixel::f16;
  }
  throw py::type_error(
      "Session.run: image must be uint8, uint16, float16 or float32 of this machine's byte order, got " +
      std::string(py::str(type)));
}

// State images as arrays [H, W, C]; Session: fr::Session or fr::CudaSession.
template <class Session>
std::optional<py::array_t<float>> state_of(Session& session, size_t number) {
  StateImage image;
  {
    WithoutGil free;
    image = session.state(number);
  }
  if (image.height == 0) return std::nullopt;
  return py::array_t<float>({image.height, image.width, image.channels}, image.values.data());
}
template <class Session>
void set_state(Session& session, size_t number, const py::array_t<float, py::array::c_style>& given) {
  if (given.ndim() != 3) throw py::value_error("Session.set_state: a state is [H, W, C]");
  StateImage image{given.shape(0), given.shape(1), given.shape(2), {given.data(), given.data() + given.size()}};
  WithoutGil free;
  session.set_state(number, std::move(image));
}

// Session: as above.
template <class Session>
RunReport run_session(Session& session, const py::array& image, py::array& out, std::optional<float> sigma,
                      float strength, bool clip, const py::object& progress) {
  const auto refuse = [](const std::string& what) { throw py::value_error("Session.run: " + what); };
  if (image.ndim() != 3) refuse("image must be [H, W, C], got " + std::to_string(image.ndim()) + " dimensions");
  if (out.ndim() != 3 || !out.dtype().equal(image.dtype())) refuse("out must have the image's shape and dtype");
  Picture picture;
  picture.type = pixel_type(image);
  const int64_t size = pixel_bytes(picture.type);
  for (int axis = 0; axis < 3; ++axis)
    if (image.shape(axis) != out.shape(axis)) refuse("out must have the image's shape");
  for (int axis = 0; axis < 3; ++axis)
    if (image.shape(axis) == 0) refuse("the image is empty");
  for (const py::array& array : {image, static_cast<const py::array&>(out)})  // an axis of length 1 has no stride
    if ((array.shape(2) > 1 && array.strides(2) != size) ||
        (array.shape(1) > 1 && array.strides(1) != size * array.shape(2)) ||
        (array.shape(0) > 1 && array.strides(0) < 0))
      refuse("the pixels of a row must be contiguous");
  picture.in = image.data();
  picture.out = out.mutable_data();
  picture.height = image.shape(0);
  picture.width = image.shape(1);
  picture.channels = image.shape(2);
  const int64_t row_bytes = picture.width * picture.channels * size;
  picture.in_row_bytes = picture.height > 1 ? image.strides(0) : row_bytes;
  picture.out_row_bytes = picture.height > 1 ? out.strides(0) : row_bytes;
  RunOptions options;
  options.sigma = sigma;
  options.strength = strength;
  options.clip = clip;
  std::optional<py::error_already_set> raised;
  options.progress = [&](double share) {
    WithGil held;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!progress.is_none()) progress(share);
    } catch (py::error_already_set& error) {
      raised.emplace(error);
      return false;
    }
    return true;
  };
  try {
    WithoutGil free;
    return session.run(picture, options);
  } catch (const Cancelled&) {
    if (raised) throw *raised;
    throw;
  }
}

}  // namespace fr
