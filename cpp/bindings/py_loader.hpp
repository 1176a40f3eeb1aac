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

/// What of Python's a loader calls, and what keeps memory in place. One home, so that garbage collection sees all of it.
struct Held {
  py::object owner;        ///< of the memory of the fields
  py::object build;        ///< build(arrays): a batch
  py::object from_dlpack;  ///< makes a tensor of a DLPack capsule; None: batches are numpy arrays
  py::object from_numpy;   ///< makes a tensor of a numpy array; None likewise
  py::object policy;       ///< that is written in Python, or None
  py::object all_reduce;   ///< all_reduce(sums): the sums of all ranks; None: there is nothing to sum
  py::object draw_seed;    ///< draw_seed(): an int
  py::object warn;         ///< warn(message)
  py::object check;        ///< check(): of the data, before an epoch
  py::object observe;      ///< observe(epoch, total_step, proportions, class_losses, counts)
  py::object destination;  ///< where batches go, see data/device.py; None: memory of the process

  template <class F>
  void visit(F&& f) {
    for (py::object* object : {&owner, &build, &from_dlpack, &from_numpy, &policy, &all_reduce, &draw_seed, &warn,
                               &check, &observe, &destination})
      f(*object);
  }
};

/// How the rows of a field look to Python; `dtype` is None where batches leave by way of DLPack.
struct Output {
  py::object dtype;
  DLDataType dl_type;
  std::vector<std::int64_t> row_shape;
};

/// An array whose memory the fields are in, to notice that it has moved.
struct Watched {
  std::string name;
  py::object array;  ///< a numpy array, or what tells the address: the data_ptr() of a tensor
  std::uintptr_t address;

  [[nodiscard]] bool has_moved() const;
};

class PyDestination;

/// A loader whose batches are Python objects, handed over so that Ctrl-C loses none.
class PyLoader {
 public:
  /// @param include  what a batch has besides its fields: "rows", "classes", "step", handed to build() after the arrays.
  PyLoader(std::shared_ptr<Held> held, std::vector<Watched> watched, std::vector<Output> outputs,
           std::vector<std::string> include, LoaderOptions options);
  ~PyLoader() { close(); }
  PyLoader(const PyLoader&) = delete;
  PyLoader& operator=(const PyLoader&) = delete;

  /// The next batch. Whatever is raised on the way, Ctrl-C too, leaves it to be next again. Null: the epoch has ended.
  py::object next(const Iteration& iteration);
  void record(const py::array& losses, const std::optional<py::array>& classes, std::optional<std::uint64_t> step);

  void load(LoaderState state);
  /// While a call is inside, of whatever thread, it takes effect when that call ends.
  void close();

  Loader& core() { return core_; }
  Guard& guard() { return guard_; }
  /// Calls f(object) with what it holds that may lead back to it.
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

  const std::shared_ptr<Held> held_;  // goes after close(), which waits for threads that read the fields
  std::vector<Watched> watched_;
  const std::vector<Output> outputs_;
  const std::vector<std::string> include_;
  std::shared_ptr<PyDestination> destination_;
  py::list arrays_;                 // of a batch that is not consumed yet
  std::uint64_t epochs_begun_ = 0;  // when they were taken
  Guard guard_;
  Loader core_;
};

/// Losses that are summed on a device, see losses/device.py.
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
