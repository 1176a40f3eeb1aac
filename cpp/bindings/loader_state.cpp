#include "loader_state.hpp"

#include <cmath>
#include <exception>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "l2m/base/errors.hpp"
#include "l2m/base/max_count.hpp"

// The only place that defines the schema of a state: names, types and order.

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
Int to_int(const char* key, const py::handle& value, Int max, bool entry) {
  if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) wrong_type(key, "int", value, entry);
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow == 0 && number >= 0 && static_cast<Int>(number) <= max) return static_cast<Int>(number);
  if constexpr (std::is_same_v<Int, std::uint64_t>) {
    if (overflow > 0 && max == std::numeric_limits<std::uint64_t>::max()) {
      const unsigned long long large = PyLong_AsUnsignedLongLong(value.ptr());
      if (PyErr_Occurred() == nullptr) return large;
      PyErr_Clear();
    }
  }
  out_of_range(key, std::to_string(max), value);
}

double to_double(const char* key, const py::handle& value) {
  if (!PyFloat_Check(value.ptr())) wrong_type(key, "float", value, true);
  return PyFloat_AS_DOUBLE(value.ptr());
}

py::list to_list(const char* key, const py::handle& value) {
  if (!py::isinstance<py::list>(value)) wrong_type(key, "list", value, false);
  return py::reinterpret_borrow<py::list>(value);
}

/// Reader of a state from a dict, member by member.
struct Reader {
  const py::dict& dict;

  [[nodiscard]] py::object entry(const char* key) const { return dict[key]; }
  template <class Int>
  void operator()(const char* key, Int& member, Int max) const {
    member = to_int<Int>(key, entry(key), max, false);
  }
  void operator()(const char* key, bool& member) const {
    const py::object value = entry(key);
    if (!py::isinstance<py::bool_>(value)) wrong_type(key, "bool", value, false);
    member = value.cast<bool>();
  }
  void operator()(const char* key, std::optional<std::uint64_t>& member, std::uint64_t max) const {
    const py::object value = entry(key);
    member.reset();
    if (value.is_none()) return;
    if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) wrong_type(key, "int or NoneType", value, false);
    member = to_int<std::uint64_t>(key, value, max, false);
  }
  /// Read a list of ints, one per class; `set` stores each.
  template <class Int, class F>
  void ints(const char* key, Int max, F&& set) const {
    std::size_t k = 0;
    for (const py::handle value : to_list(key, entry(key))) set(k++, to_int<Int>(key, value, max, true));
  }
  void doubles(const char* key, std::vector<double>& member) const {
    member.clear();
    for (const py::handle value : to_list(key, entry(key))) {
      member.push_back(to_double(key, value));
      if (!std::isfinite(member.back()))
        throw py::value_error(message(key, " of the state must be finite (got ", member.back(), ")"));
    }
  }
};

template <class T, class F>
py::list make_list(const std::vector<T>& items, F&& value_of) {
  py::list list(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) list[i] = value_of(items[i]);
  return list;
}

template <class T>
py::list make_list(const std::vector<T>& items) {
  return make_list(items, [](const T& item) { return py::cast(item); });
}

void read_held(const py::list& list, std::size_t num_classes, HeldRows& held) {
  const auto refuse = [&](const py::handle& entry) {
    throw py::value_error(message("held of the state must hold [class, [row, ...]] with ascending classes below ",
                                  num_classes, " (got ", short_repr(entry), ")"));
  };
  const auto is_count = [](const py::handle& value) {
    int overflow = 0;
    return PyLong_CheckExact(value.ptr()) && PyLong_AsLongLongAndOverflow(value.ptr(), &overflow) >= 0 &&
           overflow == 0 && PyLong_AsLongLong(value.ptr()) <= kMaxCount;
  };
  std::int64_t before = -1;
  for (const py::handle entry : list) {
    if (!py::isinstance<py::list>(entry)) refuse(entry);
    const auto pair = py::reinterpret_borrow<py::list>(entry);
    if (pair.size() != 2 || !is_count(pair[0]) || !py::isinstance<py::list>(pair[1])) refuse(entry);
    const auto rows = py::reinterpret_borrow<py::list>(pair[1]);
    if (rows.empty()) refuse(entry);
    const auto class_id = pair[0].cast<std::int64_t>();
    if (class_id <= before || class_id >= static_cast<std::int64_t>(num_classes)) refuse(entry);
    before = class_id;
    for (const py::handle row : rows) {
      if (!is_count(row)) refuse(entry);
      held[class_id].push_back(row.cast<std::int64_t>());
    }
  }
}

/// Read a list of lists.
template <class F>
void read_rows(const py::dict& dict, const char* key, F&& read) {
  for (const py::handle row : to_list(key, dict[key])) {
    if (!py::isinstance<py::list>(row)) wrong_type(key, "list", row, true);
    read(py::reinterpret_borrow<py::list>(row));
  }
}

}  // namespace

py::dict to_dict(const LoaderState& state) {
  py::dict dict;
  dict["seed"] = state.seed;
  dict["rank"] = state.rank;
  dict["world_size"] = state.world_size;
  dict["epoch"] = state.epoch;
  dict["next_epoch"] = state.next_epoch ? py::cast(*state.next_epoch) : py::none();
  dict["step"] = state.step;
  dict["total_step"] = state.sampler.total_step;
  dict["updated"] = state.updated;
  dict["windows"] = state.windows;
  dict["passes"] = make_list(state.sampler.cursors, [](const Cursor& cursor) { return py::cast(cursor.pass); });
  dict["positions"] = make_list(state.sampler.cursors, [](const Cursor& cursor) { return py::cast(cursor.position); });
  dict["drawn"] = make_list(state.sampler.drawn);
  dict["visits"] = make_list(state.sampler.due.visits);
  dict["offsets"] = make_list(state.sampler.due.offsets);
  dict["due"] = make_list(state.sampler.due.due);
  py::list held;
  for (const auto& [class_id, rows] : state.sampler.held) {
    py::list entry;
    entry.append(class_id);
    entry.append(make_list(rows));
    held.append(entry);
  }
  dict["held"] = held;
  dict["proportions"] = make_list(state.sampler.proportions);
  dict["next_proportions"] = make_list(state.next_proportions);
  dict["class_losses"] = make_list(state.class_losses, [](double loss) -> py::object {
    if (std::isnan(loss)) return py::none();
    return py::float_(loss);
  });
  dict["window_sums"] = make_list(state.losses, [](const LossSums& sums) { return make_list(sums.sum); });
  dict["window_counts"] = make_list(state.losses, [](const LossSums& sums) { return make_list(sums.count); });
  py::list memory;
  const std::size_t num_classes = state.class_losses.size();
  for (std::size_t i = 0; i < state.memory.size(); i += num_classes) {
    const auto row = state.memory.begin() + static_cast<std::ptrdiff_t>(i);
    memory.append(make_list(std::vector<double>(row, row + static_cast<std::ptrdiff_t>(num_classes))));
  }
  dict["memory"] = memory;
  return dict;
}

LoaderState to_state(const py::dict& dict) {
  LoaderState state;
  const Reader read{dict};
  read("seed", state.seed, std::numeric_limits<std::uint64_t>::max());
  read("rank", state.rank, kMaxCount);
  read("world_size", state.world_size, kMaxCount);
  read("epoch", state.epoch, static_cast<std::uint64_t>(kMaxCount));
  read("next_epoch", state.next_epoch, kMaxEpoch);
  read("step", state.step, kMaxCount);
  read("total_step", state.sampler.total_step, static_cast<std::uint64_t>(kMaxCount));
  read("updated", state.updated);
  read("windows", state.windows, kMaxCount);
  std::vector<Cursor>& cursors = state.sampler.cursors;
  cursors.resize(to_list("passes", dict["passes"]).size());
  read.ints<std::uint64_t>("passes", kMaxCount, [&](std::size_t k, std::uint64_t pass) { cursors[k].pass = pass; });
  if (const std::size_t size = to_list("positions", dict["positions"]).size(); size != cursors.size())
    throw py::value_error(
        message("positions of the state must have as many values as passes, ", cursors.size(), " (got ", size, ")"));
  read.ints<std::int64_t>("positions", kMaxCount, [&](std::size_t k, std::int64_t at) { cursors[k].position = at; });
  read.ints<std::int64_t>("drawn", kMaxCount, [&](std::size_t, std::int64_t n) { state.sampler.drawn.push_back(n); });
  read.ints<std::uint64_t>("visits", kMaxCount,
                           [&](std::size_t, std::uint64_t n) { state.sampler.due.visits.push_back(n); });
  read.ints<std::int64_t>("offsets", std::numeric_limits<std::uint16_t>::max(), [&](std::size_t, std::int64_t offset) {
    state.sampler.due.offsets.push_back(static_cast<std::uint16_t>(offset));
  });
  read.doubles("due", state.sampler.due.due);
  read_held(to_list("held", dict["held"]), cursors.size(), state.sampler.held);
  read.doubles("proportions", state.sampler.proportions);
  read.doubles("next_proportions", state.next_proportions);
  for (const py::handle loss : to_list("class_losses", dict["class_losses"])) {
    state.class_losses.push_back(loss.is_none() ? std::numeric_limits<double>::quiet_NaN()
                                                : to_double("class_losses", loss));
    if (!loss.is_none() && !std::isfinite(state.class_losses.back()))
      throw py::value_error(message("class_losses of the state must be finite (got ", state.class_losses.back(), ")"));
  }
  read_rows(dict, "window_sums", [&](const py::list& row) {
    LossSums& sums = state.losses.emplace_back();
    for (const py::handle sum : row) sums.sum.push_back(to_double("window_sums", sum));
  });
  std::vector<std::vector<std::int64_t>> counts;
  read_rows(dict, "window_counts", [&](const py::list& row) {
    std::vector<std::int64_t>& of_window = counts.emplace_back();
    for (const py::handle count : row)
      of_window.push_back(to_int<std::int64_t>("window_counts", count, kMaxCount, true));
  });
  if (counts.size() != state.losses.size())
    throw py::value_error(message("window_counts of the state must have as many lists as window_sums, ",
                                  state.losses.size(), " (got ", counts.size(), ")"));
  for (std::size_t i = 0; i < counts.size(); ++i) state.losses[i].count = std::move(counts[i]);
  read_rows(dict, "memory", [&](const py::list& row) {
    if (row.size() != state.class_losses.size())
      throw py::value_error(message("memory of the state must have lists of ", state.class_losses.size(),
                                    " values (got ", row.size(), ")"));
    for (const py::handle value : row) state.memory.push_back(to_double("memory", value));
  });
  return state;
}

}  // namespace l2m::bindings
