#include "sampler_state.hpp"

#include <pybind11/stl.h>

#include <vector>

namespace l2m::bindings {

namespace py = pybind11;

py::dict state_to_dict(const SamplerState& state) {
  std::vector<std::uint64_t> passes;
  std::vector<std::int64_t> positions;
  for (const Cursor& cursor : state.cursors) {
    passes.push_back(cursor.pass);
    positions.push_back(cursor.position);
  }
  py::dict result;
  result["total_step"] = state.total_step;
  result["passes"] = passes;
  result["positions"] = positions;
  result["visits"] = state.due.visits;
  result["offsets"] = state.due.offsets;
  result["due"] = state.due.due;
  py::list held;
  for (const auto& [class_id, rows] : state.held) {
    py::list entry;
    entry.append(class_id);
    entry.append(rows);
    held.append(entry);
  }
  result["held"] = held;
  result["proportions"] = state.proportions;
  return result;
}

SamplerState dict_to_state(const py::dict& dict) {
  const auto passes = dict["passes"].cast<std::vector<std::uint64_t>>();
  const auto positions = dict["positions"].cast<std::vector<std::int64_t>>();
  const auto held = dict["held"].cast<std::vector<HeldRows::value_type>>();
  SamplerState state;
  state.total_step = dict["total_step"].cast<std::uint64_t>();
  state.proportions = dict["proportions"].cast<std::vector<double>>();
  state.due.visits = dict["visits"].cast<std::vector<std::uint64_t>>();
  state.due.offsets = dict["offsets"].cast<std::vector<std::uint16_t>>();
  state.due.due = dict["due"].cast<std::vector<double>>();
  for (std::size_t k = 0; k < passes.size(); ++k) state.cursors.push_back({passes.at(k), positions.at(k)});
  state.held.insert(held.begin(), held.end());
  return state;
}

}  // namespace l2m::bindings
