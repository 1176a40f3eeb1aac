#include "l2m/loss/class_loss.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "class_words.hpp"
#include "convert.hpp"
#include "l2m/run/thread_pool.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

std::int64_t add_class_loss(const py::array& losses, const py::array& classes, Array<std::int64_t> words,
                            std::optional<int> num_threads) {
  const ClassWords sums(mutable_view(words));
  return with_floats("losses", losses, [&](auto values) {
    return with_integers("classes", classes, [&](auto class_ids) {
      const ReleasedGil released;
      return class_loss(values, class_ids, sums.sum, sums.count, num_threads.value_or(kUsableCpus));
    });
  });
}

}  // namespace

void register_class_loss(py::module_& m) {
  m.attr("SUM_DIGITS") = kSumDigits;
  m.def(
      "add_class_loss", &add_class_loss, py::arg("losses"), py::arg("classes"), py::arg("words").noconvert(),
      py::arg("num_threads") = py::none(),
      "Add losses to the sum and count of their class, and return the number of non-finite losses, which are skipped.\n\n"
      "Args:\n"
      "    losses: float16, float32, float64, or the bits of bfloat16 as int16; [n].\n"
      "    classes: Integers in [0, K); [n].\n"
      "    words: int64, [K * (SUM_DIGITS + 1)], added to in place: the digits of each sum, then the counts.\n"
      "    num_threads: Maximum number of threads; None: the number of CPUs of the process. Does not affect the result.\n\n"
      "Raises:\n"
      "    ValueError: Lengths differ or a class is out of range; nothing was added.");
  m.def(
      "nearest_sums",
      [](const Array<std::int64_t>& words) {
        return to_array<double>(to_sums(words).sum, [](const ExactSum& sum) { return sum.nearest(); });
      },
      py::arg("words").noconvert(), "Return the nearest float64 of the sum of each class, [K].");
}

}  // namespace l2m::bindings
