#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/exact_sums.hpp"
#include "l2m/base/float_types.hpp"

namespace l2m {

/// Targets, weights and offsets of a cross entropy.
struct Targets {
  std::span<const std::int64_t> targets;  ///< [n] column of each row's target, in [0, C) or ignore_index
  std::int64_t num_columns;               ///< C, at least 1
  std::span<const double> weight;         ///< [C] weight of a target; empty: all 1
  std::int64_t ignore_index;              ///< rows with this target have no loss
  double label_smoothing;                 ///< in [0, 1]: part of the target that is spread over all columns
  std::span<const double> offsets = {};   ///< [C] finite as floats, added to the logits of each row; empty: all 0
};

struct MeanLoss {
  double loss;          ///< sum of losses / total_weight; NaN if every row is ignored
  double total_weight;  ///< sum of the weights of targets that are not ignored; NaN instead of 0 with smoothing
};

/// Compute the cross entropy of logits, its mean, and its sum and count per class, in one pass over the logits.
///
/// Let t be the target of row i, s the label smoothing, w the weights and lp the log-softmax of the row plus offsets. The loss of
/// the row is -(1 - s) w[t] lp[t] - s / C sum_c(w[c] lp[c]). Without smoothing, only the weights of targets are used.
/// With smoothing, a non-finite weight makes every loss infinite or NaN, and a total weight of 0 makes the mean and its
/// gradient NaN, as in torch.
///
/// @param logits       [n * C] Float16, BFloat16, float or double, row-major.
/// @param classes      [n] class of each loss, in [0, K); not read for ignored rows.
/// @param log_sum_exp  [n] out: log-sum-exp of the logits plus offsets of each row, for the gradient; 0 for ignored rows.
/// @param sum          [K] added to.   @param count  [K] added to; both as in class_loss().
/// @throws std::invalid_argument  lengths do not match, or a target or class is out of range; nothing was added.
/// Exponentials are computed in float (double for double logits), sums over rows in double.
/// Determinism: the same bits for any number of threads. Memory: 16 bytes * n, and 4 or 8 bytes * C per thread.
template <class Logit>
MeanLoss cross_entropy(const Targets& targets, std::span<const Logit> logits, std::span<const std::int64_t> classes,
                       std::span<double> log_sum_exp, std::span<ExactSum> sum, std::span<std::int64_t> count,
                       int num_threads);

/// Compute the gradient of the mean loss with respect to the logits, times total_weight * scale; 0 for ignored rows.
///
/// @param logits, log_sum_exp  input and output of cross_entropy() with the same targets.
/// @param scale                gradient with respect to the mean loss, divided by total_weight.
/// @param gradient             [n * C] out, each value rounded once.
/// @throws std::invalid_argument  lengths do not match or a target is out of range; nothing was written.
/// Determinism: the same bits for any number of threads.
template <class Logit>
void cross_entropy_gradient(const Targets& targets, std::span<const Logit> logits, std::span<const double> log_sum_exp,
                            double scale, std::span<Logit> gradient, int num_threads);

}  // namespace l2m
