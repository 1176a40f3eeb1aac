#include "cross_entropy.hpp"

#include <cstring>
#include <limits>
#include <type_traits>

#include "block.cuh"
#include "class_loss.cuh"
#include "floats.cuh"
#include "launch.cuh"

namespace l2m::cuda {
namespace {

constexpr int kThreadsPerBlock = 256;
constexpr int kVectorBytes = 16;
// Vectors that a thread loads before it uses the first one.
constexpr int kAhead = 4;
// Threads per row: as few as can load the whole row at once. A warp also takes longer rows, up to what a block loads at
// once, because a block has to synchronize its warps at the end of each row.
constexpr int kFewLanes = 8;
constexpr std::int64_t kMaxFewLaneBytes = kFewLanes * kAhead * kVectorBytes;
constexpr std::int64_t kMaxWarpBytes = kThreadsPerBlock * kAhead * kVectorBytes;
// More classes are set to 0 by a launch of their own, because few rows have few blocks.
constexpr std::int64_t kMaxClearedClasses = 4096;
constexpr std::int64_t kSharedBytes = kThreadsPerBlock / kLanes * 4 * sizeof(double);  // one Softmax per warp

template <class R>
constexpr R kInfinity = std::numeric_limits<R>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// Rows of each block, and the constants that all rows share.
struct Rows {
  Targets given;
  double of_target;
  double of_column;
  std::int64_t rows_per_block;

  __device__ bool is_column(std::int64_t target) const {
    return static_cast<std::uint64_t>(target) < static_cast<std::uint64_t>(given.num_columns);
  }
  __device__ double weight(std::int64_t column) const { return given.weight == nullptr ? 1.0 : given.weight[column]; }
  /// Add the offsets of consecutive columns to their logits.
  template <class R, int kSize>
  __device__ void add_offsets(std::int64_t column, R (&x)[kSize]) const {
    if (given.offsets == nullptr) return;
    for (int i = 0; i < kSize; ++i) x[i] += static_cast<R>(given.offsets[column + i]);
  }
  __device__ std::int64_t begin() const { return blockIdx.x * rows_per_block; }
  __device__ std::int64_t end() const {
    return begin() + rows_per_block < given.size ? begin() + rows_per_block : given.size;
  }
};

template <class Logit, int kSize>
__device__ void read(const Logit* from, Vector<Logit, kSize>& x) {
  x = *reinterpret_cast<const Vector<Logit, kSize>*>(from);
}
template <class Logit, int kSize>
__device__ void write(Logit* to, const Vector<Logit, kSize>& x) {
  if constexpr (kSize == 1) {
    *to = x.at[0];
  } else {  // the compiler may split a plain assignment into narrower stores
    uint4 bits;
    std::memcpy(&bits, &x, sizeof(bits));
    __stwb(reinterpret_cast<uint4*>(to), bits);
  }
}

/// Partition of a row into aligned vectors and single columns at the edges.
template <class Logit>
struct Slices {
  static constexpr int kVector = kVectorBytes / sizeof(Logit);

  /// Partition equal columns of two rows, which may be the same row.
  __device__ Slices(const Logit* row, const Logit* other, std::int64_t columns) {
    const auto place = [](const Logit* x) {
      return static_cast<int>(reinterpret_cast<std::uintptr_t>(x) / sizeof(Logit) % kVector);
    };
    const int size = static_cast<int>(columns);
    head = (kVector - place(row)) % kVector;
    if (head > size || place(row) != place(other)) head = size;
    vectors = (size - head) / kVector;
    edges = size - vectors * kVector;
  }

  int head;     ///< columns before the first vector
  int vectors;  ///< number of vectors
  int edges;    ///< columns outside of vectors
};

/// Call get(column, vector) to fill a vector, then put(column, vector), for this thread's part of the row. kGroup
/// threads share the row.
template <int kGroup, class Logit, class Get, class Put>
__device__ void visit(const Slices<Logit>& slices, const Get& get, const Put& put) {
  constexpr int kVector = Slices<Logit>::kVector;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
#pragma unroll 1
  for (int edge = lane; edge < slices.edges; edge += kGroup) {
    const int column = edge < slices.head ? edge : edge + slices.vectors * kVector;
    Vector<Logit, 1> x;
    get(column, x);
    put(column, x);
  }
  for (int first = lane; first < slices.vectors; first += kAhead * kGroup) {
    Vector<Logit, kVector> ahead[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * kGroup < slices.vectors) get(slices.head + (first + i * kGroup) * kVector, ahead[i]);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (first + i * kGroup < slices.vectors) put(slices.head + (first + i * kGroup) * kVector, ahead[i]);
  }
}

/// Running softmax of a row.
template <class R>
struct Softmax {
  R largest = -kInfinity<R>;  ///< ignores NaN
  R sum = 0;                  ///< sum of e^(x - reference)
  R weight = 0;               ///< sum of the column weights, if labels are smoothed
  R smoothed = 0;             ///< sum of weight * (x - reference), if labels are smoothed

  /// Return the largest logit, or 0 while all logits are minus infinity.
  [[nodiscard]] __device__ static R reference(R largest) { return largest == -kInfinity<R> ? R{0} : largest; }

  __device__ void raise(R to) {
    sum *= exp(largest - reference(to));
    smoothed += weight * (reference(largest) - reference(to));
    largest = to;
  }

  template <int kSize>
  __device__ void add(const R (&x)[kSize]) {
    R max_x = x[0];
    for (int i = 1; i < kSize; ++i) max_x = fmax(max_x, x[i]);
    if (max_x > largest) raise(max_x);
    R of_vector = 0;
    for (int i = 0; i < kSize; ++i) of_vector += exp(x[i] - reference(largest));
    sum += of_vector;
  }

  __device__ void smooth(R x, R weight_of_column) {
    weight += weight_of_column;
    smoothed += weight_of_column * (x - reference(largest));
  }

  __device__ void add(const Softmax& raised) {
    sum += raised.sum;
    weight += raised.weight;
    smoothed += raised.smoothed;
  }
};

/// Return the sum of -weight * log-softmax over all columns. A non-finite sum of weights determines the result, as in
/// l2m::cross_entropy().
template <class R>
__device__ double of_all_columns(const Softmax<R>& softmax, double log_sum) {
  const auto weight = static_cast<double>(softmax.weight);
  if (!isfinite(weight)) return weight * (1.0 + log_sum);
  return weight * log_sum - static_cast<double>(softmax.smoothed);
}

/// Merge the softmax of all threads of a group, and return it to each of them. All threads of the block must call.
template <int kGroup, class R>
__device__ Softmax<R> merge(Softmax<R> softmax, bool smooth) {
  constexpr int kHalf = (kGroup < kLanes ? kGroup : kLanes) / 2;
  R largest = softmax.largest;
  for (int mask = kHalf; mask > 0; mask /= 2) largest = fmax(largest, __shfl_xor_sync(~0U, largest, mask));
  softmax.raise(largest);
  for (int mask = kHalf; mask > 0; mask /= 2) softmax.sum += __shfl_xor_sync(~0U, softmax.sum, mask);
  for (int mask = kHalf; smooth && mask > 0; mask /= 2) {
    softmax.weight += __shfl_xor_sync(~0U, softmax.weight, mask);
    softmax.smoothed += __shfl_xor_sync(~0U, softmax.smoothed, mask);
  }
  if constexpr (kGroup > kLanes) {
    auto* const of_warps = reinterpret_cast<Softmax<R>*>(shared_memory);
    if (threadIdx.x % kLanes == 0) of_warps[threadIdx.x / kLanes] = softmax;
    __syncthreads();
    for (int warp = 0; warp < kThreadsPerBlock / kLanes; ++warp) largest = fmax(largest, of_warps[warp].largest);
    softmax = {largest};
#pragma unroll 1
    for (int warp = 0; warp < kThreadsPerBlock / kLanes; ++warp) {
      Softmax<R> of_warp = of_warps[warp];
      of_warp.raise(largest);
      softmax.add(of_warp);
    }
    __syncthreads();
  }
  return softmax;
}

/// Set the totals of `num_classes` classes to 0, together with all other blocks.
__device__ void clear(const ClassTotals& totals) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreadsPerBlock;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreadsPerBlock + threadIdx.x;
       i < totals.num_classes * kSumDigits; i += step) {
    totals.digits[i] = 0;
    if (i < totals.num_classes) totals.count[i] = 0;
    if (i < 2) totals.skipped[i] = 0;
  }
}

/// Compute losses with kGroup threads per row, and set the totals of classes to 0. All threads run the same number of
/// iterations, because they synchronize.
template <int kGroup, class Logit>
__global__ void __launch_bounds__(kThreadsPerBlock)
    make_losses(const Logit* logits, Rows rows, Losses out, ClassTotals cleared) {
  using R = Wide<Logit>;
  clear(cleared);
  const bool smooth = rows.of_column > 0.0;
  double totals[kPartials] = {};  // losses, weights, targets out of range
  for (std::int64_t first = rows.begin(); first < rows.end(); first += kThreadsPerBlock / kGroup) {
    const std::int64_t row = first + threadIdx.x / kGroup;
    const std::int64_t target = row < rows.end() ? rows.given.targets[row] : rows.given.ignore_index;
    const bool ignored = target == rows.given.ignore_index;
    const bool is_column = !ignored && rows.is_column(target);
    Softmax<R> softmax;
    R of_target[] = {0};
    if (is_column) {
      const Logit* const from = logits + row * rows.given.num_columns;
      of_target[0] = widened(from[target]);
      rows.add_offsets(target, of_target);
      const auto get = [&](int column, auto& x) { read(from + column, x); };
      const auto add = [&]<int kSize>(int column, const Vector<Logit, kSize>& x) {
        R wide[kSize];
        for (int i = 0; i < kSize; ++i) wide[i] = widened(x.at[i]);
        rows.add_offsets(column, wide);
        softmax.add(wide);
        for (int i = 0; smooth && i < kSize; ++i) softmax.smooth(wide[i], static_cast<R>(rows.weight(column + i)));
      };
      visit<kGroup>(Slices<Logit>(from, from, rows.given.num_columns), get, add);
    }
    softmax = merge<kGroup>(softmax, smooth);
    if (threadIdx.x % kGroup != 0 || row >= rows.end()) continue;
    double log_sum_exp = ignored ? 0.0 : kNan;
    double loss = log_sum_exp;
    if (is_column) {
      // NaN if all logits are minus infinity.
      const auto log_sum = static_cast<double>(log(softmax.sum + (softmax.largest - softmax.largest)));
      const double weight = rows.weight(target);
      log_sum_exp = static_cast<double>(softmax.largest) + log_sum;
      loss = rows.of_target * weight * (log_sum - static_cast<double>(of_target[0] - softmax.largest)) +
             rows.of_column * of_all_columns(softmax, log_sum);
      totals[1] += weight;
    } else if (!ignored) {
      totals[2] += 1.0;
    }
    out.log_sum_exp[row] = log_sum_exp;
    out.losses[row] = loss;
    totals[0] += loss;
  }
  sum_over_block<kThreadsPerBlock>(totals);
  for (unsigned i = 0; threadIdx.x == 0 && i < kPartials; ++i) out.partials[kPartials * blockIdx.x + i] = totals[i];
}

/// Mean of losses, from the partial sums of all blocks.
struct Mean {
  Losses losses;
  unsigned num_blocks;
  bool smooth;

  /// All threads of one block must call. The order of additions does not depend on their number.
  template <int kThreadsOfBlock>
  __device__ void operator()() const {
    double totals[kPartials] = {};
    for (unsigned block = threadIdx.x; threadIdx.x < kThreadsPerBlock && block < num_blocks; block += kThreadsPerBlock)
      for (unsigned i = 0; i < kPartials; ++i) totals[i] += losses.partials[kPartials * block + i];
    sum_over_block<kThreadsOfBlock>(totals);
    if (threadIdx.x != 0) return;
    if (smooth && totals[1] == 0.0) totals[1] = kNan;
    *losses.total_weight = totals[1];
    *losses.invalid_targets = static_cast<std::int64_t>(totals[2]);
    store_value(losses.mean, losses.mean_type, totals[0] / totals[1]);
  }
};

template <int kGroup, class Logit>
__global__ void __launch_bounds__(kThreadsPerBlock)
    make_gradient(const Logit* logits, Rows rows, const double* log_sum_exp, const double* given_total_weight,
                  const void* of_loss, FloatType of_loss_type, Logit* gradient) {
  using R = Wide<Logit>;
  const bool smooth = rows.of_column > 0.0;
  const double scale = load_value(of_loss, of_loss_type) / *given_total_weight;
  double sum_of_weights[] = {static_cast<double>(rows.given.num_columns)};
  if (smooth && rows.given.weight != nullptr) {
    sum_of_weights[0] = 0.0;
    for (std::int64_t column = threadIdx.x; column < rows.given.num_columns; column += kThreadsPerBlock)
      sum_of_weights[0] += rows.given.weight[column];
    sum_over_block<kThreadsPerBlock>(sum_of_weights);
  }
  const auto of_columns = static_cast<R>(scale * rows.of_column);
  for (std::int64_t row = rows.begin() + threadIdx.x / kGroup; row < rows.end(); row += kThreadsPerBlock / kGroup) {
    const std::int64_t target = rows.given.targets[row];
    const Logit* const from = logits + row * rows.given.num_columns;
    Logit* const to = gradient + row * rows.given.num_columns;
    const Slices<Logit> slices(from, to, rows.given.num_columns);
    if (target == rows.given.ignore_index) {
      const auto get = [](int, auto& x) { x = {}; };
      const auto put = [&](int column, const auto& x) { write(to + column, x); };
      visit<kGroup>(slices, get, put);
      continue;
    }
    const int target_column = rows.is_column(target) ? static_cast<int>(target) : -1;
    const double of_target = rows.of_target * (target_column >= 0 ? rows.weight(target_column) : kNan);
    const auto of_row = static_cast<R>(scale * (of_target + rows.of_column * sum_of_weights[0]));
    const auto at_target = static_cast<R>(scale * of_target);
    const auto high = static_cast<R>(log_sum_exp[row]);
    const auto low = static_cast<R>(log_sum_exp[row] - static_cast<double>(high));
    const auto get = [&](int column, auto& x) { read(from + column, x); };
    const auto put = [&]<int kSize>(int column, const Vector<Logit, kSize>& x) {
      R wide[kSize];
      for (int i = 0; i < kSize; ++i) wide[i] = widened(x.at[i]);
      rows.add_offsets(column, wide);
      for (int i = 0; i < kSize; ++i) wide[i] = of_row * exp((wide[i] - high) - low);
      for (int i = 0; smooth && i < kSize; ++i) wide[i] -= of_columns * static_cast<R>(rows.weight(column + i));
      if (target_column >= column && target_column < column + kSize)
        for (int i = 0; i < kSize; ++i)
          if (target_column == column + i) wide[i] -= at_target;
      Vector<Logit, kSize> made;
      for (int i = 0; i < kSize; ++i) made.at[i] = rounded<Logit>(wide[i]);
      write(to + column, made);
    };
    visit<kGroup>(slices, get, put);
  }
}

/// Call f(threads per row, number of blocks, rows), which depend on n, C and the type only.
template <class Logit, class F>
void with_rows(const Targets& given, const F& f) {
  const auto with = [&](auto group) {
    const std::int64_t at_once = kThreadsPerBlock / group();
    const std::int64_t times = (given.size + at_once * kMaxBlocks - 1) / (at_once * kMaxBlocks);
    const std::int64_t rows_per_block = at_once * (times > 1 ? times : 1);
    const std::int64_t blocks = (given.size + rows_per_block - 1) / rows_per_block;
    f(group, blocks,
      Rows{given, 1.0 - given.label_smoothing, given.label_smoothing / static_cast<double>(given.num_columns),
           rows_per_block});
  };
  const std::int64_t bytes = given.num_columns * std::int64_t{sizeof(Logit)};
  if (bytes <= kMaxFewLaneBytes) return with(std::integral_constant<int, kFewLanes>());
  if (bytes <= kMaxWarpBytes) return with(std::integral_constant<int, kLanes>());
  with(std::integral_constant<int, kThreadsPerBlock>());
}

}  // namespace

void cross_entropy(FloatType type, const void* logits, const Targets& targets, const Losses& losses,
                   const ClassIds& classes, const ClassTotals& totals, Stream stream) {
  ClassTotals cleared = totals;
  if (totals.num_classes > kMaxClearedClasses) {
    const auto clear_words = [&](std::int64_t* words, std::int64_t size) {
      check(cudaMemsetAsync(words, 0, static_cast<std::size_t>(size) * sizeof(*words),
                            static_cast<cudaStream_t>(stream)));
    };
    clear_words(totals.digits, totals.num_classes * kSumDigits);
    clear_words(totals.count, totals.num_classes);
    cleared.num_classes = 1;
  }
  Mean mean{losses, 0, targets.label_smoothing > 0.0};
  with_floats(type, logits, [&]<class Logit>(const Logit* typed) {
    with_rows<Logit>(targets, [&](auto group, std::int64_t blocks, const Rows& rows) {
      mean.num_blocks = static_cast<unsigned>(blocks);
      // Without rows, one block sets the totals to 0.
      launch({blocks > 0 ? blocks : 1, kThreadsPerBlock, stream, kSharedBytes}, make_losses<group(), Logit>, typed,
             rows, losses, cleared);
    });
  });
  add_by_id(static_cast<const double*>(losses.losses),
            {classes.ids, classes.bytes, classes.is_signed, targets.targets, targets.ignore_index}, targets.size,
            totals, mean, stream);
}

void cross_entropy_gradient(FloatType type, const void* logits, const Targets& targets, const double* log_sum_exp,
                            const double* total_weight, const void* of_loss, FloatType of_loss_type, void* gradient,
                            Stream stream) {
  if (targets.size == 0) return;
  with_floats(type, logits, [&]<class Logit>(const Logit* typed) {
    with_rows<Logit>(targets, [&](auto group, std::int64_t blocks, const Rows& rows) {
      launch({blocks, kThreadsPerBlock, stream, kSharedBytes}, make_gradient<group(), Logit>, typed, rows, log_sum_exp,
             total_weight, of_loss, of_loss_type, static_cast<Logit*>(gradient));
    });
  });
}

}  // namespace l2m::cuda
