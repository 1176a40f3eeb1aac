#include "l2m/data/normalize.hpp"

#include <cstring>
#include <stdexcept>

#include "l2m/base/errors.hpp"
#include "l2m/base/hash.hpp"
#include "l2m/base/text.hpp"

namespace l2m {

template <class Float>
Normalize<Float>::Normalize(Dense bytes, std::span<const float> mean, std::span<const float> std, std::int64_t inner)
    : bytes_(bytes), channels_(std::ssize(mean)), inner_(inner) {
  if (mean.empty() || mean.size() != std.size() || inner < 1 || inner > bytes_.row_size() / channels_ ||
      bytes_.row_size() % (channels_ * inner) != 0)
    throw std::invalid_argument(message("rows must have a multiple of channels * inner bytes (got ", bytes_.row_size(),
                                        " bytes, ", mean.size(), " means, ", std.size(), " stds and inner ", inner,
                                        ")"));
  table_.reserve(mean.size() * 256);
  for (std::size_t c = 0; c < mean.size(); ++c)
    for (int byte = 0; byte < 256; ++byte)
      table_.push_back(round_to<Float>((static_cast<float>(byte) - mean[c]) / std[c]));
}

template <class Float>
std::string Normalize<Float>::describe() const {
  Hash hash;
  hash.add(static_cast<std::uint64_t>(inner_));
  hash.add(std::as_bytes(std::span(table_)));
  return std::to_string(row_size()) + " normalized by " + to_hex(hash.value());
}

template <class Float>
void Normalize<Float>::copy(BatchPlan plan, std::byte* out, Writes /*writes*/, const Field* next) const {
  constexpr std::size_t kAhead = 4;  // rows
  for (std::size_t i = 0; i < plan.size(); ++i) {
    if (i + kAhead < plan.size()) bytes_.request(plan.subspan(i + kAhead, 1));
    if (next != nullptr && i + 1 == plan.size()) next->request(plan);
    const std::byte* in = bytes_.row(plan[i]);
    for (const std::byte* const end = in + bytes_.row_size(); in != end;) {
      for (const Float* table = table_.data(); table != table_.data() + channels_ * 256; table += 256) {
        for (std::int64_t j = 0; j < inner_; ++j, ++in, out += sizeof(Float))
          std::memcpy(out, &table[std::to_integer<std::size_t>(*in)], sizeof(Float));
      }
    }
  }
}

template class Normalize<float>;
template class Normalize<Float16>;
template class Normalize<BFloat16>;

}  // namespace l2m
