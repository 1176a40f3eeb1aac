#include "l2m/mixing/fixed.hpp"

#include <algorithm>

#include "l2m/base/hash.hpp"
#include "l2m/base/math.hpp"
#include "l2m/base/text.hpp"
#include "l2m/mixing/proportions.hpp"

namespace l2m {
namespace {

/// Return the shares of classes, where amount_of(rows) is the amount of a class. Empty classes have none.
template <class F>
std::vector<double> shares_of(std::span<const std::int64_t> class_sizes, F&& amount_of) {
  std::vector<double> amounts;
  for (const std::int64_t size : class_sizes) amounts.push_back(size > 0 ? amount_of(static_cast<double>(size)) : 0);
  divide_by_sum(amounts);
  return amounts;
}

}  // namespace

std::vector<double> Proportional::initial(std::span<const std::int64_t> class_sizes) const {
  return shares_of(class_sizes, [](double n) { return n; });
}

std::vector<double> Balanced::initial(std::span<const std::int64_t> class_sizes) const {
  return shares_of(class_sizes, [](double /*n*/) { return 1.0; });
}

/// Shares are listed, or represented by a hash if they are many.
std::string Static::describe() const {
  constexpr std::size_t kMaxListed = 16;
  if (p_.size() > kMaxListed) {
    Hash hash;
    for (const double share : p_) hash.add(share);
    return "Static(p=" + std::to_string(p_.size()) + " shares with hash " + to_hex(hash.value()) + ")";
  }
  std::string shares;
  for (const double share : p_) shares += (shares.empty() ? "" : ", ") + to_text(share);
  return "Static(p=[" + shares + "])";
}

std::string Temperature::describe() const { return "Temperature(t=" + to_text(t_) + ")"; }

std::vector<double> Temperature::initial(std::span<const std::int64_t> class_sizes) const {
  const auto largest = static_cast<double>(std::ranges::max(class_sizes));
  return shares_of(class_sizes, [&](double n) { return pow(n / largest, 1 / t_); });
}

std::string EffectiveNumber::describe() const { return "EffectiveNumber(beta=" + to_text(beta_) + ")"; }

std::vector<double> EffectiveNumber::initial(std::span<const std::int64_t> class_sizes) const {
  if (beta_ == 0) return Proportional().initial(class_sizes);
  const double log_beta = log(beta_);
  // (1 - beta^n) / (1 - beta), without cancellation for beta near 1.
  return shares_of(class_sizes, [&](double n) { return n / (expm1(n * log_beta) / (beta_ - 1)); });
}

}  // namespace l2m
