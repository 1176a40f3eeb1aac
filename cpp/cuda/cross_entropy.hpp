#pragma once

#include <cstdint>

#include "class_loss.hpp"
#include "types.hpp"

namespace l2m::cuda {

/// What makes losses of logits, as l2m::Targets; on the device it cannot be refused that a target is neither in [0, C) nor
/// ignore_index. The loss of such a row is NaN, and so are its gradient and the mean.
struct Targets {
  const std::int64_t* targets;  ///< [n] column of each row's target
  std::int64_t size;            ///< n < 2^29
  std::int64_t num_columns;     ///< C in [1, 2^30)
  const double* weight;         ///< [C] weight of a target; nullptr: all 1
  std::int64_t ignore_index;    ///< a row with this target has no loss
  double label_smoothing;       ///< in [0, 1]
};

/// Most blocks of a launch.
inline constexpr int kMostBlocks = 2048;

/// Where the losses go.
struct Losses {
  double* log_sum_exp;     ///< [n] out: of each row's logits, for the gradient; 0 where the row is ignored
  double* losses;          ///< [n] out: of each row, weight and smoothing included; 0 where the row is ignored
  void* mean;              ///< out, of the logits' type: sum of losses / total_weight, NaN where every row is ignored
  double* total_weight;    ///< out: sum of the weights of the targets in [0, C); NaN rather than 0 with smoothing
  std::int64_t* counters;  ///< [2] added to: targets out of range; the second is zero before and after
  double* partials;        ///< [2 * kMostBlocks] for use meanwhile
};

/// Cross entropy of logits, its mean, and its sum and count per class: l2m::cross_entropy() on a device. Two launches, one
/// more where add_class_loss() has one more.
///
/// The first reads the logits once, besides them 8 bytes * n of targets, and writes 16 bytes * n; the second reads these
/// 8 bytes * n of losses, the targets and the classes. With weights and smoothing, 8 bytes * C are read again for each row,
/// out of the cache. Exponentials are computed in float, in double for double logits, and so are sums over a row; those over
/// rows in double. In which order depends on n, C, the type and the logits' alignment to 16 bytes, not on the device: the
/// same bits run to run, and gpu to gpu where exp() and log() are the same.
/// @param logits   [n, C] row after row, aligned as one of them; the more of it is aligned to 16 bytes, the faster.
/// @param classes  [n] class of each loss; `targets` and `ignored` are not looked at. Of an ignored row it may be anything.
/// @param totals   added to as add_class_loss() does; a row whose target is out of range counts as a loss not finite.
/// @throws std::runtime_error  a launch failed.
void cross_entropy(FloatType type, const void* logits, const Targets& targets, const Losses& losses,
                   const ClassIds& classes, const ClassTotals& totals, Stream stream);

/// Gradient of what follows the mean loss by the logits: l2m::cross_entropy_gradient() on a device. One launch, which reads
/// the logits once, 16 bytes * n besides, and writes the gradient once; of ignored rows it reads no logits.
///
/// @param logits, targets            as they went into cross_entropy().
/// @param log_sum_exp, total_weight  as they came out of it.
/// @param of_loss                    gradient of what follows by the mean, one number of the logits' type.
/// @param gradient                   [n, C] out; 0 in rows that are ignored. Aligned as the logits are, it is faster.
/// @throws std::runtime_error  the launch failed.
/// Determinism: as cross_entropy().
void cross_entropy_gradient(FloatType type, const void* logits, const Targets& targets, const double* log_sum_exp,
                            const double* total_weight, const void* of_loss, void* gradient, Stream stream);

}  // namespace l2m::cuda
