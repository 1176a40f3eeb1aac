#pragma once

#include <cstdint>
#include <span>

#include "l2m/base/float_types.hpp"

namespace l2m {

/// What makes losses of logits.
struct Targets {
  std::span<const std::int64_t> targets;  ///< [n] column of each row's target, in [0, C) or ignore_index
  std::int64_t num_columns;               ///< C, at least 1
  std::span<const double> weight;         ///< [C] weight of a target; empty: all 1
  std::int64_t ignore_index;              ///< a row with this target has no loss
  double label_smoothing;                 ///< in [0, 1]: the part of the target that is spread over all columns
};

struct MeanLoss {
  double loss;          ///< sum of losses / total_weight: NaN where every row is ignored
  double total_weight;  ///< sum of the weights of the targets that are not ignored; NaN rather than 0 with smoothing
};

/// Cross entropy of logits, its mean, and its sum and count per class, in one pass over the logits.
///
/// With t the target of row i, s the label smoothing, w the weights and lp the logarithm of the row's softmax, the loss
/// of the row is -(1 - s) w[t] lp[t] - s / C sum_c(w[c] lp[c]). Without smoothing only the weights of targets are used.
/// With smoothing, a weight that is not finite makes the loss of every row infinite or NaN, and a total weight of 0 makes
/// the mean and its gradient NaN, as in torch.
///
/// @param logits       [n * C] Float16, BFloat16, float or double, row after row.
/// @param classes      [n] class of each loss, in [0, K); of an ignored row it is not looked at.
/// @param log_sum_exp  [n] out: of each row's logits, for the gradient; 0 where the row is ignored.
/// @param sum          [K] accumulated.   @param count  [K] accumulated; both as class_loss() does.
/// @throws std::invalid_argument  lengths do not fit, or a target or class is out of range; sum and count are as before.
/// Exponentials are computed in float, in double for double logits; what is summed over rows is double.
/// Determinism: the same bits for any number of threads. Memory: 16 bytes * n, and 4 or 8 bytes * C for each thread.
template <class Logit>
MeanLoss cross_entropy(const Targets& targets, std::span<const Logit> logits, std::span<const std::int64_t> classes,
                       std::span<double> log_sum_exp, std::span<double> sum, std::span<std::int64_t> count,
                       int num_threads);

/// Gradient of the mean loss by the logits, times total_weight * scale; 0 in rows that are ignored.
///
/// @param logits, log_sum_exp  as they went into and came out of cross_entropy() with the same targets.
/// @param scale                gradient of what follows by the mean loss, / total_weight.
/// @param gradient             [n * C] out, each number rounded once.
/// @throws std::invalid_argument  lengths do not fit or a target is out of range; nothing was written.
/// Determinism: the same bits for any number of threads.
template <class Logit>
void cross_entropy_gradient(const Targets& targets, std::span<const Logit> logits, std::span<const double> log_sum_exp,
                            double scale, std::span<Logit> gradient, int num_threads);

}  // namespace l2m
