#include "l2m/exact_class_loss.hpp"

#include "convert.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

void add(const py::array& losses, const py::array& classes, Array<double> sum, Array<std::int64_t> count,
         Array<std::int64_t> unusual) {
  if (losses.size() != classes.size() || sum.size() != count.size() || unusual.size() != 2)
    throw py::value_error("losses and classes, and sum and count, must have one length, and unusual have 2 values");
  with_floats("losses", losses, [&](auto values) {
    with_integers("classes", classes, [&](auto class_ids) {
      add_exact_class_loss(values, class_ids, mutable_view(sum), mutable_view(count), mutable_view(unusual));
    });
  });
}

}  // namespace

void register_exact_class_loss(py::module_& m) {
  m.def(
      "add_exact_class_loss", &add, py::arg("losses"), py::arg("classes"), py::arg("sum").noconvert(),
      py::arg("count").noconvert(), py::arg("unusual").noconvert(),
      "What the CUDA kernel does, on the CPU: adds to each sum the double nearest to the sum of its losses.\n\n"
      "Args:\n"
      "    losses: float16, float32, float64, or int16 that holds the bits of bfloat16; [n].\n"
      "    classes: Integers; [n].\n"
      "    sum: float64, [K], added to in place.\n"
      "    count: int64, [K], added to in place.\n"
      "    unusual: int64, [2], added to in place: losses skipped for a class out of range, and for not being finite.");
}

}  // namespace l2m::bindings
