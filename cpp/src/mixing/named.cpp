#include "l2m/mixing/named.hpp"

#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "l2m/base/errors.hpp"
#include "l2m/mixing/annealed.hpp"
#include "l2m/mixing/fixed.hpp"
#include "l2m/mixing/group_dro.hpp"
#include "l2m/mixing/learn2mix.hpp"

namespace l2m {
namespace {

constexpr double kAboveZero = std::numeric_limits<double>::denorm_min();
constexpr double kBelowOne = 1 - 0x1p-53;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr const char* kZeroOrOne = "0 or 1";

/// Parameters of one policy, each of which must be taken.
class Parameters {
 public:
  Parameters(std::string_view policy, std::span<const PolicyParameter> given) : policy_(policy), given_(given) {}

  /// Return a parameter in [low, high].
  double take(std::string_view name, const char* allowed, double low, double high, std::optional<double> value = {}) {
    for (const PolicyParameter& parameter : given_)
      if (parameter.name == name) value = parameter.value;
    if (!value) refuse(name, " of ", policy_, " must be a number ", allowed, " (got nothing)");
    if (!(*value >= low && *value <= high) || (allowed == kZeroOrOne && *value > 0 && *value < 1))
      refuse(name, " of ", policy_, " must be ", allowed, " (got ", *value, ")");
    names_ += (names_.empty() ? "" : ", ") + std::string(name);
    return *value;
  }
  /// Check that all parameters have names that were taken, each at most once.
  void check_names() const {
    std::size_t known = 0;
    for (std::size_t i = 0; i < given_.size(); ++i) {
      bool repeated = false;
      for (std::size_t j = 0; j < i; ++j) repeated = repeated || given_[j].name == given_[i].name;
      const std::string_view name = given_[i].name;
      const bool whole = !name.empty() && name.find(',') == std::string_view::npos;  // not a part of the list
      known += whole && !repeated && (", " + names_ + ", ").find(", " + std::string(name) + ", ") != std::string::npos;
      if (known <= i)
        refuse("the parameters of ", policy_, " must be ",
               names_.empty() ? "none" : "some of " + names_ + ", each once", " (got ",
               shortened(std::string(given_[i].name)), ")");
    }
  }

 private:
  std::string_view policy_;
  std::span<const PolicyParameter> given_;
  std::string names_;
};

std::shared_ptr<const Policy> make_policy(std::string_view name, Parameters& parameters,
                                          std::vector<double> proportions) {
  if (name == "Proportional") return std::make_shared<Proportional>();
  if (name == "Balanced") return std::make_shared<Balanced>();
  if (name == "Static") return std::make_shared<Static>(std::move(proportions));
  if (name == "Temperature")
    return std::make_shared<Temperature>(parameters.take("t", "above 0", kAboveZero, kInfinity));
  if (name == "EffectiveNumber")
    return std::make_shared<EffectiveNumber>(parameters.take("beta", "in [0, 1)", 0, kBelowOne));
  if (name == "Annealed") {
    const double start = parameters.take("start", "in [0, 1]", 0, 1, 0.5);
    return std::make_shared<Annealed>(start, parameters.take("end", "in [0, 1]", 0, 1, 1.0));
  }
  if (name == "GroupDRO")
    return std::make_shared<GroupDro>(parameters.take("step_size", "above 0 and finite", kAboveZero, 1e300));
  if (name == "Learn2Mix") {
    const double mixing_rate = parameters.take("mixing_rate", "in (0, 1]", kAboveZero, 1, 0.1);
    const double min_share = parameters.take("min_share", "in [0, 1]", 0, 1, 0.0);
    const double balanced = parameters.take("balanced", kZeroOrOne, 0, 1, 0.0);
    using enum Learn2Mix::Start;
    return std::make_shared<Learn2Mix>(mixing_rate, min_share, balanced != 0 ? kBalanced : kProportional);
  }
  refuse(
      "mixing must be Proportional, Balanced, Static, Temperature, EffectiveNumber, Annealed, Learn2Mix or GroupDRO (got ",
      shortened(std::string(name)), ")");
}

}  // namespace

std::shared_ptr<const Policy> named_policy(std::string_view name, std::span<const PolicyParameter> parameters,
                                           std::vector<double> proportions) {
  if ((name == "Static") == proportions.empty())
    refuse("proportions must be given with the policy Static, and only with it (got ", proportions.size(), " with ",
           shortened(std::string(name)), ")");
  Parameters all(name, parameters);
  auto policy = make_policy(name, all, std::move(proportions));
  all.check_names();
  return policy;
}

}  // namespace l2m
