#include "py_prefetcher.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

/// The iterator over an epoch. It is not written in Python since between two lines of Python a Ctrl-C can fall, and with
/// it the batch that was about to be returned.
class Iteration {
 public:
  Iteration(std::shared_ptr<PyPrefetcher> prefetcher, std::uint64_t number, py::object turn, py::object build)
      : prefetcher_(std::move(prefetcher)), number_(number), turn_(std::move(turn)), build_(std::move(build)) {}

  py::object next() {
    if (!prefetcher_->may_run(number_)) turn_(number_);
    return prefetcher_->next(build_);
  }

 private:
  const std::shared_ptr<PyPrefetcher> prefetcher_;
  const std::uint64_t number_;
  const py::object turn_;
  const py::object build_;
};

}  // namespace

void register_iteration(py::module_& m) {
  py::classh<Iteration>(m, "Iteration", "The batches of one epoch.")
      .def(
          py::init<std::shared_ptr<PyPrefetcher>, std::uint64_t, py::object, py::object>(), py::arg("prefetcher"),
          py::arg("number"), py::arg("turn"), py::arg("build"),
          "turn(number) is called when the prefetcher's run(number, until) does not hold (any more): it calls run() or\n"
          "raises, StopIteration at the end. build makes a batch of the list of its arrays.")
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", &Iteration::next);
}

}  // namespace l2m::bindings
