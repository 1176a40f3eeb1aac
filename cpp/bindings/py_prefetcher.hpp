#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "convert.hpp"
#include "dlpack.hpp"
#include "l2m/run/prefetcher.hpp"

namespace l2m::bindings {

/// How the rows of a field look to Python; `dtype` is None where batches leave by way of DLPack.
struct Output {
  py::object dtype;
  DLDataType dl_type;
  std::vector<std::int64_t> row_shape;
};

/// Where batches go, if not to pageable memory.
struct Destination {
  py::object lend;      ///< None, or lend(f): a tensor that has room for a batch of field f; it becomes one
  py::object transfer;  ///< None, or what takes batches to a device, see data/device.py
  std::int64_t ahead;   ///< batches on their way to the device at most, that which is handed over included
  std::int64_t refill;  ///< more are sent where fewer than this are on their way
};

/// An array whose memory the fields are in, to notice that it has moved.
struct Watched {
  std::string name;
  py::object array;  ///< a numpy array, or what tells the address: the data_ptr() of a tensor
  std::uintptr_t address;

  [[nodiscard]] bool has_moved() const;
};

/// A prefetcher whose batches are Python objects, handed over so that Ctrl-C loses none.
class PyPrefetcher {
 public:
  /// @param owner  keeps the memory of the fields in place.
  PyPrefetcher(py::object owner, std::vector<Watched> watched, std::vector<Output> outputs, py::object from_dlpack,
               Destination destination, const Array<double>& proportions, PipelineSettings settings);

  ~PyPrefetcher() { close(); }  // without the GIL, for which a batch's death on another thread may wait
  PyPrefetcher(const PyPrefetcher&) = delete;
  PyPrefetcher& operator=(const PyPrefetcher&) = delete;

  /// The next batch, built of its arrays. Whatever is raised on the way, Ctrl-C too, leaves it to be next again.
  py::object next(const py::object& build);
  /// Consumes the next batch, of which this rank has no row.
  void skip();

  void begin(const EpochRange& range, std::uint64_t plan_until);
  void set_state(const py::dict& state);

  void close();

  /// Lets an iteration go on without asking, up to the batch of total_step `until`.
  void run(std::uint64_t iteration, std::uint64_t until) { run_ = {iteration, until}; }
  [[nodiscard]] bool may_run(std::uint64_t iteration) const {
    return run_.iteration == iteration && core_.total_step() < run_.until;
  }

  Prefetcher& core() { return core_; }

 private:
  struct Run {
    std::uint64_t iteration = 0;
    std::uint64_t until = 0;
  };
  void check_memory();
  void wait();
  py::list take_arrays(std::int64_t ahead);
  void lend_memory(std::size_t blocks);
  py::object to_python(Block block, std::size_t field, std::int64_t rows);
  void send_ahead();

  const py::object owner_;  // goes after close(), which waits for threads that read the fields
  const std::vector<Watched> watched_;
  const std::vector<Output> outputs_;
  const py::object from_dlpack_;
  const Destination destination_;
  std::vector<std::shared_ptr<BlockPool>> pools_;       // of lent memory, one a field
  std::vector<std::map<std::byte*, py::object>> lent_;  // one a field: tensors by their memory
  const std::int64_t most_rows_;                        // of a batch of this rank
  std::size_t slots_;                                   // batches of lent memory that the pipeline needs
  bool cautious_ = false;                               // the device had no room for several batches
  std::deque<py::object> sent_;                         // from the next batch on, on their way to the device
  py::list arrays_;                                     // of a batch that is not consumed yet
  Run run_;
  Prefetcher core_;
};

}  // namespace l2m::bindings
