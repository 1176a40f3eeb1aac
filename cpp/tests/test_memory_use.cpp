#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "check.hpp"
#include "l2m/base/threads.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/learn2mix.hpp"

// Memory that a Loader takes in a build without threads at most, and how often.

namespace l2m::test {
namespace {

std::size_t bytes_in_use = 0, most_bytes = 0, allocations = 0, blocks_of_system = 0;

/// Front of a block, before its alignment: the block is kept in a list when it is free.
struct Header {
  std::size_t size;  // as requested
  std::byte* next;   // memory of the next free block
};

/// Return the list of free blocks that are large enough for a size, and set `capacity` to their size.
std::byte*& free_blocks(std::size_t size, std::size_t alignment, std::size_t& capacity) {
  static std::byte* lists[32][64];
  capacity = std::bit_ceil(std::max(size, alignment));
  return lists[std::bit_width(alignment)][std::bit_width(capacity)];
}

Header& header_of(std::byte* memory) { return reinterpret_cast<Header*>(memory)[-1]; }

void* allocate(std::size_t size, std::size_t alignment) {
  static_assert(sizeof(Header) <= alignof(std::max_align_t));
  std::size_t capacity = 0;
  std::byte*& free = free_blocks(size, alignment, capacity);
  std::byte* memory = free;
  if (memory != nullptr) {
    free = header_of(memory).next;
  } else {
    memory = static_cast<std::byte*>(std::aligned_alloc(alignment, capacity + alignment));
    if (memory == nullptr) throw std::bad_alloc();
    memory += alignment;
    ++blocks_of_system;
  }
  header_of(memory).size = size;
  bytes_in_use += size;
  most_bytes = std::max(most_bytes, bytes_in_use);
  ++allocations;
  return memory;
}

void give_back(void* memory, std::size_t alignment) {
  if (memory == nullptr) return;
  Header& header = header_of(static_cast<std::byte*>(memory));
  bytes_in_use -= header.size;
  std::size_t capacity = 0;
  std::byte*& free = free_blocks(header.size, alignment, capacity);
  header.next = std::exchange(free, static_cast<std::byte*>(memory));
}

constexpr std::size_t kAlignment = alignof(std::max_align_t);

}  // namespace
}  // namespace l2m::test

// Not inline: gcc 12 reports inlined pairs of new and delete as a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) { return l2m::test::allocate(size, l2m::test::kAlignment); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return l2m::test::allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { l2m::test::give_back(memory, l2m::test::kAlignment); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t alignment) noexcept {
  l2m::test::give_back(memory, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(memory, alignment);
}

namespace l2m::test {
namespace {

constexpr std::int64_t kClasses = 10, kBatch = 32;

/// Training on rows of `row_size` bytes in 10 classes of different sizes, whose mix follows the losses.
class Training {
 public:
  Training(std::int64_t num_rows, std::int64_t row_size, std::optional<std::int64_t> update_every)
      : rows_(static_cast<std::size_t>(num_rows * row_size)), labels_(static_cast<std::size_t>(num_rows)) {
    for (std::size_t i = 0; i < labels_.size(); ++i) labels_[i] = static_cast<std::uint8_t>(i * i % 53 % kClasses);
    most_bytes = bytes_before_ = bytes_in_use;
    LoaderOptions options;
    options.index =
        std::make_shared<ClassIndex>(std::span<const std::uint8_t>(labels_), kClasses, num_rows, std::nullopt, 0);
    options.fields = {std::make_shared<Dense>(rows_.data(), row_size, row_size),
                      std::make_shared<Dense>(reinterpret_cast<const std::byte*>(labels_.data()), 1, 1)};
    options.has_classes = true;
    options.mixing = std::make_shared<Learn2Mix>(0.5, 0.01, Learn2Mix::Start::kProportional);
    options.batch_size = kBatch;
    options.update_every = update_every;
    options.prefetch = 0;
    options.seed = 1;
    loader_.emplace(std::move(options));
  }

  Loader& loader() { return *loader_; }

  void train_epoch() {
    const Iteration iteration = loader_->iterate();
    for (std::size_t before = allocations; std::optional<FilledBatch> batch = loader_->next(iteration);) {
      const std::byte* const classes = batch->blocks[1].data();
      float losses[kBatch];
      for (std::size_t i = 0; i < kBatch; ++i) losses[i] = static_cast<float>(1 + std::to_integer<int>(classes[i]));
      loader_->record(std::span<const float>(losses));
      loader_->reuse(*std::move(batch));
      if (allocations != std::exchange(before, allocations)) ++allocating_batches;
    }
  }

  std::size_t allocating_batches = 0;

  /// Return the maximum number of bytes in use since the training was created, apart from the data.
  [[nodiscard]] std::int64_t most() const { return static_cast<std::int64_t>(most_bytes - bytes_before_); }

 private:
  std::vector<std::byte> rows_;
  std::vector<std::uint8_t> labels_;
  std::size_t bytes_before_ = 0;
  std::optional<Loader> loader_;
};

void test_a_loader_takes_few_bytes_per_row() {
  for (const std::int64_t num_rows : {1000, 20'000, 65'536, 65'537, 300'000}) {
    for (const std::optional<std::int64_t> update_every : {std::optional<std::int64_t>(), {50}}) {
      Training training(num_rows, 16, update_every);
      for (int epoch = 0; epoch < 2; ++epoch) training.train_epoch();
      const LoaderState state = training.loader().state();
      training.loader().load(state);
      training.train_epoch();
      const std::int64_t bytes_per_row = num_rows <= 65'536 ? 4 : 8;
      CHECK(training.most() <= bytes_per_row * num_rows + 40'960);
    }
  }
}

void test_mnist_takes_less_than_512_KB() {
  Training training(60'000, 784, std::nullopt);
  for (int epoch = 0; epoch < 2; ++epoch) training.train_epoch();
  CHECK(training.most() < 512'000);
}

/// Only updates of the proportions, and rows that are held at the end of a pass, take memory for a while. A program that
/// keeps freed blocks, as here, takes none from the system for them either.
void test_batches_allocate_nothing_after_the_first_epoch() {
  for (const std::optional<std::int64_t> update_every : {std::optional<std::int64_t>(), {50}}) {
    Training training(5000, 16, update_every);
    training.train_epoch();
    const std::size_t batches = static_cast<std::size_t>(training.loader().size());
    const std::size_t updates = update_every ? batches / 50 : 1, passes = kClasses;
    const std::size_t in_use = bytes_in_use, of_system = blocks_of_system;
    for (int epoch = 0; epoch < 3; ++epoch) {
      training.allocating_batches = 0;
      training.train_epoch();
      CHECK(training.allocating_batches <= 2 * updates + passes / 2 && training.allocating_batches < batches / 10);
      CHECK(bytes_in_use <= in_use + 1000 && blocks_of_system == of_system);
    }
  }
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  if (l2m::kHasThreads) return 0;  // takes more memory, to be faster
  test_a_loader_takes_few_bytes_per_row();
  test_mnist_takes_less_than_512_KB();
  test_batches_allocate_nothing_after_the_first_epoch();
}
