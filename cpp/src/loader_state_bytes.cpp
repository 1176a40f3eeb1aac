#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstring>
#include <ranges>
#include <stdexcept>
#include <string_view>

#include "l2m/base/errors.hpp"
#include "l2m/base/hash.hpp"
#include "l2m/loader_state.hpp"

// The bytes of a state: the letters "l2mstate", the version, the number of bytes, the members of visit_members(), and a
// hash of all that. Every number is a little-endian word of 64 bits. A list is its length and its items, a string its
// length and its bytes, an optional number the word 0, or the word 1 and the number, a sum of losses the list of its
// terms.

namespace l2m {
namespace {

constexpr std::string_view kLetters = "l2mstate";
constexpr std::size_t kWord = 8;
constexpr std::size_t kHeader = kLetters.size() + 2 * kWord;

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  Hash hash;
  hash.add(bytes);
  return hash.value();
}

void put_word(std::byte* to, std::uint64_t word) {
  for (std::size_t i = 0; i < kWord; ++i) to[i] = static_cast<std::byte>(word >> (8 * i));
}

std::uint64_t get_word(const std::byte* from) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < kWord; ++i) word |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
  return word;
}

/// Writer of members. Without memory, it only counts the bytes.
class Writer {
 public:
  explicit Writer(std::byte* out) : out_(out) {}

  [[nodiscard]] std::size_t size() const { return size_; }

  template <class Member>
  void operator()(const char* /*name*/, const Member& member, Allowed /*allowed*/) {
    write(member);
  }
  template <class Item, class Member, class Other>
  void operator()(const char* /*name*/, Member Item::* member, const char* /*other_name*/, Other Item::* other,
                  const std::vector<Item>& items, Allowed /*allowed*/) {
    write_list(items, [&](const Item& item) { write(item.*member); });
    write_list(items, [&](const Item& item) { write(item.*other); });
  }

 private:
  void put(const void* data, std::size_t size) {
    if (out_ != nullptr && size > 0) std::memcpy(out_ + size_, data, size);
    size_ += size;
  }
  void write(std::integral auto number) {
    std::array<std::byte, kWord> word;
    put_word(word.data(), static_cast<std::uint64_t>(number));
    put(word.data(), kWord);
  }
  void write(double number) {
    // One NaN for all, so that equal states have equal bytes.
    write(std::isnan(number) ? std::uint64_t{0x7FF8000000000000} : std::bit_cast<std::uint64_t>(number));
  }
  void write(const std::optional<std::uint64_t>& number) {
    write(number.has_value());
    if (number) write(*number);
  }
  void write(const std::string& text) {
    write(text.size());
    put(text.data(), text.size());
  }
  template <class First, class Second>
  void write(const std::pair<First, Second>& pair) {
    write(pair.first);
    write(pair.second);
  }
  template <class Item>
  void write(const std::vector<Item>& items) {
    write_list(items, [&](const Item& item) { write(item); });
  }
  void write(const ExactSum& sum) { write(sum.terms()); }
  void write(const HeldRows& held) {
    write_list(held, [&](const auto& of_class) { write(of_class); });
  }
  template <class Items, class F>
  void write_list(const Items& items, F&& write_item) {
    write(items.size());
    for (const auto& item : items) write_item(item);
  }

  std::byte* const out_;
  std::size_t size_ = 0;
};

/// Reader of members. Checks every length before it allocates memory.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  [[nodiscard]] std::size_t rest() const { return rest_.size(); }

  template <class Member>
  void operator()(const char* name, Member& member, Allowed allowed) {
    name_ = name;
    allowed_ = allowed;
    read(member);
  }
  template <class Item, class Member, class Other>
  void operator()(const char* name, Member Item::* member, const char* other_name, Other Item::* other,
                  std::vector<Item>& items, Allowed allowed) {
    name_ = name;
    allowed_ = allowed;
    items.resize(read_length());
    for (Item& item : items) read(item.*member);
    name_ = other_name;
    if (const std::size_t size = read_length(); size != items.size())
      refuse(name_, " of the state must have as many values as ", name, ", ", items.size(), " (got ", size, ")");
    for (Item& item : items) read(item.*other);
  }

 private:
  std::span<const std::byte> take(std::size_t size) {
    if (size > rest_.size())
      refuse("the state must not end within ", name_, " (got ", rest_.size(), " bytes instead of ", size, ")");
    const auto taken = rest_.first(size);
    rest_ = rest_.subspan(size);
    return taken;
  }
  std::uint64_t read_word() { return get_word(take(kWord).data()); }
  /// Read a length that the remaining bytes may have, with at least `item_size` bytes for each item.
  std::size_t read_length(std::size_t item_size = kWord) {
    const std::uint64_t length = read_word();
    if (length > rest_.size() / item_size)
      refuse(name_, " of the state must fit into the remaining ", rest_.size(), " bytes (got length ", length, ")");
    return static_cast<std::size_t>(length);
  }
  template <std::integral Int>
  void read(Int& number) {
    const std::uint64_t max = std::same_as<Int, bool> ? 1 : allowed_.max;
    const std::uint64_t word = read_word();
    if (word > max) refuse(name_, " of the state must be in [0, ", max, "] (got ", word, ")");
    number = static_cast<Int>(word);
  }
  void read(double& number) {
    number = std::bit_cast<double>(read_word());
    if (!std::isfinite(number) && !(allowed_.nan && std::isnan(number)))
      refuse(name_, " of the state must be finite (got ", number, ")");
  }
  void read(std::optional<std::uint64_t>& number) {
    bool has_value = false;
    read(has_value);
    if (has_value) read(number.emplace());
  }
  void read(std::string& text) {
    const auto bytes = take(read_length(1));
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void read(std::pair<std::string, std::string>& pair) {
    read(pair.first);
    read(pair.second);
  }
  template <class Item>
  void read(std::vector<Item>& items) {
    items.resize(read_length());
    for (Item& item : items) read(item);
  }
  void read(ExactSum& sum) {
    std::vector<double> terms;
    read(terms);
    sum = sum_of_terms(name_, terms);
  }
  void read(HeldRows& held) {
    for (std::size_t classes = read_length(); classes > 0; --classes) {
      std::int64_t class_id = 0;
      std::vector<std::int64_t> rows;
      read(class_id);
      read(rows);
      add_held(held, class_id, std::move(rows));
    }
  }

  std::span<const std::byte> rest_;
  const char* name_ = "";
  Allowed allowed_;
};

/// Return the name and the bytes of each member that is the same on all ranks.
std::vector<std::pair<std::string_view, std::vector<std::byte>>> shared_members(const LoaderState& state) {
  std::vector<std::pair<std::string_view, std::vector<std::byte>>> members;
  visit_members(state, [&](std::string_view name, const auto&... member) {
    if (name == "rank" || name == "class_losses" || name == "window_sums") return;
    Writer counter(nullptr);
    counter(name.data(), member...);
    members.emplace_back(name, counter.size());
    Writer writer(members.back().second.data());
    writer(name.data(), member...);
  });
  return members;
}

}  // namespace

void add_held(HeldRows& held, std::int64_t class_id, std::vector<std::int64_t> rows) {
  if (rows.empty() || (!held.empty() && class_id <= held.rbegin()->first))
    refuse("held of the state must hold [class, [row, ...]] with ascending classes (got class ", class_id, " with ",
           rows.size(), " rows)");
  held.emplace_hint(held.end(), class_id, std::move(rows));
}

ExactSum sum_of_terms(const char* name, std::span<const double> terms) {
  ExactSum sum;
  for (const double term : terms) {
    if (!(std::abs(term) <= ExactSum::kLargest))
      refuse(name, " of the state must hold sums of at most ", ExactSum::kLargest, " (got ", term, ")");
    sum.add(term);
    sum.carry();
  }
  return sum;
}

std::string differing_members(const LoaderState& a, const LoaderState& b) {
  std::string names;
  const auto members = shared_members(a), others = shared_members(b);
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i] != others[i]) names += (names.empty() ? "" : ", ") + std::string(members[i].first);
  if (a.losses.size() != b.losses.size()) names += (names.empty() ? "" : ", ") + std::string("window_sums");
  return names;
}

std::size_t encoded_size(const LoaderState& state) {
  Writer counter(nullptr);
  visit_members(state, counter);
  return kHeader + counter.size() + kWord;
}

void encode(const LoaderState& state, std::span<std::byte> bytes) {
  std::memcpy(bytes.data(), kLetters.data(), kLetters.size());
  put_word(bytes.data() + kLetters.size(), LoaderState::kVersion);
  put_word(bytes.data() + kLetters.size() + kWord, bytes.size());
  visit_members(state, Writer(bytes.data() + kHeader));
  put_word(bytes.data() + bytes.size() - kWord, hash_of(bytes.first(bytes.size() - kWord)));
}

LoaderState decode(std::span<const std::byte> bytes) {
  if (bytes.size() < kHeader + kWord || std::memcmp(bytes.data(), kLetters.data(), kLetters.size()) != 0)
    refuse("a state must begin with the letters ", kLetters, " and have at least ", kHeader + kWord, " bytes (got ",
           bytes.size(), " bytes)");
  if (const std::uint64_t version = get_word(bytes.data() + kLetters.size()); version != LoaderState::kVersion)
    refuse("version of the state must be ", LoaderState::kVersion, " (got ", version, ")");
  if (const std::uint64_t size = get_word(bytes.data() + kLetters.size() + kWord); size != bytes.size())
    refuse("the state must be complete, with ", size, " bytes (got ", bytes.size(), ")");
  const auto hashed = bytes.first(bytes.size() - kWord);
  if (get_word(hashed.data() + hashed.size()) != hash_of(hashed))
    refuse("the state must be unchanged since it was saved (got bytes with another hash)");
  LoaderState state;
  Reader reader(hashed.subspan(kHeader));
  visit_members(state, reader);
  if (reader.rest() > 0) refuse("the state must end after its members (got ", reader.rest(), " bytes more)");
  return state;
}

}  // namespace l2m
