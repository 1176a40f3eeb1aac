#include "py_loader.hpp"

#include <chrono>
#include <stdexcept>
#include <utility>

#include "class_words.hpp"
#include "interrupt.hpp"
#include "released_gil.hpp"

namespace l2m::bindings {

/// Destination of batches in memory lent by Python, in which they become tensors or are sent to a device.
class PyDestination final : public BatchDestination {
 public:
  PyDestination(std::shared_ptr<HeldObjects> held, std::size_t num_fields, std::int64_t batch_rows)
      : held_(std::move(held)), batch_rows_(batch_rows), lent_(num_fields) {
    ahead_ = held_->destination.attr("ahead").cast<std::int64_t>();
    refill_ = held_->destination.attr("refill").cast<std::int64_t>();
  }

  [[nodiscard]] std::int64_t ahead() const override { return ahead_; }
  [[nodiscard]] std::int64_t refill() const override { return refill_; }

  std::byte* lend(std::size_t field) override {
    return interruptible([&] {
      py::object tensor = held_->destination.attr("lend")(field);
      auto* const memory = reinterpret_cast<std::byte*>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
      if (!lent_[field].emplace(memory, std::move(tensor)).second)
        throw std::runtime_error("pinned memory was lent twice: a tensor of torch's default device?");
      return memory;
    });
  }

  /// Return the tensors of a batch and release their memory from the pool.
  py::list tensors(FilledBatch batch) {
    py::list list(batch.blocks.size());
    for (std::size_t f = 0; f < batch.blocks.size(); ++f) {
      py::object tensor = std::move(lent_[f].extract(batch.blocks[f].release()).mapped());
      list[f] = batch.num_rows == batch_rows_ ? tensor : tensor.attr("narrow")(0, 0, batch.num_rows);
    }
    return list;
  }

  bool send(std::vector<FilledBatch>& batches, bool must) override {
    return interruptible([&] {
      py::list lists;
      for (FilledBatch& batch : batches) lists.append(tensors(std::move(batch)));
      try {
        for (const py::handle sent : py::list(held_->destination.attr("send")(lists)))
          sent_.push_back(py::reinterpret_borrow<py::object>(sent));
      } catch (py::error_already_set& error) {
        if (must || !error.matches(PyExc_RuntimeError)) throw;  // includes torch.OutOfMemoryError
        return false;
      }
      return true;
    });
  }
  void handed_over() noexcept override { sent_.pop_front(); }
  void drop() noexcept override { sent_.clear(); }
  /// Drop all lent memory.
  void close() {
    sent_.clear();
    for (auto& of_field : lent_) of_field.clear();
  }

  /// Return the arrays of the next batch.
  py::list receive() { return held_->destination.attr("receive")(sent_.front()); }

 private:
  const std::shared_ptr<HeldObjects> held_;
  const std::int64_t batch_rows_;
  std::int64_t ahead_ = 0, refill_ = 0;
  std::vector<std::map<std::byte*, py::object>> lent_;  // per field: tensors by their memory
  std::deque<py::object> sent_;                         // batches in flight to the device, from the next one on
};

bool Watched::has_moved() const {
  if (py::isinstance<py::array>(array))
    return reinterpret_cast<std::uintptr_t>(py::reinterpret_borrow<py::array>(array).data()) != address;
  return array().cast<std::uintptr_t>() != address;
}

void PySource::start_reading() {
  interruptible([&] { sums_.attr("start_reading")(); });
}

LossSums PySource::read() {
  return interruptible([&] { return to_sums(sums_.attr("read")().attr("words").cast<Array<std::int64_t>>()); });
}

bool PySource::all_finite() {
  return interruptible([&] { return sums_.attr("not_finite").cast<std::int64_t>() == 0; });
}

PyLoader::PyLoader(std::shared_ptr<HeldObjects> held, std::vector<Watched> watched, std::vector<Output> outputs,
                   std::vector<std::string> include, LoaderOptions options)
    : held_(std::move(held)),
      watched_(std::move(watched)),
      outputs_(std::move(outputs)),
      include_(std::move(include)),
      core_([&] {
        if (!held_->destination.is_none()) {
          destination_ = std::make_shared<PyDestination>(held_, outputs_.size(), options.batch_size);
          options.destination = destination_;
        }
        options.check = [this] {
          check_memory();
          interruptible([&] { held_->check(); });
        };
        return std::move(options);
      }()) {}

/// Check that the memory of the fields has not moved. If it has, drop the prefetched batches, which may be wrong.
void PyLoader::check_memory() {
  for (const Watched& one : watched_) {
    if (!one.has_moved()) continue;
    core_.suspend();
    arrays_ = py::list();
    throw std::runtime_error(
        "the memory of " + one.name +
        " has moved since the loader was made, as share_memory_(), a torch DataLoader with spawned workers on the same "
        "tensors, resize_(), set_(), an assignment to .data or Module.to() do: make a new Loader and load this one's "
        "state_dict()");
  }
}

/// Wait for the next batch, checking for signals.
void PyLoader::wait() {
  using namespace std::chrono_literals;
  while (!core_.wait(0ms)) {  // usually ready, so that the GIL is not released
    {
      const ReleasedGil released;
      core_.wait(50ms);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

py::object PyLoader::next(const Iteration& iteration) {
  const Guarded guarded(guard_);
  if (!core_.prepare(iteration)) return {};
  if (std::exchange(epochs_begun_, core_.epochs_begun()) != core_.epochs_begun()) arrays_ = py::list();
  check_memory();
  wait();
  if (arrays_.empty()) arrays_ = take_arrays();
  py::object batch = held_->build(arrays_);
  arrays_ = py::list();
  core_.commit();
  return batch;
}

/// Return the arrays of the next batch and its extra entries.
py::list PyLoader::take_arrays() {
  std::optional<FilledBatch> batch = core_.take();
  for (; !batch; batch = core_.take()) wait();
  py::list arrays;
  try {
    if (batch->blocks.empty() && destination_) {
      arrays = destination_->receive();
    } else if (destination_) {
      arrays = destination_->tensors(std::move(*batch));
    } else {
      arrays = py::list(batch->blocks.size());
      for (std::size_t f = 0; f < batch->blocks.size(); ++f)
        arrays[f] = to_python(std::move(batch->blocks[f]), f, batch->num_rows);
    }
    for (const std::string& name : include_) arrays.append(included(name));
  } catch (...) {
    core_.retry();
    throw;
  }
  return arrays;
}

py::object PyLoader::included(const std::string& name) {
  if (name == "step") return py::int_(core_.total_step());
  const auto rows = [](const PlannedRow& planned) { return planned.row; };
  const auto classes = [](const PlannedRow& planned) { return planned.class_id; };
  const py::array array =
      name == "rows" ? to_array<std::int64_t>(core_.due(), rows) : to_array<std::int64_t>(core_.due(), classes);
  return held_->from_numpy.is_none() ? py::object(array) : held_->from_numpy(array);
}

py::object PyLoader::to_python(Block block, std::size_t field, std::int64_t rows) const {
  const Output& output = outputs_[field];
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), output.row_shape.begin(), output.row_shape.end());
  if (output.dtype.is_none()) return held_->from_dlpack(to_dlpack(std::move(block), output.dl_type, std::move(shape)));
  const void* const data = block.data();
  const py::capsule base(new Block(std::move(block)), [](void* self) { delete static_cast<Block*>(self); });
  return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), std::move(shape), {}, data, base);
}

void PyLoader::record(const py::array& losses, const std::optional<py::array>& classes,
                      std::optional<std::uint64_t> step) {
  const Guarded guarded(guard_);
  core_.check_usable();
  const std::int64_t skipped = with_floats("losses", losses, [&](auto values) {
    const auto add = [&](auto ids) {
      LossSums& sums = core_.slot(step).host;
      constexpr std::size_t kInlineLosses = 1 << 15;  // not worth releasing the GIL
      if (values.size() < kInlineLosses) return class_loss(values, ids, sums.sum, sums.count, 1);
      const ReleasedGil released;
      return class_loss(values, ids, sums.sum, sums.count, core_.num_threads());
    };
    return classes ? with_integers("classes", *classes, add) : add(core_.classes_of(step, values.size()));
  });
  core_.recorded(step, skipped == 0);
}

void PyLoader::load(std::vector<LoaderState> states) {
  core_.load(std::move(states));
  arrays_ = py::list();
}

void PyLoader::close() {
  const py::scoped_critical_section critical_section(guard_.object());
  if (guard_.defer([this] { close(); })) return;
  const Entered entered(guard_);
  {
    const ReleasedGil released;
    core_.close();
  }
  arrays_ = py::list();
  if (destination_) destination_->close();
}

}  // namespace l2m::bindings
