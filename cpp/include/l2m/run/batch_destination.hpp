#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "l2m/run/block_pool.hpp"

namespace l2m {

/// The memory of a batch, one block for each field, of which the first `num_rows` rows are filled.
struct FilledBatch {
  std::vector<Block> blocks;
  std::int64_t num_rows = 0;
};

/// Where batches go, if not to memory of the process: pinned memory, or a device that they are sent to ahead of time.
class BatchDestination {
 public:
  virtual ~BatchDestination() = default;

  /// Memory with room for a full batch of a field, to be taken over with the batch that is filled in it.
  virtual std::byte* lend(std::size_t field) = 0;

  /// Batches on their way at most, that which is handed over included. 0: nothing is sent.
  [[nodiscard]] virtual std::int64_t ahead() const { return 0; }
  /// More are sent where fewer than this are on their way.
  [[nodiscard]] virtual std::int64_t refill() const { return 0; }
  /// Begins to send batches, all or none. Returns false where there is no room for them now.
  /// @param must  nothing is on its way: without room, this throws.
  virtual bool send(std::vector<FilledBatch>& /*batches*/, bool /*must*/) { return true; }
  /// The first of the batches that were sent has been handed over.
  virtual void handed_over() noexcept {}
  /// Forgets batches that are on their way.
  virtual void drop() noexcept {}
};

}  // namespace l2m
