#include "l2m/data/field.hpp"

namespace l2m {

std::string describe(const Fields& fields) {
  std::string text;
  for (const auto& field : fields) text += (text.empty() ? "" : ", ") + field->describe();
  return text.empty() ? "none" : text;
}

void copy_fields(const Fields& fields, BatchPlan plan, std::span<std::byte* const> outs, Writes writes) {
  if (!fields.empty()) fields[0]->request(plan);
  for (std::size_t f = 0; f < fields.size(); ++f)
    fields[f]->copy(plan, outs[f], writes, f + 1 < fields.size() ? fields[f + 1].get() : nullptr);
}

}  // namespace l2m
