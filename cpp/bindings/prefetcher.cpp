#include "l2m/prefetcher.hpp"

#include <pybind11/stl.h>

#include "convert.hpp"
#include "dlpack.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

/// How the rows of a field look to Python; `dtype` is None where batches leave by way of DLPack.
struct Output {
  py::object dtype;
  DLDataType dl_type;
  std::vector<std::int64_t> row_shape;
};

py::object to_python(Block block, const Output& output, std::int64_t rows, const py::object& from_dlpack) {
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), output.row_shape.begin(), output.row_shape.end());
  if (output.dtype.is_none()) return from_dlpack(to_dlpack(std::move(block), output.dl_type, std::move(shape)));
  const void* const data = block.data();
  const py::capsule base(new Block(std::move(block)), [](void* self) { delete static_cast<Block*>(self); });
  return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), std::move(shape), {}, data, base);
}

py::dict state_to_dict(const SamplerState& state) {
  std::vector<std::uint64_t> passes, visits;
  std::vector<std::int64_t> positions;
  std::vector<double> due;
  for (const Cursor& cursor : state.cursors) {
    passes.push_back(cursor.pass);
    positions.push_back(cursor.position);
  }
  for (const DueTime& time : state.due) {
    visits.push_back(time.visit);
    due.push_back(time.due);
  }
  py::dict result;
  result["total_step"] = state.total_step;
  result["passes"] = passes;
  result["positions"] = positions;
  result["visits"] = visits;
  result["due"] = due;
  py::list held;
  for (const auto& [class_id, rows] : state.held) {
    py::list entry;
    entry.append(class_id);
    entry.append(rows);
    held.append(entry);
  }
  result["held"] = held;
  result["proportions"] = state.proportions;
  return result;
}

SamplerState dict_to_state(const py::dict& dict) {
  const auto passes = dict["passes"].cast<std::vector<std::uint64_t>>();
  const auto positions = dict["positions"].cast<std::vector<std::int64_t>>();
  const auto visits = dict["visits"].cast<std::vector<std::uint64_t>>();
  const auto due = dict["due"].cast<std::vector<double>>();
  const auto held = dict["held"].cast<std::vector<HeldRows::value_type>>();
  SamplerState state;
  state.total_step = dict["total_step"].cast<std::uint64_t>();
  state.proportions = dict["proportions"].cast<std::vector<double>>();
  for (std::size_t k = 0; k < passes.size(); ++k) {
    state.cursors.push_back({passes.at(k), positions.at(k)});
    state.due.push_back({visits.at(k), due.at(k)});
  }
  state.held.insert(held.begin(), held.end());
  return state;
}

/// A prefetcher, and how its blocks look to Python.
class PyPrefetcher {
 public:
  PyPrefetcher(std::shared_ptr<ClassIndex> index, const std::vector<Field>& fields, std::vector<Output> outputs,
               py::object from_dlpack, const Array<double>& proportions, const PrefetcherOptions& options)
      : outputs_(std::move(outputs)),
        from_dlpack_(std::move(from_dlpack)),
        core_(std::move(index), fields, to_vector(proportions), options) {}

  py::list next() {
    using namespace std::chrono_literals;
    while (!core_.wait(0ms)) {  // most often the batch is there: then the GIL need not be given up
      {
        const py::gil_scoped_release release;
        if (core_.wait(50ms)) break;
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    std::vector<Block> blocks = core_.take();
    const auto rows = std::ssize(core_.plan().rows);
    py::list batch(blocks.size());
    for (std::size_t f = 0; f < blocks.size(); ++f)
      batch[f] = to_python(std::move(blocks[f]), outputs_[f], rows, from_dlpack_);
    return batch;
  }

  Prefetcher& core() { return core_; }

 private:
  const std::vector<Output> outputs_;
  const py::object from_dlpack_;
  Prefetcher core_;
};

}  // namespace

void register_prefetcher(py::module_& m) {
  py::classh<PyPrefetcher>(m, "Prefetcher", py::release_gil_before_calling_cpp_dtor(),
                           "Plans and fills batches ahead of the consumer.")
      .def(
          py::init([](std::shared_ptr<ClassIndex> index,
                      const std::vector<std::tuple<std::uintptr_t, std::int64_t, std::int64_t>>& fields,
                      const py::object& /*owner*/,
                      const std::vector<std::tuple<py::object, int, int, std::vector<std::int64_t>>>& outputs,
                      const py::object& from_dlpack, const Array<double>& proportions, std::uint64_t seed,
                      std::int64_t global_batch, std::int64_t rank, std::int64_t world_size, bool shuffle, bool grouped,
                      bool epoch_is_pass, int prefetch, int num_threads) {
            std::vector<Field> core_fields;
            for (const auto& [address, stride, size] : fields)
              core_fields.push_back({reinterpret_cast<const std::byte*>(address), stride, size});
            std::vector<Output> core_outputs;
            for (const auto& [dtype, code, bits, shape] : outputs)
              core_outputs.push_back(
                  {dtype, {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1}, shape});
            return std::make_unique<PyPrefetcher>(
                std::move(index), core_fields, std::move(core_outputs), from_dlpack, proportions,
                PrefetcherOptions{
                    {seed, global_batch, rank, world_size, shuffle, grouped, epoch_is_pass}, prefetch, num_threads});
          }),
          py::keep_alive<1, 4>(),  // the owner outlives the destructor, which waits for threads that read the fields
          py::arg("index"), py::arg("fields"), py::arg("owner"), py::arg("outputs"), py::arg("from_dlpack"),
          py::arg("proportions").noconvert(), py::arg("seed"), py::arg("global_batch"), py::arg("rank"),
          py::arg("world_size"), py::arg("shuffle"), py::arg("grouped"), py::arg("epoch_is_pass"), py::arg("prefetch"),
          py::arg("num_threads"),
          "Fields are (address, stride, row bytes), memory that `owner` keeps alive and in place. Outputs are (numpy dtype, or None and\n"
          "then DLPack type code and bits; shape of a row); from_dlpack makes a tensor of such a capsule. For the rest see\n"
          "the core's header.")
      .def(
          "begin",
          [](PyPrefetcher& self, std::uint64_t epoch, std::int64_t first_step, std::int64_t num_steps,
             std::int64_t last_batch_rows, std::uint64_t plan_until) {
            self.core().begin({epoch, first_step, num_steps, last_batch_rows}, plan_until);
          },
          py::arg("epoch"), py::arg("first_step"), py::arg("num_steps"), py::arg("last_batch_rows"),
          py::arg("plan_until"), py::call_guard<py::gil_scoped_release>(),
          "Gives up what lies ready and begins at a step of an epoch.")
      .def(
          "schedule",
          [](PyPrefetcher& self, std::uint64_t step, const Array<double>& proportions, std::uint64_t plan_until) {
            self.core().schedule(step, to_vector(proportions), plan_until);
          },
          py::arg("step"), py::arg("proportions").noconvert(), py::arg("plan_until"),
          "Says with which proportions batches are planned from total_step `step` on.")
      .def("next", &PyPrefetcher::next,
           "The next batch: a list of arrays or of what from_dlpack makes. Waits without the GIL.")
      .def_property_readonly(
          "rows", [](PyPrefetcher& self) { return to_array<std::int64_t>(self.core().plan().rows); },
          "int64 row ids of the last batch.")
      .def_property_readonly(
          "classes", [](PyPrefetcher& self) { return to_array<std::int32_t>(self.core().plan().classes); },
          "int32 class of each row of the last batch.")
      .def_property_readonly(
          "proportions", [](PyPrefetcher& self) { return to_array<double>(self.core().state().proportions); },
          "float64, of the next batch.")
      .def_property_readonly(
          "total_step", [](PyPrefetcher& self) { return self.core().state().total_step; },
          "Batches consumed since the beginning of training.")
      .def(
          "state", [](PyPrefetcher& self) { return state_to_dict(self.core().state()); }, "What was consumed.")
      .def(
          "set_state", [](PyPrefetcher& self, const py::dict& state) { self.core().set_state(dict_to_state(state)); },
          py::arg("state"), "Goes on from `state` at the next begin().")
      .def(
          "close", [](PyPrefetcher& self) { self.core().close(); }, py::call_guard<py::gil_scoped_release>(),
          "Stops; idempotent.");
}

}  // namespace l2m::bindings
