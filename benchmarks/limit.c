/* The limit: cost of copying the rows of an epoch and doing nothing else.
 *
 * `num_threads` threads claim whole batches, memcpy the rows of every field into one of a few private, reused buffers, and go
 * on to the next batch. There is no queue, no consumer, no shuffling and no allocation, and threads meet only at the end of the run.
 * A loader that delivers the same rows cannot be faster than this by more than the noise. Buffers that exceed the cache are
 * written with non-temporal stores, which do not read the lines that they overwrite.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
  BLOCK = 64, /* one cache line */
  WORD = 16,  /* size of a non-temporal store */
  MAX_THREADS = 256,
  /* Rows are prefetched this many bytes ahead, at most MAX_AHEAD rows. Among 4, 8 and 16 KB and 32, 64 and 128 rows, no
   * choice was better for rows of 64, 784 and 3072 bytes alike (AMD EPYC of family 26, two threads, 2026-11). */
  AHEAD_BYTES = 8192,
  MAX_AHEAD = 64,
};

/* One array of the data: row r lies at source + r * width; buffer b begins at buffers + b * batch_size * width. */
typedef struct {
  const char* source;
  char* buffers;
  size_t width;
} Field;

typedef struct {
  const Field* fields;
  size_t num_fields;
  const uint32_t* orders; /* [num_orders][num_rows]: epoch e copies in order e % num_orders */
  size_t num_orders;
  size_t num_rows;
  size_t batch_size;
  size_t buffers_per_thread; /* private, because a buffer that moves between cores costs a transfer */
  int non_temporal;          /* then buffers are aligned to WORD */
  size_t batches_per_epoch;
  size_t num_batches; /* over all epochs */
  _Atomic size_t next_batch;
  _Atomic size_t next_thread;
} Run;

typedef struct {
  const uint32_t* rows;
  size_t count;
} Batch;

static Batch batch_of(const Run* run, size_t index) {
  const size_t epoch = index / run->batches_per_epoch;
  const size_t first = index % run->batches_per_epoch * run->batch_size;
  const size_t left = run->num_rows - first;
  return (Batch){run->orders + epoch % run->num_orders * run->num_rows + first,
                 left < run->batch_size ? left : run->batch_size};
}

/* Copy one row in cache lines, and prefetch the row `coming` line by line, so that its loads spread over the copy. */
static inline void copy_row(char* restrict to, const char* restrict from, const char* coming, size_t width) {
  if (width < BLOCK) {
    __builtin_prefetch(coming);
    memcpy(to, from, width);
    return;
  }
  size_t at = 0;
  for (; at + BLOCK <= width; at += BLOCK) {
    __builtin_prefetch(coming + at);
    memcpy(to + at, from + at, BLOCK);
  }
  if (at < width) {
    __builtin_prefetch(coming + width - 1);
    memcpy(to + width - BLOCK, from + width - BLOCK, BLOCK);
  }
}

/* Copy one row of whole words with non-temporal stores. */
static void copy_row_non_temporal(char* restrict to, const char* restrict from, const char* coming, size_t width) {
#ifdef __SSE2__
  for (size_t at = 0; at < width; at += WORD) {
    if (at % BLOCK == 0) {
      __builtin_prefetch(coming + at);
    }
    _mm_stream_si128((__m128i*)(to + at), _mm_loadu_si128((const __m128i*)(from + at)));
  }
#else
  copy_row(to, from, coming, width);
#endif
}

/* Copy the rows of a batch. For small rows `width` is a constant, so that the copy of a row is a few instructions.
 * The rows after the last of the batch are those of `next`, the batch that this thread copies next. */
static inline __attribute__((always_inline)) void copy_rows(const char* source, char* to, size_t width, Batch batch,
                                                            Batch next, int non_temporal) {
  size_t ahead = AHEAD_BYTES / width;
  ahead = ahead < 2 ? 2 : ahead > MAX_AHEAD ? MAX_AHEAD : ahead;
  ahead = ahead < batch.count ? ahead : batch.count;
  const uint32_t* after = next.count < ahead ? batch.rows : next.rows;
  const size_t inside = batch.count - ahead;
  for (size_t i = 0; i < batch.count; ++i) {
    const char* from = source + batch.rows[i] * width;
    const char* coming = source + (i < inside ? batch.rows[i + ahead] : after[i - inside]) * width;
    if (non_temporal && width % WORD == 0) {
      copy_row_non_temporal(to + i * width, from, coming, width);
    } else {
      copy_row(to + i * width, from, coming, width);
    }
  }
}

static void* copy_batches(void* argument) {
  Run* run = argument;
  const size_t first_buffer = atomic_fetch_add(&run->next_thread, 1) * run->buffers_per_thread;
  size_t index = atomic_fetch_add(&run->next_batch, 1);
  for (size_t done = 0; index < run->num_batches; ++done) {
    const size_t buffer = first_buffer + done % run->buffers_per_thread;
    const size_t next_index = atomic_fetch_add(&run->next_batch, 1);
    const Batch batch = batch_of(run, index);
    const Batch next = next_index < run->num_batches ? batch_of(run, next_index) : batch;
    for (size_t f = 0; f < run->num_fields; ++f) {
      const Field field = run->fields[f];
      char* to = field.buffers + buffer * run->batch_size * field.width;
      switch (field.width) {
        case 8:
          copy_rows(field.source, to, 8, batch, next, 0);
          break;
        case 64:
          copy_rows(field.source, to, 64, batch, next, run->non_temporal);
          break;
        default:
          copy_rows(field.source, to, field.width, batch, next, run->non_temporal);
      }
    }
    index = next_index;
  }
#ifdef __SSE2__
  _mm_sfence(); /* make the non-temporal stores visible */
#endif
  return NULL;
}

/* Copy `num_epochs` epochs. The calling thread is one of the `num_threads`. Return -1 if a thread cannot start. */
int copy_epochs(const Field* fields, size_t num_fields, const uint32_t* orders, size_t num_orders, size_t num_rows,
                size_t batch_size, size_t buffers_per_thread, size_t num_epochs, size_t num_threads, int non_temporal) {
  const size_t batches_per_epoch = (num_rows + batch_size - 1) / batch_size;
  Run run = {
      .fields = fields,
      .num_fields = num_fields,
      .orders = orders,
      .num_orders = num_orders,
      .num_rows = num_rows,
      .batch_size = batch_size,
      .buffers_per_thread = buffers_per_thread,
      .non_temporal = non_temporal,
      .batches_per_epoch = batches_per_epoch,
      .num_batches = batches_per_epoch * num_epochs,
  };
  pthread_t threads[MAX_THREADS];
  size_t started = 1;
  while (started < num_threads && started < MAX_THREADS &&
         pthread_create(&threads[started], NULL, copy_batches, &run) == 0) {
    ++started;
  }
  copy_batches(&run);
  for (size_t t = 1; t < started; ++t) {
    pthread_join(threads[t], NULL);
  }
  return started == num_threads ? 0 : -1;
}
