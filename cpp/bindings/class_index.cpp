#include "l2m/plan/class_index.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "convert.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

std::shared_ptr<ClassIndex> make_class_index(const std::optional<py::array>& classes, std::int64_t num_classes,
                                             std::int64_t data_rows, const std::optional<Array<std::int64_t>>& rows,
                                             int num_threads, bool shuffle) {
  std::optional<std::span<const std::int64_t>> taken;
  if (rows) taken = view<std::int64_t>(*rows);
  if (!classes && !rows) return std::make_shared<ClassIndex>(data_rows);
  const auto make = [&](auto span) {
    const ReleasedGil released;
    return std::make_shared<ClassIndex>(span, num_classes, data_rows, taken, num_threads, shuffle);
  };
  return classes ? with_integers("classes", *classes, make) : make(std::span<const std::int64_t>{});
}

}  // namespace

void register_class_index(py::module_& m) {
  py::classh<ClassIndex>(m, "ClassIndex", "Rows of each class, ascending.")
      .def(py::init(&make_class_index), py::arg("classes"), py::arg("num_classes"), py::arg("data_rows"),
           py::arg("rows").noconvert(), py::arg("num_threads"), py::arg("shuffle"),
           "Sort rows by class.\n\n"
           "Args:\n"
           "    classes: Class of each row of the data, [data_rows] of integers; None: one class.\n"
           "    num_classes: K. Every class is in [0, K).\n"
           "    data_rows: Number of rows of the data.\n"
           "    rows: int64 ids of the rows to use, unique; None: all rows.\n"
           "    num_threads: Maximum number of threads; does not affect the result.\n"
           "    shuffle: The rows will be shuffled. If not, `rows` without classes is used as given.\n\n"
           "Raises:\n"
           "    ValueError: A class is out of range or a row repeats.\n"
           "    IndexError: A row id is out of range.")
      .def_property_readonly("num_rows", &ClassIndex::num_rows)
      .def_property_readonly(
          "class_sizes",
          [](const ClassIndex& self) {
            py::array_t<std::int64_t> sizes(self.num_classes());
            for (std::int64_t k = 0; k < self.num_classes(); ++k) sizes.mutable_at(k) = self.size(k);
            return sizes;
          },
          "Number of rows of each class, int64 [K].");
}

}  // namespace l2m::bindings
