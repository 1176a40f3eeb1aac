#include "py_prefetcher.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "released_gil.hpp"
#include "sampler_state.hpp"

namespace l2m::bindings {

bool Watched::has_moved() const {
  if (py::isinstance<py::array>(array))
    return reinterpret_cast<std::uintptr_t>(py::reinterpret_borrow<py::array>(array).data()) != address;
  return array().cast<std::uintptr_t>() != address;
}

PyPrefetcher::PyPrefetcher(py::object owner, std::vector<Watched> watched, std::vector<Output> outputs,
                           py::object from_dlpack, Destination destination, const Array<double>& proportions,
                           PipelineSettings settings)
    : owner_(std::move(owner)),
      watched_(std::move(watched)),
      outputs_(std::move(outputs)),
      from_dlpack_(std::move(from_dlpack)),
      destination_(std::move(destination)),
      most_rows_(settings.sampler.global_batch / settings.sampler.world_size),
      slots_(static_cast<std::size_t>(std::max(settings.prefetch, 1))),
      core_(
          [&] {
            if (!destination_.lend.is_none()) {
              for (std::size_t f = 0; f < outputs_.size(); ++f) pools_.push_back(std::make_shared<BlockPool>());
              lent_.resize(outputs_.size());
              lend_memory(slots_);
              settings.pools = pools_;
            }
            return std::move(settings);
          }(),
          to_vector(proportions)) {}

/// Sees to it that so many blocks of each field are lent.
void PyPrefetcher::lend_memory(std::size_t blocks) {
  for (std::size_t f = 0; f < lent_.size(); ++f) {
    while (lent_[f].size() < blocks) {
      py::object tensor = destination_.lend(f);
      auto* const memory = reinterpret_cast<std::byte*>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
      if (!lent_[f].emplace(memory, std::move(tensor)).second)
        throw std::runtime_error("pinned memory was lent twice: a tensor of torch's default device?");
      pools_[f]->lend(memory);
    }
  }
}

py::object PyPrefetcher::to_python(Block block, std::size_t field, std::int64_t rows) {
  const Output& output = outputs_[field];
  if (!lent_.empty()) {
    py::object tensor = std::move(lent_[field].extract(block.release()).mapped());
    return rows == most_rows_ ? tensor : tensor.attr("narrow")(0, 0, rows);
  }
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), output.row_shape.begin(), output.row_shape.end());
  if (output.dtype.is_none()) return from_dlpack_(to_dlpack(std::move(block), output.dl_type, std::move(shape)));
  const void* const data = block.data();
  const py::capsule base(new Block(std::move(block)), [](void* self) { delete static_cast<Block*>(self); });
  return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), std::move(shape), {}, data, base);
}

/// Notices memory that has moved, of which the batches that lie ready may be wrong.
void PyPrefetcher::check_memory() {
  for (const Watched& one : watched_) {
    if (!one.has_moved()) continue;
    core_.suspend();
    arrays_ = py::list();
    sent_.clear();
    throw std::runtime_error(
        "the memory of " + one.name +
        " has moved since the loader was made, as share_memory_(), a torch DataLoader with spawned workers on the same "
        "tensors, resize_(), set_(), an assignment to .data or Module.to() do: make a new Loader and load this one's "
        "state_dict()");
  }
}

/// Waits for the next batch, and for Ctrl-C.
void PyPrefetcher::wait() {
  using namespace std::chrono_literals;
  while (!core_.wait(0ms)) {  // most often the batch is there: then the GIL need not be given up
    {
      const ReleasedGil released;
      core_.wait(50ms);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

void PyPrefetcher::skip() {
  wait();
  core_.commit();
}

py::object PyPrefetcher::next(const py::object& build) {
  check_memory();
  wait();
  if (arrays_.empty()) {
    if (destination_.transfer.is_none()) {
      arrays_ = take_arrays(0);
    } else {
      send_ahead();
      arrays_ = destination_.transfer.attr("receive")(sent_.front());
    }
  }
  py::object batch = build(arrays_);
  arrays_ = py::list();
  if (!sent_.empty()) sent_.pop_front();
  core_.commit();
  return batch;
}

/// Sends what is ready to the device: at least the next batch, and some together. Where there is no room for those after it,
/// they are sent later.
void PyPrefetcher::send_ahead() {
  auto ahead = static_cast<std::int64_t>(sent_.size());
  if (ahead >= destination_.refill) return;
  const std::int64_t most = cautious_ ? ahead + 1 : destination_.ahead;
  try {
    py::list batches;
    for (; ahead == 0 || (ahead < most && core_.ready(ahead)); ++ahead) batches.append(take_arrays(ahead));
    if (batches.empty()) return;
    for (const py::handle sent : py::list(destination_.transfer.attr("send")(batches)))
      sent_.push_back(py::reinterpret_borrow<py::object>(sent));
  } catch (py::error_already_set& error) {
    core_.retry();
    if (!error.matches(PyExc_RuntimeError)) throw;
    cautious_ = true;
    if (sent_.empty()) throw;
    wait();  // for what was begun anew
  }
}

py::list PyPrefetcher::take_arrays(std::int64_t ahead) {
  lend_memory(slots_ + 1);
  const std::int64_t rows = core_.num_rows(ahead);
  std::vector<Block> blocks = core_.take_blocks(ahead);
  py::list arrays(blocks.size());
  try {
    for (std::size_t f = 0; f < blocks.size(); ++f) arrays[f] = to_python(std::move(blocks[f]), f, rows);
  } catch (...) {
    core_.retry();
    throw;
  }
  return arrays;
}

void PyPrefetcher::begin(const EpochRange& range, std::uint64_t plan_until) {
  check_memory();
  (void)core_.state();  // settled while nobody can look at it
  arrays_ = py::list();
  sent_.clear();
  run_ = {};
  const ReleasedGil released;
  core_.begin(range, plan_until);
}

void PyPrefetcher::set_state(const py::dict& state) {
  SamplerState restored = dict_to_state(state);
  {
    const ReleasedGil released;
    core_.set_state(std::move(restored));
  }
  arrays_ = py::list();
  sent_.clear();
  run_ = {};
}

void PyPrefetcher::close() {
  run_ = {};
  {
    const ReleasedGil released;
    core_.close();
  }
  sent_.clear();
  lent_.clear();
}

}  // namespace l2m::bindings
