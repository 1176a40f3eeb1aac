// The Python module `_testing`: parts of the core that only tests and benchmarks call.
// Built by `make build`; not part of the wheel.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "class_words.hpp"
#include "convert.hpp"
#include "exact_class_loss.hpp"
#include "l2m/plan/class_index.hpp"
#include "l2m/plan/permutation.hpp"
#include "l2m/plan/sampler.hpp"

namespace l2m::testing {
namespace {

namespace py = pybind11;
using bindings::Array;
using bindings::mutable_view;

/// Row order of every class in one pass, class after class.
class Pass {
 public:
  Pass(const std::optional<Array<std::int16_t>>& classes, std::int64_t num_classes, std::int64_t num_rows)
      : index_(classes ? ClassIndex(bindings::view<std::int16_t>(*classes), num_classes, num_rows, {}, 1, true, 2,
                                    /*max_plain_rows=*/num_rows)
                       : ClassIndex(num_rows)),
        rows_(num_rows, index_.id_bytes()) {}

  void shuffle(std::uint64_t seed, std::uint64_t number, int num_threads) {
    const py::gil_scoped_release released;
    shuffle_all(index_, seed, number, num_threads, rows_);
  }

  [[nodiscard]] py::buffer_info rows() const {
    return rows_.visit([](auto ids) { return py::buffer_info(ids.data(), std::ssize(ids), /*readonly=*/true); });
  }

 private:
  ClassIndex index_;
  RowIds rows_;
};

/// Planner of balanced batches, without threads and copies.
class Planner {
 public:
  Planner(const Array<std::int16_t>& classes, std::int64_t num_classes, std::int64_t batch_size)
      : sampler_(std::make_shared<const ClassIndex>(bindings::view<std::int16_t>(classes), num_classes, classes.size(),
                                                    std::nullopt, 1),
                 SamplerOptions{.global_batch = batch_size}, false),
        batch_size_(batch_size) {
    const auto num = static_cast<std::size_t>(num_classes);
    sampler_.restore(sampler_.initial_state(std::vector<double>(num, 1 / static_cast<double>(num_classes))));
  }

  void plan(std::int64_t num_batches) {
    const py::gil_scoped_release released;
    while (num_batches > 0) {
      sampler_.plan(0, sampler_.state().total_step, num_batches, batch_size_, plans_);
      num_batches -= plans_.size();
    }
  }

 private:
  Sampler sampler_;
  BatchPlans plans_;
  std::int64_t batch_size_;
};

void add_exact_class_loss(const py::array& losses, const py::array& classes, Array<std::int64_t> words,
                          Array<std::int64_t> skipped) {
  const bindings::ClassWords sums(mutable_view(words));
  if (losses.size() != classes.size() || skipped.size() != 2)
    throw py::value_error("losses and classes must have equal lengths, and skipped 2 values");
  bindings::with_floats("losses", losses, [&](auto values) {
    bindings::with_integers("classes", classes, [&](auto class_ids) {
      l2m::add_exact_class_loss(values, class_ids, sums.sum, sums.count, mutable_view(skipped));
    });
  });
}

}  // namespace

PYBIND11_MODULE(_testing, m, py::mod_gil_not_used()) {
  m.doc() = "Parts of the core for tests and benchmarks.";
  py::classh<Pass>(m, "Pass", py::buffer_protocol(),
                   "Buffer of the row ids of one pass of every class, class after class.")
      .def(py::init<const std::optional<Array<std::int16_t>>&, std::int64_t, std::int64_t>(), py::arg("classes"),
           py::arg("num_classes"), py::arg("num_rows"))
      .def("shuffle", &Pass::shuffle, py::arg("seed"), py::arg("number"), py::arg("num_threads"),
           "Compute the pass of this number, as the loader does in the background.")
      .def_buffer(&Pass::rows);
  py::classh<Planner>(m, "Planner", "Planner of balanced batches, without threads and copies.")
      .def(py::init<const Array<std::int16_t>&, std::int64_t, std::int64_t>(), py::arg("classes"),
           py::arg("num_classes"), py::arg("batch_size"))
      .def("plan", &Planner::plan, py::arg("num_batches"), "Plan the next batches.");
  m.def(
      "add_exact_class_loss", &add_exact_class_loss, py::arg("losses"), py::arg("classes"),
      py::arg("words").noconvert(), py::arg("skipped").noconvert(),
      "Add losses to the exact sum of their class, as the CUDA kernel does.\n\n"
      "Args:\n"
      "    losses: float16, float32, float64, or the bits of bfloat16 as int16; [n].\n"
      "    classes: Integers; [n].\n"
      "    words: Sums and counts, as in add_class_loss(); added to in place.\n"
      "    skipped: int64, [2], added to in place: losses skipped for a class out of range, and for being non-finite.");
}

}  // namespace l2m::testing
