#include "l2m/shuffle.hpp"

#include "convert.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

py::array_t<std::uint32_t> shuffle(const ClassIndex& index, std::uint64_t seed, std::uint64_t pass, int num_threads) {
  if (index.wide()) throw py::value_error("shuffle returns 32-bit row ids: the data must have at most 2**32 rows");
  RowIds order;
  {
    const ReleasedGil released;
    order = RowIds(index.num_rows(), false);
    shuffle_all(index, seed, pass, num_threads, order);
  }
  auto* const owner = new RowIds(std::move(order));
  const py::capsule base(owner, [](void* self) { delete static_cast<RowIds*>(self); });
  const auto* const rows = owner->visit([](auto ids) { return reinterpret_cast<const std::uint32_t*>(ids.data()); });
  return py::array_t<std::uint32_t>(static_cast<py::ssize_t>(index.num_rows()), rows, base);
}

}  // namespace

void register_shuffle(py::module_& m) {
  m.def("shuffle", &shuffle, py::arg("index"), py::arg("seed"), py::arg("pass_"), py::arg("num_threads"),
        "The order of the rows of every class in one pass: uint32 row ids, [rows], class after class.\n\n"
        "A function of (seed, class, pass) alone. The loader makes the same permutations in the background.");
}

}  // namespace l2m::bindings
