#include "loader_state.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <concepts>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"

namespace l2m::bindings {
namespace {

namespace py = pybind11;

std::string short_repr(const py::handle& value) {
  try {
    return shortened(py::repr(value).cast<std::string>());
  } catch (const std::exception&) {  // an int with too many digits, an object whose repr fails, or invalid text
    return "a value without a repr";
  }
}

[[noreturn]] void wrong_type(const char* key, const char* expected, const py::handle& got, bool entry) {
  throw py::type_error(
      message(key, " of the state must ", entry ? "hold " : "be of type ", expected, " (got ", short_repr(got), ")"));
}

[[noreturn]] void out_of_range(const char* key, const std::string& max, const py::handle& got) {
  throw py::value_error(message(key, " of the state must be in [0, ", max, "] (got ", short_repr(got), ")"));
}

/// Convert an int in [0, max].
template <class Int>
Int to_int(const char* key, const py::handle& value, std::uint64_t max, bool entry) {
  if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) wrong_type(key, "int", value, entry);
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow == 0 && number >= 0 && static_cast<std::uint64_t>(number) <= max) return static_cast<Int>(number);
  if constexpr (std::is_same_v<Int, std::uint64_t>) {
    if (overflow > 0 && max == std::numeric_limits<std::uint64_t>::max()) {
      const unsigned long long large = PyLong_AsUnsignedLongLong(value.ptr());
      if (PyErr_Occurred() == nullptr) return large;
      PyErr_Clear();
    }
  }
  out_of_range(key, std::to_string(max), value);
}

/// Reader of members from the entries of a dict.
class Reader {
 public:
  explicit Reader(py::dict dict) : dict_(std::move(dict)) {}

  template <class Member>
  void operator()(const char* key, Member& member, Allowed allowed) {
    key_ = key;
    allowed_ = allowed;
    const py::object value = dict_[key];
    read(value, member, false);
  }
  template <class Item, class Member, class Other>
  void operator()(const char* key, Member Item::* member, const char* other_key, Other Item::* other,
                  std::vector<Item>& items, Allowed allowed) {
    std::vector<Member> values;
    std::vector<Other> others;
    (*this)(key, values, allowed);
    (*this)(other_key, others, allowed);
    if (values.size() != others.size())
      throw py::value_error(message(other_key, " of the state must have as many values as ", key, ", ", values.size(),
                                    " (got ", others.size(), ")"));
    items.resize(values.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i].*member = std::move(values[i]);
      items[i].*other = std::move(others[i]);
    }
  }

 private:
  template <std::integral Int>
  void read(const py::handle& value, Int& number, bool entry) const {
    number = to_int<Int>(key_, value, allowed_.max, entry);
  }
  void read(const py::handle& value, bool& flag, bool entry) const {
    if (!PyBool_Check(value.ptr())) wrong_type(key_, "bool", value, entry);
    flag = value.ptr() == Py_True;
  }
  void read(const py::handle& value, std::optional<std::uint64_t>& number, bool entry) const {
    number.reset();
    if (value.is_none()) return;
    if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) wrong_type(key_, "int or NoneType", value, entry);
    read(value, number.emplace(), entry);
  }
  void read(const py::handle& value, double& number, bool entry) const {
    number = std::numeric_limits<double>::quiet_NaN();
    if (allowed_.nan && value.is_none()) return;
    if (!PyFloat_Check(value.ptr())) wrong_type(key_, "float", value, entry);
    number = PyFloat_AS_DOUBLE(value.ptr());
    if (!std::isfinite(number)) throw py::value_error(message(key_, " of the state must be finite (got ", number, ")"));
  }
  void read(const py::handle& value, ExactSum& sum, bool entry) const {
    std::vector<double> terms;
    read(value, terms, entry);
    sum = sum_of_terms(key_, terms);
  }
  template <class Item>
  void read(const py::handle& value, std::vector<Item>& items, bool entry) const {
    if (!PyList_Check(value.ptr())) wrong_type(key_, "list", value, entry);
    for (const py::handle item : py::reinterpret_borrow<py::list>(value)) read(item, items.emplace_back(), true);
  }
  void read(const py::handle& value, Fingerprint& fingerprint, bool entry) const {
    if (!PyDict_Check(value.ptr())) wrong_type(key_, "dict", value, entry);
    for (const auto& [name, text] : py::reinterpret_borrow<py::dict>(value)) {
      if (!PyUnicode_Check(name.ptr()) || !PyUnicode_Check(text.ptr()))
        wrong_type(key_, "str", PyUnicode_Check(name.ptr()) ? text : name, true);
      fingerprint.emplace_back(name.cast<std::string>(), text.cast<std::string>());
    }
  }
  void read(const py::handle& value, HeldRows& held, bool entry) const {
    if (!PyList_Check(value.ptr())) wrong_type(key_, "list", value, entry);
    for (const py::handle pair : py::reinterpret_borrow<py::list>(value)) {
      const bool is_pair = PyList_Check(pair.ptr()) && PyList_GET_SIZE(pair.ptr()) == 2;
      if (!is_pair || !PyList_Check(PyList_GET_ITEM(pair.ptr(), 1)))
        throw py::value_error(message("held of the state must hold [class, [row, ...]] (got ", short_repr(pair), ")"));
      std::int64_t class_id = 0;
      std::vector<std::int64_t> rows;
      read(PyList_GET_ITEM(pair.ptr(), 0), class_id, true);
      read(PyList_GET_ITEM(pair.ptr(), 1), rows, true);
      add_held(held, class_id, std::move(rows));
    }
  }

  const py::dict dict_;
  const char* key_ = "";
  Allowed allowed_;
};

/// Writer of members to the entries of a dict.
class Writer {
 public:
  explicit Writer(py::dict dict) : dict_(std::move(dict)) {}

  template <class Member>
  void operator()(const char* key, const Member& member, Allowed /*allowed*/) const {
    dict_[key] = write(member);
  }
  template <class Item, class Member, class Other>
  void operator()(const char* key, Member Item::* member, const char* other_key, Other Item::* other,
                  const std::vector<Item>& items, Allowed /*allowed*/) const {
    dict_[key] = write_list(items, [&](const Item& item) { return write(item.*member); });
    dict_[other_key] = write_list(items, [&](const Item& item) { return write(item.*other); });
  }

 private:
  template <class Value>
  static py::object write(const Value& value) {
    return py::cast(value);
  }
  static py::object write(double number) { return std::isnan(number) ? py::object(py::none()) : py::float_(number); }
  template <class Item>
  static py::object write(const std::vector<Item>& items) {
    return write_list(items, [](const Item& item) { return write(item); });
  }
  static py::object write(const ExactSum& sum) { return write(sum.terms()); }
  static py::object write(const Fingerprint& fingerprint) {
    py::dict dict;
    for (const auto& [name, text] : fingerprint) dict[py::str(name)] = text;
    return dict;
  }
  static py::object write(const HeldRows& held) {
    return write_list(held, [](const auto& of_class) {
      py::list pair;
      pair.append(of_class.first);
      pair.append(write(of_class.second));
      return pair;
    });
  }
  template <class Items, class F>
  static py::list write_list(const Items& items, F&& value_of) {
    py::list list(items.size());
    std::size_t i = 0;
    for (const auto& item : items) list[i++] = value_of(item);
    return list;
  }

  const py::dict dict_;
};

}  // namespace

py::dict to_dict(const LoaderState& state) {
  py::dict dict;
  dict["version"] = LoaderState::kVersion;
  visit_members(state, Writer(dict));
  return dict;
}

LoaderState to_state(const py::handle& object) {
  if (!PyDict_Check(object.ptr()))
    throw py::type_error(message("state must be a dict, or a list of the dicts of all ranks (got ",
                                 Py_TYPE(object.ptr())->tp_name, ")"));
  const auto dict = py::reinterpret_borrow<py::dict>(object);
  const py::object version = dict.contains("version") ? py::object(dict["version"]) : py::none();
  if (!PyLong_CheckExact(version.ptr()) || !version.equal(py::int_(LoaderState::kVersion)))
    throw py::value_error(
        message("version of the state must be ", LoaderState::kVersion, " (got ", short_repr(version), ")"));
  LoaderState state;
  std::string missing;
  const auto check = [&](const char* key) {
    if (!dict.contains(key)) missing += (missing.empty() ? "" : ", ") + std::string(key);
  };
  visit_members(state, [&](const char* key, auto&&, auto&&... others) {
    check(key);
    if constexpr (sizeof...(others) > 1) check(std::get<0>(std::tie(others...)));
  });
  if (!missing.empty()) throw py::value_error("the state lacks the keys " + missing);
  visit_members(state, Reader(dict));
  return state;
}

std::vector<LoaderState> to_states(const py::handle& object) {
  std::vector<LoaderState> states;
  if (!PyList_Check(object.ptr())) {
    states.push_back(to_state(object));
    return states;
  }
  for (const py::handle one : py::reinterpret_borrow<py::list>(object)) states.push_back(to_state(one));
  return states;
}

}  // namespace l2m::bindings
