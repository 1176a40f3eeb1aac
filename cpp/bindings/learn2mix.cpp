#include "l2m/mixing/learn2mix.hpp"

#include "convert.hpp"
#include "l2m/base/sums.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

py::array_t<double> step(const Array<double>& proportions, const Array<double>& class_losses,
                         const Array<std::int64_t>& class_sizes, double mixing_rate, double min_share) {
  auto result = to_vector(proportions);
  learn2mix(result, view<double>(class_losses), view<std::int64_t>(class_sizes), mixing_rate, min_share);
  return to_array<double>(result);
}

py::array_t<double> raised(const Array<double>& proportions, const Array<std::int64_t>& class_sizes, double min_share) {
  auto result = to_vector(proportions);
  raise_to_min_share(result, view<std::int64_t>(class_sizes), min_share);
  return to_array<double>(result);
}

py::array_t<double> normalised(const Array<double>& proportions, const Array<std::int64_t>& class_sizes) {
  auto result = to_vector(proportions);
  normalise(result, view<std::int64_t>(class_sizes));
  return to_array<double>(result);
}

}  // namespace

void register_learn2mix(py::module_& m) {
  m.def(
      "learn2mix", &step, py::arg("proportions").noconvert(), py::arg("class_losses").noconvert(),
      py::arg("class_sizes").noconvert(), py::arg("mixing_rate"), py::arg("min_share"),
      "Proportions one step closer to the loss shares (Learn2Mix, Algorithm 2). All arrays [K]; float64, int64 sizes.");
  m.def("raise_to_min_share", &raised, py::arg("proportions").noconvert(), py::arg("class_sizes").noconvert(),
        py::arg("min_share"),
        "min_share + (1 - K_nonempty * min_share) * proportions, for the classes that have rows.");
  m.def(
      "compensated_sum", [](const Array<double>& values) { return compensated_sum(view<double>(values)); },
      py::arg("values").noconvert(), "Neumaier's sum, from left to right; float64.");
  m.def(
      "normalise", &normalised, py::arg("proportions").noconvert(), py::arg("class_sizes").noconvert(),
      "Proportions divided by their sum.\n\n"
      "Raises:\n"
      "    ValueError: Wrong length, one is negative or not finite, a class without rows has a share, or the sum is not\n"
      "        within 1e-6 of 1.");
}

}  // namespace l2m::bindings
