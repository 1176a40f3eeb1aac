#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "convert.hpp"
#include "l2m/mixing/annealed.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/group_dro.hpp"
#include "l2m/mixing/learn2mix.hpp"
#include "l2m/mixing/proportions.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

py::array_t<double> initial(const Policy& policy, const Array<std::int64_t>& class_sizes) {
  return to_array<double>(policy.initial(view<std::int64_t>(class_sizes)));
}

py::array_t<double> update(const Policy& policy, const Array<double>& proportions, const Array<double>& class_losses,
                           const Array<std::int64_t>& class_sizes, std::uint64_t step,
                           std::optional<std::uint64_t> total_steps) {
  if (proportions.size() != class_sizes.size() || class_losses.size() != class_sizes.size())
    throw py::value_error("proportions, class_losses and class_sizes must have equal lengths");
  Window window;
  window.proportions = view<double>(proportions);
  window.class_losses = view<double>(class_losses);
  window.class_sizes = view<std::int64_t>(class_sizes);
  window.step = step;
  window.total_steps = total_steps;
  std::vector<double> updated = to_vector(proportions);
  policy.update(window, updated, {});
  return to_array<double>(updated);
}

}  // namespace

void register_policies(py::module_& m) {
  py::classh<Policy>(m, "Policy", "Rule by which the proportions of the classes evolve.")
      .def("initial", &initial, py::arg("class_sizes").noconvert(),
           "Return the proportions of the first batches, float64 [K].")
      .def("update", &update, py::arg("proportions").noconvert(), py::arg("class_losses").noconvert(),
           py::arg("class_sizes").noconvert(), py::arg("step"), py::arg("total_steps"),
           "Return the proportions that follow `proportions`, float64 [K].");
  py::classh<Proportional, Policy>(m, "Proportional").def(py::init<>());
  py::classh<Balanced, Policy>(m, "Balanced").def(py::init<>());
  py::classh<Static, Policy>(m, "Static")
      .def(py::init([](const Array<double>& p) { return std::make_unique<Static>(to_vector(p)); }), py::arg("p"));
  py::classh<Temperature, Policy>(m, "Temperature").def(py::init<double>(), py::arg("t"));
  py::classh<EffectiveNumber, Policy>(m, "EffectiveNumber").def(py::init<double>(), py::arg("beta"));
  py::classh<Annealed, Policy>(m, "Annealed").def(py::init<double, double>(), py::arg("start"), py::arg("end"));
  py::classh<Learn2Mix, Policy>(m, "Learn2Mix")
      .def(py::init([](double mixing_rate, double min_share, bool balanced) {
             using enum Learn2Mix::Start;
             return std::make_unique<Learn2Mix>(mixing_rate, min_share, balanced ? kBalanced : kProportional);
           }),
           py::arg("mixing_rate"), py::arg("min_share"), py::arg("balanced"));
  py::classh<GroupDro, Policy>(m, "GroupDRO").def(py::init<double>(), py::arg("step_size"));
}

}  // namespace l2m::bindings
