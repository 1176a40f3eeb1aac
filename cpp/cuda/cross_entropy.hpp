#pragma once

#include <cstdint>

#include "class_loss.hpp"
#include "types.hpp"

namespace l2m::cuda {

/// Targets, weights and offsets of a cross entropy, as l2m::Targets. A target that is neither in [0, C) nor ignore_index
/// cannot be refused on the device: the loss of its row is NaN, and so are the gradient of the row and the mean.
struct Targets {
  const std::int64_t* targets;      ///< [n] column of each row's target
  std::int64_t size;                ///< n < 2^29
  std::int64_t num_columns;         ///< C in [1, 2^30)
  const double* weight;             ///< [C] weight of a target; nullptr: all 1
  std::int64_t ignore_index;        ///< rows with this target have no loss
  double label_smoothing;           ///< in [0, 1]
  const double* offsets = nullptr;  ///< [C] added to the logits of each row; nullptr: all 0
};

/// Maximum number of blocks per launch.
inline constexpr int kMaxBlocks = 2048;

/// Partial sums per block.
inline constexpr int kPartials = 3;

/// Outputs of a cross entropy.
struct Losses {
  double* log_sum_exp;   ///< [n] out: log-sum-exp of the logits of each row, for the gradient; 0 for ignored rows
  double* losses;        ///< [n] out: loss of each row, including weight and smoothing; 0 for ignored rows
  void* mean;            ///< out: sum of losses / total_weight; NaN if every row is ignored
  FloatType mean_type;   ///< that of the logits, or float for narrower ones
  double* total_weight;  ///< out: sum of the weights of the targets in [0, C); NaN instead of 0 with smoothing
  std::int64_t* invalid_targets;  ///< out: number of targets out of range
  double* partials;               ///< [kPartials * kMaxBlocks] scratch
};

/// Compute the cross entropy of logits, its mean, and its sum and count per class: l2m::cross_entropy() on a device.
///
/// Two launches; if there are more than 4096 classes, two of memset before. The first reads the logits once and 8 bytes
/// * n of targets, and writes 16 bytes * n. The second reads 8 bytes * n of losses, the targets and the classes. With weights and
/// smoothing, each row reads 8 bytes * C more, from the cache. Exponentials and sums over a row are computed in float
/// (double for double logits), sums over rows in double.
/// Determinism: run_to_run; gpu_to_gpu where exp() and log() agree. The order of additions depends on n, C, the type,
/// and the alignment of the logits to 16 bytes.
/// @param logits   [n, C] row-major, aligned to their size; faster the more of them is aligned to 16 bytes.
/// @param classes  [n] class of each loss, arbitrary for ignored rows; `targets` and `ignored` are not used.
/// @param totals   out; a row whose target is out of range counts as a non-finite loss.
/// @throws std::runtime_error  a launch failed.
void cross_entropy(FloatType type, const void* logits, const Targets& targets, const Losses& losses,
                   const ClassIds& classes, const ClassTotals& totals, Stream stream);

/// Compute the gradient with respect to the logits: l2m::cross_entropy_gradient() on a device.
///
/// One launch, which reads the logits and 16 bytes * n once and writes the gradient once. It reads no logits of ignored
/// rows. Determinism: as cross_entropy().
/// @param logits, targets            inputs of cross_entropy().
/// @param log_sum_exp, total_weight  outputs of cross_entropy().
/// @param of_loss, of_loss_type      gradient with respect to the mean loss, one value.
/// @param gradient                   [n, C] out; 0 for ignored rows. Fastest if aligned like the logits.
/// @throws std::runtime_error  the launch failed.
void cross_entropy_gradient(FloatType type, const void* logits, const Targets& targets, const double* log_sum_exp,
                            const double* total_weight, const void* of_loss, FloatType of_loss_type, void* gradient,
                            Stream stream);

}  // namespace l2m::cuda
