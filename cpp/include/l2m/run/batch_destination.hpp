#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "l2m/run/block_pool.hpp"

namespace l2m {

/// Memory of a batch: one block per field, with the first `num_rows` rows filled.
struct FilledBatch {
  std::vector<Block> blocks;
  std::int64_t num_rows = 0;
};

/// Destination of batches other than host memory: pinned memory, or a device to which they are sent ahead of time.
class BatchDestination {
 public:
  virtual ~BatchDestination() = default;

  /// Lend memory for a full batch of a field. The destination gets it back with the batch.
  virtual std::byte* lend(std::size_t field) = 0;

  /// Return the maximum number of batches in flight, including the one being handed over. 0: batches are not sent.
  [[nodiscard]] virtual std::int64_t ahead() const { return 0; }
  /// Return the number of batches in flight below which more are sent.
  [[nodiscard]] virtual std::int64_t refill() const { return 0; }
  /// Start sending batches, all or none. Return false if there is no memory for them now.
  /// @param must  throw instead of returning false; set if no batch is in flight.
  virtual bool send(std::vector<FilledBatch>& /*batches*/, bool /*must*/) { return true; }
  /// Note that the first batch in flight has been handed over.
  virtual void handed_over() noexcept {}
  /// Drop the batches in flight.
  virtual void drop() noexcept {}
};

}  // namespace l2m
