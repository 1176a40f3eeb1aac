#include "l2m/loss/cross_entropy.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "class_words.hpp"
#include "convert.hpp"
#include "l2m/run/thread_pool.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

using OfColumns = std::optional<Array<double>>;

Targets targets_of(const py::array& logits, const Array<std::int64_t>& targets, const OfColumns& weight,
                   const OfColumns& offsets, std::int64_t ignore_index, double label_smoothing) {
  if (logits.ndim() != 2)
    throw py::value_error("logits must have two dimensions (got " + std::to_string(logits.ndim()) + ")");
  return {.targets = view<std::int64_t>(targets),
          .num_columns = logits.shape(1),
          .weight = weight ? view<double>(*weight) : std::span<const double>(),
          .ignore_index = ignore_index,
          .label_smoothing = label_smoothing,
          .offsets = offsets ? view<double>(*offsets) : std::span<const double>()};
}

std::pair<double, double> forward(const py::array& logits, const Array<std::int64_t>& targets,
                                  const Array<std::int64_t>& classes, const OfColumns& weight, const OfColumns& offsets,
                                  std::int64_t ignore_index, double label_smoothing, Array<double> log_sum_exp,
                                  Array<std::int64_t> words, std::optional<int> num_threads) {
  const Targets rows = targets_of(logits, targets, weight, offsets, ignore_index, label_smoothing);
  const auto class_ids = view<std::int64_t>(classes);
  const auto log_sum_exps = mutable_view(log_sum_exp);
  const ClassWords sums(mutable_view(words));
  const MeanLoss mean = with_floats("logits", logits, [&](auto values) {
    const ReleasedGil released;
    return cross_entropy(rows, values, class_ids, log_sum_exps, sums.sum, sums.count,
                         num_threads.value_or(kUsableCpus));
  });
  return {mean.loss, mean.total_weight};
}

void backward(const py::array& logits, const Array<std::int64_t>& targets, const OfColumns& weight,
              const OfColumns& offsets, std::int64_t ignore_index, double label_smoothing,
              const Array<double>& log_sum_exp, double scale, py::array gradient, std::optional<int> num_threads) {
  const Targets rows = targets_of(logits, targets, weight, offsets, ignore_index, label_smoothing);
  const auto log_sum_exps = view<double>(log_sum_exp);
  if (!gradient.dtype().equal(logits.dtype()) || (gradient.flags() & py::array::c_style) == 0)
    throw py::type_error("gradient must be a C-contiguous array of the dtype of logits");
  void* const out = gradient.mutable_data();
  const auto size = static_cast<std::size_t>(gradient.size());
  with_floats("logits", logits, [&]<class Logit>(std::span<const Logit> values) {
    const ReleasedGil released;
    cross_entropy_gradient(rows, values, log_sum_exps, scale, std::span(static_cast<Logit*>(out), size),
                           num_threads.value_or(kUsableCpus));
  });
}

}  // namespace

void register_cross_entropy(py::module_& m) {
  m.def(
      "cross_entropy", &forward, py::arg("logits"), py::arg("targets").noconvert(), py::arg("classes").noconvert(),
      py::arg("weight").noconvert(), py::arg("offsets").noconvert(), py::arg("ignore_index"),
      py::arg("label_smoothing"), py::arg("log_sum_exp").noconvert(), py::arg("words").noconvert(),
      py::arg("num_threads") = py::none(),
      "Add the cross entropy of logits to the sum and count of each class, and return its mean and the total weight.\n\n"
      "Args:\n"
      "    logits: float16, float32, float64, or the bits of bfloat16 as int16; [n, C].\n"
      "    targets: int64, [n]; in [0, C) or ignore_index.\n"
      "    classes: int64, [n]; in [0, K).\n"
      "    weight: float64, [C]; None: all 1.\n"
      "    offsets: float64, [C], added to the logits; None: all 0.\n"
      "    ignore_index: Target of rows without a loss.\n"
      "    label_smoothing: In [0, 1].\n"
      "    log_sum_exp: float64, [n]; output.\n"
      "    words: int64, added to in place, as in add_class_loss().\n"
      "    num_threads: Maximum number of threads; None: the number of CPUs of the process. Does not affect the result.\n\n"
      "Raises:\n"
      "    ValueError: Lengths do not match, or a target or class is out of range; nothing was added.");
  m.def(
      "cross_entropy_gradient", &backward, py::arg("logits"), py::arg("targets").noconvert(),
      py::arg("weight").noconvert(), py::arg("offsets").noconvert(), py::arg("ignore_index"),
      py::arg("label_smoothing"), py::arg("log_sum_exp").noconvert(), py::arg("scale"), py::arg("gradient").noconvert(),
      py::arg("num_threads") = py::none(),
      "Compute the gradient of the mean cross entropy with respect to the logits, times total weight and `scale`.\n\n"
      "Args:\n"
      "    logits, targets, weight, offsets, ignore_index, label_smoothing, log_sum_exp: Arguments of cross_entropy().\n"
      "    scale: Gradient with respect to the mean, divided by the total weight.\n"
      "    gradient: [n, C], dtype of the logits; output.\n"
      "    num_threads: Maximum number of threads; None: the number of CPUs of the process. Does not affect the result.\n\n"
      "Raises:\n"
      "    ValueError: Lengths do not match or a target is out of range; nothing was written.");
}

}  // namespace l2m::bindings
