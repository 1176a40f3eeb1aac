#include "l2m/shuffle.hpp"

#include "convert.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

void shuffle(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads, RowIds& out) {
  const auto size = out.visit([](auto ids) { return std::ssize(ids); });
  if (size != index.num_rows() || out.wide() != index.wide())
    throw py::value_error("out must be RowIds of the index's " + std::to_string(index.num_rows()) + " rows (got " +
                          std::to_string(size) + ")");
  const ReleasedGil released;
  shuffle_all(index, seed, pass, num_threads, out);
}

py::buffer_info buffer_of(RowIds& rows) {
  return rows.visit([](auto ids) { return py::buffer_info(ids.data(), std::ssize(ids), /*readonly=*/true); });
}

}  // namespace

void register_shuffle(py::module_& m) {
  py::classh<RowIds>(m, "RowIds", py::buffer_protocol(), "Memory for 32-bit row ids; a buffer.")
      .def(py::init([](std::int64_t size) { return RowIds(size, false); }), py::arg("size"))
      .def_buffer(&buffer_of);
  m.def("shuffle", &shuffle, py::arg("index"), py::arg("seed"), py::arg("pass_"), py::arg("num_threads"),
        py::arg("out"),
        "Fills `out` with the order of the rows of every class in one pass, class after class.\n\n"
        "A function of (seed, class, pass) alone. The loader makes the same permutations in the background.");
}

}  // namespace l2m::bindings
