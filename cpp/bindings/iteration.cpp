#include "guard.hpp"
#include "py_prefetcher.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

/// The iterator over an epoch. It is not written in Python since between two lines of Python a Ctrl-C can fall, and with
/// it the batch that was about to be returned.
class Iteration {
 public:
  Iteration(std::shared_ptr<Guard> guard, std::shared_ptr<PyPrefetcher> prefetcher, std::uint64_t number,
            py::object turn, py::object build)
      : guard_(std::move(guard)),
        prefetcher_(std::move(prefetcher)),
        number_(number),
        turn_(std::move(turn)),
        build_(std::move(build)) {}

  py::object next() {
    const Guarded guarded(*guard_);
    if (!prefetcher_->may_run(number_)) turn_(number_);
    return prefetcher_->next(build_);
  }

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(turn_.ptr());
    Py_VISIT(build_.ptr());
    return 0;
  }
  void clear() {
    turn_ = py::none();
    build_ = py::none();
  }

 private:
  const std::shared_ptr<Guard> guard_;
  const std::shared_ptr<PyPrefetcher> prefetcher_;
  const std::uint64_t number_;
  py::object turn_;
  py::object build_;
};

/// An iterator may be reachable from its own loader: a trainer that holds both may be what reduces the losses.
void take_part_in_garbage_collection(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return py::detail::is_holder_constructed(self) ? py::cast<Iteration&>(py::handle(self)).traverse(visit, arg) : 0;
  };
  type.tp_clear = [](PyObject* self) {
    if (py::detail::is_holder_constructed(self)) py::cast<Iteration&>(py::handle(self)).clear();
    return 0;
  };
}

}  // namespace

void register_iteration(py::module_& m) {
  py::classh<Iteration>(m, "Iteration", "The batches of one epoch.",
                        py::custom_type_setup(&take_part_in_garbage_collection))
      .def(
          py::init<std::shared_ptr<Guard>, std::shared_ptr<PyPrefetcher>, std::uint64_t, py::object, py::object>(),
          py::arg("guard"), py::arg("prefetcher"), py::arg("number"), py::arg("turn"), py::arg("build"),
          "turn(number) is called when the prefetcher's run(number, until) does not hold (any more): it calls run() or\n"
          "raises, StopIteration at the end. build makes a batch of the list of its arrays.")
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", &Iteration::next);
}

}  // namespace l2m::bindings
