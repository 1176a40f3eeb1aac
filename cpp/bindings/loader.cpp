#include "l2m/loader.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "class_words.hpp"
#include "interrupt.hpp"
#include "l2m/base/errors.hpp"
#include "loader_state.hpp"
#include "openmp_team.hpp"
#include "py_loader.hpp"
#include "py_policy.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {
namespace {

/// Iterator over one epoch, or over all following ones. Written in C++, because a Ctrl-C between two lines of Python
/// would lose the batch about to be returned.
class Iterator {
 public:
  Iterator(py::object loader, bool forever)
      : loader_(std::move(loader)), core_(&loader_.cast<PyLoader&>()), iteration_(core_->core().iterate(forever)) {}

  static py::object next(const py::object& self) {
    auto& iterator = self.cast<Iterator&>();
    const py::scoped_critical_section critical_section(iterator.in_place_of_gil_.object());
    return iterator.take();
  }

  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(loader_.ptr());
    return 0;
  }
  /// End the iterator for good.
  void clear() {
    core_ = nullptr;
    loader_ = py::object();
  }

 private:
  py::object take() {
    if (core_ == nullptr) throw py::stop_iteration();
    const py::object loader = loader_;  // another thread may end the iterator during the call
    py::object batch = core_->next(iteration_);
    if (batch) return batch;
    clear();
    throw py::stop_iteration();
  }

  InPlaceOfGil in_place_of_gil_;
  py::object loader_;
  PyLoader* core_;
  const Iteration iteration_;
};

/// Include a type in garbage collection. A loader may be reachable from its callbacks, such as a trainer's all_reduce.
template <class T, class Traverse, class Clear>
py::custom_type_setup gc_support(Traverse, Clear) {
  return py::custom_type_setup([](PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      return py::detail::is_holder_constructed(self) ? Traverse{}(py::cast<T&>(py::handle(self)), visit, arg) : 0;
    };
    type.tp_clear = [](PyObject* self) {
      if (py::detail::is_holder_constructed(self)) Clear{}(py::cast<T&>(py::handle(self)));
      return 0;
    };
  });
}

using WatchedTuple = std::tuple<std::string, py::object, std::uintptr_t>;
using OutputTuple = std::tuple<py::object, int, int, std::vector<std::int64_t>>;
using PolicyTuple = std::tuple<py::object, std::string, std::int64_t, std::string>;

std::shared_ptr<const Policy> policy_of(const py::object& policy, const std::shared_ptr<HeldObjects>& held) {
  if (py::isinstance<Policy>(policy)) return policy.cast<std::shared_ptr<Policy>>();
  using enum Policy::Kind;
  const auto [object, kind, memory_rows, description] = policy.cast<PolicyTuple>();
  held->policy = object;
  return std::make_shared<PythonPolicy>(held,
                                        kind == "fixed"      ? kFixed
                                        : kind == "schedule" ? kSchedule
                                                             : kFollowsLosses,
                                        memory_rows, description);
}

/// Set the callbacks of the core to Python functions.
void set_callbacks(LoaderOptions& options, const std::shared_ptr<HeldObjects>& held) {
  options.draw_seed = [held] { return interruptible([&] { return held->draw_seed().cast<std::uint64_t>(); }); };
  options.warn = [held](const std::string& text) { interruptible([&] { held->warn(text); }); };
  options.observe = [held](const UpdateRecord& record) {
    interruptible([&] {
      held->observe(record.epoch, record.total_step, to_array(record.proportions), to_array(record.class_losses),
                    to_array(record.counts));
    });
  };
  if (held->all_reduce.is_none()) return;
  options.all_reduce = [held](std::span<double> values) {
    interruptible([&] {
      const auto sums = held->all_reduce(to_array(std::span<const double>(values))).cast<Array<double>>();
      std::ranges::copy(view<double>(sums), values.begin());
    });
  };
  if (held->start_all_reduce.is_none()) return;
  options.start_all_reduce = [held](std::uint64_t number, std::span<const double> values) {
    interruptible([&] { held->start_all_reduce(number, to_array(values)); });
  };
}

std::unique_ptr<PyLoader> make_loader(
    std::shared_ptr<ClassIndex> index, const std::vector<std::shared_ptr<Field>>& fields,
    const std::vector<std::shared_ptr<Field>>& described_fields, py::object owner,
    const std::vector<WatchedTuple>& watched, const std::vector<OutputTuple>& outputs, py::object build,
    py::object from_dlpack, py::object from_numpy, py::object destination, std::vector<std::string> include,
    const py::object& policy, std::string policy_name, py::object all_reduce, py::object start_all_reduce,
    py::object draw_seed, py::object warn, py::object check, py::object observe, std::int64_t batch_size,
    std::int64_t rank, std::int64_t world_size, std::int64_t listed_ranks, bool has_classes, bool shuffle, bool grouped,
    bool drop_last, std::optional<std::int64_t> steps_per_epoch, std::optional<std::uint64_t> total_steps,
    std::optional<std::int64_t> update_every, std::int64_t lookahead, std::optional<std::uint64_t> seed, int prefetch,
    int num_threads, bool may_use_openmp) {
  const auto held = std::make_shared<HeldObjects>(
      HeldObjects{std::move(owner), std::move(build), std::move(from_dlpack), std::move(from_numpy), py::none(),
                  std::move(all_reduce), std::move(start_all_reduce), std::move(draw_seed), std::move(warn),
                  std::move(check), std::move(observe), std::move(destination)});
  std::vector<Watched> all_watched;
  for (const auto& [name, array, address] : watched) all_watched.push_back({name, array, address});
  std::vector<Output> all_outputs;
  for (const auto& [dtype, code, bits, shape] : outputs)
    all_outputs.push_back({dtype, {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1}, shape});
  LoaderOptions options;
  options.index = std::move(index);
  options.fields.assign(fields.begin(), fields.end());
  options.described_fields = describe({described_fields.begin(), described_fields.end()});
  options.mixing = policy_of(policy, held);
  options.mixing_name = std::move(policy_name);
  options.batch_size = batch_size;
  options.rank = rank;
  options.world_size = world_size;
  options.listed_ranks = listed_ranks;
  options.has_classes = has_classes;
  options.shuffle = shuffle;
  options.grouped = grouped;
  options.drop_last = drop_last;
  options.steps_per_epoch = steps_per_epoch;
  options.total_steps = total_steps;
  options.update_every = update_every;
  options.lookahead = lookahead;
  options.seed = seed;
  options.prefetch = prefetch;
  options.num_threads = num_threads;
  options.team = may_use_openmp ? openmp_team() : nullptr;
  set_callbacks(options, held);
  return std::make_unique<PyLoader>(held, std::move(all_watched), std::move(all_outputs), std::move(include),
                                    std::move(options));
}

/// Return the device accumulator for the losses of a batch; make() creates it if there is none for this device.
py::object device_sums(PyLoader& self, std::optional<std::uint64_t> step, const py::object& device,
                       const py::object& make) {
  LossSlot& slot = self.core().slot(step);
  if (slot.device) {
    const py::object sums = std::static_pointer_cast<PySource>(slot.device)->sums();
    if (py::object(sums.attr("device")).equal(device)) return sums;
  }
  py::object sums = make();
  slot.move_to_host();  // blocks until the previous device is done
  slot.device = std::make_shared<PySource>(sums);
  return sums;
}

py::array_t<std::int64_t> rows_of(PyLoader& self, bool classes) {
  const py::scoped_critical_section critical_section(self.guard().object());
  const auto plan = self.core().plan();
  if (!plan)
    throw std::runtime_error(
        "no batch has been yielded since the loader was made or its state loaded: iterate over the loader first");
  return to_array<std::int64_t>(
      *plan, [&](const PlannedRow& planned) { return classes ? std::int64_t{planned.class_id} : planned.row; });
}

py::array_t<double> batch_proportions(PyLoader& self, std::optional<std::uint64_t> step) {
  const py::scoped_critical_section critical_section(self.guard().object());
  const auto proportions = self.core().batch_proportions(step);
  if (!proportions.empty()) return to_array(proportions);
  if (!step || !self.core().plan())
    throw std::runtime_error(
        "no batch has been yielded since the loader was made or its state loaded: take a batch first");
  throw std::runtime_error(message("step must be that of one of the last ", self.core().lookahead() + 1,
                                   " batches yielded (got ", *step, ", and the last one was ",
                                   self.core().total_step() - 1, ")"));
}

/// Compute the fingerprint, which the first time reads the class of every row.
void hash_classes(PyLoader& self) {
  const ReleasedGil released;
  self.core().fingerprint();
}

/// Wrap a call that changes the loader in a guard.
template <class Result, class... Args>
auto guarded(Result (*call)(PyLoader&, Args...)) {
  return [call](PyLoader& self, Args... args) {
    const Guarded guard(self.guard());
    return call(self, args...);
  };
}

/// Wrap a call that reads what the last call left.
template <class F>
auto reading(F read) {
  return [read](PyLoader& self) {
    const py::scoped_critical_section critical_section(self.guard().object());
    return read(self.core());
  };
}

}  // namespace

void register_loader(py::module_& m) {
  using Step = std::optional<std::uint64_t>;
  const auto traverse = [](PyLoader& self, visitproc visit, void* arg) {
    int result = 0;
    self.visit([&](const py::object& object) {
      if (result == 0 && object) result = visit(object.ptr(), arg);
    });
    return result;
  };
  const auto clear = [](PyLoader& self) {
    self.close();  // threads may still read the arrays
    self.visit([](py::object& object) { object = py::none(); });
  };
  py::classh<PyLoader>(m, "Loader", "Data loader, see l2m/loader.hpp.", gc_support<PyLoader>(traverse, clear))
      .def(
          py::init(&make_loader), py::kw_only(), py::arg("index"), py::arg("fields"), py::arg("described_fields"),
          py::arg("owner"), py::arg("watched"), py::arg("outputs"), py::arg("build"), py::arg("from_dlpack"),
          py::arg("from_numpy"), py::arg("destination"), py::arg("include"), py::arg("policy"), py::arg("policy_name"),
          py::arg("all_reduce"), py::arg("start_all_reduce"), py::arg("draw_seed"), py::arg("warn"), py::arg("check"),
          py::arg("observe"), py::arg("batch_size"), py::arg("rank"), py::arg("world_size"), py::arg("listed_ranks"),
          py::arg("has_classes"), py::arg("shuffle"), py::arg("grouped"), py::arg("drop_last"),
          py::arg("steps_per_epoch"), py::arg("total_steps"), py::arg("update_every"), py::arg("lookahead"),
          py::arg("seed"), py::arg("prefetch"), py::arg("num_threads"), py::arg("may_use_openmp"),
          "Create a loader.\n\n"
          "Args:\n"
          "    fields: Fields from dense(), normalize() and row_ids(), whose memory `owner` keeps alive.\n"
          "    described_fields: Fields of complete batches, for saved states.\n"
          "    watched: (name, array or data_ptr method of a tensor, address) of each array; a moved array is an error.\n"
          "    outputs: (numpy dtype or None, DLPack type code, DLPack bits, shape of a row) of each field.\n"
          "    build: Function that returns a batch for the list of its arrays and extra entries.\n"
          "    policy: A Policy, or (policy, kind, rows of its memory, description), where kind is \"fixed\", \"schedule\"\n"
          "        or \"follows losses\". initial(class_sizes) returns float64 [K]; update(proportions, class_losses,\n"
          "        class_sizes, counts, rows_drawn, passes, step, total_steps, memory) returns float64 [K] and the new\n"
          "        memory or None.\n"
          "    destination: None, or an object with lend(f), ahead, refill, send(batches) and receive(sent), see\n"
          "        data/device.py.\n"
          "    Others: As LoaderOptions; None stands for null or nullopt.")
      .def("__len__", [](PyLoader& self) { return self.core().size(); })
      .def(
          "iterate",
          [](const py::object& self, bool forever) {
            auto& loader = self.cast<PyLoader&>();
            const Guarded guard(loader.guard());
            return std::make_unique<Iterator>(self, forever);
          },
          py::arg("forever"), "Return an iterator over the next epoch, or over all following ones.")
      .def("record", &PyLoader::record, py::arg("losses"), py::arg("classes"), py::arg("step"),
           "Add losses [n] of given classes [n]; None: classes of the batch. int16 holds the bits of bfloat16.")
      .def("record_sums",
           guarded(+[](PyLoader& self, const Array<double>& sum, const Array<std::int64_t>& count, Step step) {
             self.core().record_sums(view<double>(sum), view<std::int64_t>(count), step);
           }),
           py::arg("sum"), py::arg("count"), py::arg("step"), "Add loss sums and counts, arrays [K].")
      .def("record_words", guarded(+[](PyLoader& self, const Array<std::int64_t>& words, Step step) {
             self.core().record(to_sums(words), step);
           }),
           py::arg("words"), py::arg("step"), "Add class sums, the words of add_class_loss().")
      .def("record_on_device",
           guarded(
               +[](PyLoader& self, const py::object& add, const py::object& device, const py::object& make, Step step) {
                 self.core().check_usable();
                 add(device_sums(self, step, device, make));
                 self.core().recorded(step, true);
               }),
           py::arg("add"), py::arg("device"), py::arg("make"), py::arg("step"),
           "Call add(sums) with the device accumulator for the losses of a batch; make() creates it if needed.")
      .def("classes_to_record", guarded(+[](PyLoader& self, Step step, std::size_t num_losses) {
             return to_array(self.core().classes_of(step, num_losses));
           }),
           py::arg("step"), py::arg("num_losses"),
           "Return the class of each row of a batch, int32. The batch must have `num_losses` rows.")
      .def("end_epoch", guarded(+[](PyLoader& self) { self.core().end_epoch(); }),
           "End the epoch where it was consumed.")
      .def("update", guarded(+[](PyLoader& self) { self.core().update(); }), "Close the window of the epoch now.")
      .def("set_epoch", guarded(+[](PyLoader& self, std::uint64_t epoch) { self.core().set_epoch(epoch); }),
           py::arg("epoch"))
      .def("state", guarded(+[](PyLoader& self, Step step) {
             hash_classes(self);
             return to_dict(self.core().state(step));
           }),
           py::arg("step"), "Return the state of what was consumed.")
      .def("load", guarded(+[](PyLoader& self, const py::object& state) {
             self.core().check_usable();
             std::vector<LoaderState> states = to_states(state);
             hash_classes(self);
             self.load(std::move(states));
           }),
           py::arg("state"), "Resume from one state, or from the list of those of all ranks.")
      .def(
          "apply_pending",
          [](PyLoader& self) {
            const py::scoped_critical_section critical_section(self.guard().object());
            if (self.guard().is_inside()) return;  // properties show the values from before that call
            const Entered entered(self.guard());
            self.core().apply_pending();
          },
          "Apply the closed window that is still pending, unless a call is in progress.")
      .def("close", &PyLoader::close, "Stop the threads and free prefetched batches. Idempotent.")
      .def_property_readonly("epoch", reading([](Loader& core) { return core.epoch(); }))
      .def_property_readonly("step", reading([](Loader& core) { return core.step(); }))
      .def_property_readonly("total_step", reading([](Loader& core) { return core.total_step(); }))
      .def_property_readonly("seed", reading([](Loader& core) { return core.seed(); }))
      .def_property_readonly("proportions", reading([](Loader& core) { return to_array<double>(core.proportions()); }))
      .def_property_readonly("class_losses",
                             reading([](Loader& core) { return to_array<double>(core.class_losses()); }))
      .def("batch_proportions", &batch_proportions, py::arg("step"),
           "Proportions with which a batch was drawn, one of the last lookahead + 1 yielded; None: the last one.")
      .def_property_readonly(
          "rows", [](PyLoader& self) { return rows_of(self, false); }, "Row ids of the last batch, int64.")
      .def_property_readonly(
          "classes", [](PyLoader& self) { return rows_of(self, true); }, "Classes of the last batch, int64.");

  m.def(
      "values_of_losses",
      [](const py::object& state) {
        const LoaderState converted = to_state(state);
        std::vector<double> values;
        for (const LossSums& sums : converted.losses) std::ranges::copy(sums.to_values(), std::back_inserter(values));
        const auto windows = static_cast<py::ssize_t>(converted.losses.size());
        return to_array(std::span<const double>(values)).reshape({windows, py::ssize_t{-1}});
      },
      py::arg("state"), "Return the losses of each open window as integers to sum over ranks, [windows, values].");
  m.def(
      "with_values_of_losses",
      [](const py::object& state, const Array<double>& values) {
        LoaderState converted = to_state(state);
        const std::span<const double> all = view<double>(values);
        const std::size_t size = all.size() / std::max<std::size_t>(converted.losses.size(), 1);
        for (std::size_t w = 0; w < converted.losses.size(); ++w)
          converted.losses[w] = LossSums::from_values(all.subspan(w * size, size));
        return to_dict(converted);
      },
      py::arg("state"), py::arg("values"), "Return a state with other losses, sums of values_of_losses().");
  m.def(
      "state_to_bytes",
      [](const py::object& state) {
        const LoaderState converted = to_state(state);
        py::bytes bytes(nullptr, encoded_size(converted));
        encode(converted, std::as_writable_bytes(std::span(PyBytes_AS_STRING(bytes.ptr()), encoded_size(converted))));
        return bytes;
      },
      py::arg("state"), "Return the bytes of a state.");
  m.def(
      "state_from_bytes",
      [](const py::buffer& data) {
        const py::buffer_info info = data.request();
        if (!PyBuffer_IsContiguous(info.view(), 'C')) throw py::value_error("data must be contiguous (got strides)");
        return to_dict(
            decode({static_cast<const std::byte*>(info.ptr), static_cast<std::size_t>(info.size * info.itemsize)}));
      },
      py::arg("data"), "Return the state of some bytes.");

  py::classh<Iterator>(
      m, "Iteration", "Iterator over one epoch, or over all following ones.",
      gc_support<Iterator>([](Iterator& self, visitproc visit, void* arg) { return self.traverse(visit, arg); },
                           [](Iterator& self) { self.clear(); }))
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", &Iterator::next);
}

}  // namespace l2m::bindings
