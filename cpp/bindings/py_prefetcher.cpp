#include "py_prefetcher.hpp"

#include <chrono>

#include "released_gil.hpp"
#include "sampler_state.hpp"

namespace l2m::bindings {
namespace {

py::object to_python(Block block, const Output& output, std::int64_t rows, const py::object& from_dlpack) {
  std::vector<std::int64_t> shape{rows};
  shape.insert(shape.end(), output.row_shape.begin(), output.row_shape.end());
  if (output.dtype.is_none()) return from_dlpack(to_dlpack(std::move(block), output.dl_type, std::move(shape)));
  const void* const data = block.data();
  const py::capsule base(new Block(std::move(block)), [](void* self) { delete static_cast<Block*>(self); });
  return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), std::move(shape), {}, data, base);
}

}  // namespace

py::object PyPrefetcher::next(const py::object& build) {
  using namespace std::chrono_literals;
  while (!core_.wait(0ms)) {  // most often the batch is there: then the GIL need not be given up
    {
      const ReleasedGil released;
      core_.wait(50ms);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  if (arrays_.empty()) arrays_ = take_arrays();
  py::object batch = build(arrays_);
  arrays_ = py::list();
  core_.commit();
  return batch;
}

py::list PyPrefetcher::take_arrays() {
  const std::int64_t rows = core_.num_rows();
  std::vector<Block> blocks = core_.take_blocks();
  py::list arrays(blocks.size());
  try {
    for (std::size_t f = 0; f < blocks.size(); ++f)
      arrays[f] = to_python(std::move(blocks[f]), outputs_[f], rows, from_dlpack_);
  } catch (...) {
    core_.retry();
    throw;
  }
  return arrays;
}

void PyPrefetcher::begin(const EpochRange& range, std::uint64_t plan_until) {
  arrays_ = py::list();
  run_ = {};
  const ReleasedGil released;
  core_.begin(range, plan_until);
}

void PyPrefetcher::set_state(const py::dict& state) {
  core_.set_state(dict_to_state(state));
  arrays_ = py::list();
  run_ = {};
}

void PyPrefetcher::close() {
  run_ = {};
  const ReleasedGil released;
  core_.close();
}

}  // namespace l2m::bindings
