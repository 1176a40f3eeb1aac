#include "l2m/run/prefetcher.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>

#include "py_prefetcher.hpp"
#include "register.hpp"
#include "sampler_state.hpp"

namespace l2m::bindings {

void register_prefetcher(py::module_& m) {
  py::classh<PyPrefetcher>(m, "Prefetcher", "Plans and fills batches ahead of the consumer.")
      .def(
          py::init([](std::shared_ptr<ClassIndex> index,
                      const std::vector<std::optional<std::tuple<std::uintptr_t, std::int64_t, std::int64_t>>>& fields,
                      py::object owner, const std::vector<std::tuple<std::string, py::object, std::uintptr_t>>& watched,
                      const std::vector<std::tuple<py::object, int, int, std::vector<std::int64_t>>>& outputs,
                      const py::object& from_dlpack, py::object lend, py::object transfer, std::int64_t ahead,
                      std::int64_t refill,
                      const Array<double>& proportions, std::uint64_t seed,
                      std::int64_t global_batch, std::int64_t rank, std::int64_t world_size, bool shuffle, bool grouped,
                      bool epoch_is_pass, bool in_order, int prefetch, int num_threads) {
            const int taken_ahead = transfer.is_none() ? 0 : static_cast<int>(std::min<std::int64_t>(ahead, prefetch));
            std::vector<Field> core_fields;
            for (const auto& field : fields) {
              if (!field) {
                core_fields.push_back(Field::of_row_ids());
                continue;
              }
              const auto& [address, stride, size] = *field;
              core_fields.push_back({reinterpret_cast<const std::byte*>(address), stride, size});
            }
            std::vector<Watched> core_watched;
            for (const auto& [name, array, address] : watched) core_watched.push_back({name, array, address});
            std::vector<Output> core_outputs;
            for (const auto& [dtype, code, bits, shape] : outputs)
              core_outputs.push_back(
                  {dtype, {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1}, shape});
            return std::make_unique<PyPrefetcher>(
                std::move(owner), std::move(core_watched), std::move(core_outputs), from_dlpack,
                Destination{std::move(lend), std::move(transfer), ahead, refill}, proportions,
                PipelineSettings{std::move(index),
                                 std::move(core_fields),
                                 {seed, global_batch, rank, world_size, shuffle, grouped, epoch_is_pass, in_order},
                                 prefetch,
                                 num_threads,
                                 taken_ahead,
                                 {}});
          }),
          py::arg("index"), py::arg("fields"), py::arg("owner"), py::arg("watched"), py::arg("outputs"),
          py::arg("from_dlpack"),
          py::arg("lend"), py::arg("transfer"), py::arg("ahead"), py::arg("refill"), py::arg("proportions").noconvert(), py::arg("seed"), py::arg("global_batch"), py::arg("rank"),
          py::arg("world_size"), py::arg("shuffle"), py::arg("grouped"), py::arg("epoch_is_pass"), py::arg("in_order"), py::arg("prefetch"),
          py::arg("num_threads"),
          "Fields are (address, stride, row bytes), memory that `owner` keeps alive, or None for the ids of the rows. Watched\n"
          "are (name, array or data_ptr() of a tensor, address): what moved is an error at the next batch. Outputs are (numpy dtype, or None and then DLPack type code and bits; shape of a row); from_dlpack\n"
          "makes a tensor of such a capsule. lend(f), if not None, makes a tensor for a batch of field f, to be filled.\n"
          "transfer, if not None, takes batches to a device: send(batches) begins with several, each a list of arrays, and\n"
          "returns something for each of them, of which receive() then makes the list of the arrays of the batch; `ahead`\n"
          "of them are on their way at most, and more are sent where fewer than `refill` are. For the rest see the core's header.")
      .def(
          "begin",
          [](PyPrefetcher& self, std::uint64_t epoch, std::int64_t first_step, std::int64_t num_steps,
             std::int64_t last_batch_rows,
             std::uint64_t plan_until) { self.begin({epoch, first_step, num_steps, last_batch_rows}, plan_until); },
          py::arg("epoch"), py::arg("first_step"), py::arg("num_steps"), py::arg("last_batch_rows"),
          py::arg("plan_until"), "Gives up what lies ready and begins at a step of an epoch.")
      .def(
          "schedule",
          [](PyPrefetcher& self, std::uint64_t step, const Array<double>& proportions, std::uint64_t plan_until) {
            self.core().schedule(step, to_vector(proportions), plan_until);
          },
          py::arg("step"), py::arg("proportions").noconvert(), py::arg("plan_until"),
          "Says with which proportions batches are planned from total_step `step` on.")
      .def("run", &PyPrefetcher::run, py::arg("iteration"), py::arg("until"),
           "Lets an iteration go on without asking, up to the batch of total_step `until`.")
      .def("reseed", [](PyPrefetcher& self, std::uint64_t seed) { self.core().reseed(seed); }, py::arg("seed"),
           "Take another seed; before anything was begun.")
      .def("skip", &PyPrefetcher::skip, "Consume the next batch, of which this rank has no row.")
      .def_property_readonly(
          "rows", [](PyPrefetcher& self) {
            return to_array<std::int64_t>(self.core().plan(), [](const PlannedRow& planned) { return planned.row; });
          },
          "int64 row ids of the last batch.")
      .def_property_readonly(
          "classes", [](PyPrefetcher& self) {
            return to_array<std::int32_t>(self.core().plan(),
                                          [](const PlannedRow& planned) { return planned.class_id; });
          },
          "int32 class of each row of the last batch.")
      .def_property_readonly(
          "proportions", [](PyPrefetcher& self) { return to_array<double>(self.core().state().proportions); },
          "float64, of the next batch.")
      .def_property_readonly(
          "total_step", [](PyPrefetcher& self) { return self.core().total_step(); },
          "Batches consumed since the beginning of training.")
      .def(
          "state", [](PyPrefetcher& self) { return state_to_dict(self.core().state()); }, "What was consumed.")
      .def("set_state", &PyPrefetcher::set_state, py::arg("state"), "Goes on from `state` at the next begin().")
      .def("close", &PyPrefetcher::close, "Drops what lies ready and stops; idempotent.");
}

}  // namespace l2m::bindings
