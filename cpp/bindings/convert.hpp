#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "l2m/base/float_types.hpp"

namespace l2m::bindings {

namespace py = pybind11;

/// Array argument without conversion: another dtype or layout is a TypeError, never a hidden copy.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
std::span<const T> view(const py::array& array) {
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

template <class T>
std::span<T> mutable_view(Array<T>& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

template <class T>
py::array_t<T> to_array(std::span<const T> values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

/// Convert items to an array of value_of(item).
template <class T, class Items, class F>
py::array_t<T> to_array(const Items& items, F&& value_of) {
  py::array_t<T> array(static_cast<py::ssize_t>(items.size()));
  T* out = array.mutable_data();
  for (const auto& item : items) *out++ = value_of(item);
  return array;
}

template <class T>
std::vector<T> to_vector(const Array<T>& array) {
  return {array.data(), array.data() + array.size()};
}

/// Call f with a span over the integers of an array, in their own type.
template <class F>
auto with_integers(const char* name, const py::array& array, F&& f) {
  if ((array.flags() & py::array::c_style) != 0) {
    if (py::isinstance<py::array_t<std::int8_t>>(array)) return f(view<std::int8_t>(array));
    if (py::isinstance<py::array_t<std::int16_t>>(array)) return f(view<std::int16_t>(array));
    if (py::isinstance<py::array_t<std::int32_t>>(array)) return f(view<std::int32_t>(array));
    if (py::isinstance<py::array_t<std::int64_t>>(array)) return f(view<std::int64_t>(array));
    if (py::isinstance<py::array_t<std::uint8_t>>(array)) return f(view<std::uint8_t>(array));
    if (py::isinstance<py::array_t<std::uint16_t>>(array)) return f(view<std::uint16_t>(array));
    if (py::isinstance<py::array_t<std::uint32_t>>(array)) return f(view<std::uint32_t>(array));
  }
  throw py::type_error(std::string(name) +
                       " must be a C-contiguous array of integers of at most 64 bits, int64 rather than uint64 (got " +
                       py::str(array.dtype()).cast<std::string>() + ")");
}

/// Call f with a span over the floats of an array, in their own type. int16 holds the bits of bfloat16.
template <class F>
auto with_floats(const char* name, const py::array& array, F&& f) {
  if ((array.flags() & py::array::c_style) != 0) {
    if (py::isinstance<py::array_t<float>>(array)) return f(view<float>(array));
    if (py::isinstance<py::array_t<double>>(array)) return f(view<double>(array));
    if (array.dtype().kind() == 'f' && array.itemsize() == 2) return f(view<Float16>(array));
    if (py::isinstance<py::array_t<std::int16_t>>(array)) return f(view<BFloat16>(array));
  }
  throw py::type_error(std::string(name) +
                       " must be a C-contiguous array of float16, float32, float64 or bfloat16 bits (got " +
                       py::str(array.dtype()).cast<std::string>() + ")");
}

}  // namespace l2m::bindings
