#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert.hpp"
#include "dlpack.hpp"
#include "guard.hpp"
#include "l2m/loader.hpp"

namespace l2m::bindings {

/// Python objects that a loader uses: owners of memory and callbacks. In one struct, so that garbage collection sees
/// them.
struct HeldObjects {
  py::object owner;             ///< keeps the memory of the fields alive
  py::object build;             ///< build(arrays) returns a batch
  py::object from_dlpack;       ///< returns a tensor for a DLPack capsule; None: batches are numpy arrays
  py::object from_numpy;        ///< returns a tensor for a numpy array; None: batches are numpy arrays
  py::object policy;            ///< policy written in Python, or None
  py::object all_reduce;        ///< all_reduce(sums) returns the sums of all ranks; None: nothing to reduce
  py::object start_all_reduce;  ///< start_all_reduce(number, sums), see LoaderOptions; None: all_reduce() starts
  py::object draw_seed;         ///< draw_seed() returns an int
  py::object warn;              ///< warn(message)
  py::object check;             ///< check() checks the data before an epoch
  py::object observe;           ///< observe(epoch, total_step, proportions, class_losses, counts)
  py::object destination;       ///< destination of batches, see data/device.py; None: host memory

  template <class F>
  void visit(F&& f) {
    for (py::object* object : {&owner, &build, &from_dlpack, &from_numpy, &policy, &all_reduce, &start_all_reduce,
                               &draw_seed, &warn, &check, &observe, &destination})
      f(*object);
  }
};

/// Type and shape of the rows of a field in Python. `dtype` is None if batches are exported through DLPack.
struct Output {
  py::object dtype;
  DLDataType dl_type;
  std::vector<std::int64_t> row_shape;
};

/// Array that contains fields, watched because its memory may move.
struct Watched {
  std::string name;
  py::object array;  ///< numpy array, or the data_ptr() method of a tensor
  std::uintptr_t address;

  [[nodiscard]] bool has_moved() const;
};

class PyDestination;

/// Loader whose batches are Python objects. No batch is lost on Ctrl-C.
class PyLoader {
 public:
  /// @param include  extra entries of a batch: "rows", "classes", "step"; passed to build() after the arrays.
  PyLoader(std::shared_ptr<HeldObjects> held, std::vector<Watched> watched, std::vector<Output> outputs,
           std::vector<std::string> include, LoaderOptions options);
  ~PyLoader() { close(); }
  PyLoader(const PyLoader&) = delete;
  PyLoader& operator=(const PyLoader&) = delete;

  /// Return the next batch, or null if the epoch has ended. If anything is raised, Ctrl-C included, the batch stays
  /// next.
  py::object next(const Iteration& iteration);
  void record(const py::array& losses, const std::optional<py::array>& classes, std::optional<std::uint64_t> step);

  void load(std::vector<LoaderState> states);
  /// Close the loader. During a call, of any thread, it takes effect when that call ends.
  void close();

  Loader& core() { return core_; }
  Guard& guard() { return guard_; }
  /// Call f(object) with each object that may refer back to the loader.
  template <class F>
  void visit(F&& f) {
    held_->visit(f);
    for (Watched& one : watched_) f(one.array);
  }

 private:
  void check_memory();
  void wait();
  py::list take_arrays();
  py::object included(const std::string& name);
  py::object to_python(Block block, std::size_t field, std::int64_t rows) const;

  const std::shared_ptr<HeldObjects> held_;  // destroyed after close(), which waits for threads that read the fields
  std::vector<Watched> watched_;
  const std::vector<Output> outputs_;
  const std::vector<std::string> include_;
  std::shared_ptr<PyDestination> destination_;
  py::list arrays_;                 // of a batch that is not consumed yet
  std::uint64_t epochs_begun_ = 0;  // when they were taken
  Guard guard_;
  Loader core_;
};

/// Losses summed on a device, see losses/device.py.
class PySource final : public LossSource {
 public:
  explicit PySource(py::object sums) : sums_(std::move(sums)) {}
  void start_reading() override;
  LossSums read() override;
  bool all_finite() override;
  [[nodiscard]] const py::object& sums() const { return sums_; }

 private:
  py::object sums_;
};

}  // namespace l2m::bindings
