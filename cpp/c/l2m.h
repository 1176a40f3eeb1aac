/* l2m.h: the C API of l2m_fast, a data loader whose class mix follows the losses. Plain C99.
 *
 * A loader reads rows from arrays of the caller and delivers them in batches. Batches depend on the seed, the data, the
 * options and the recorded losses only; with the same ones, the Python package delivers the same batches, and both read
 * each other's saved states.
 *
 *     l2m_options options;
 *     l2m_options_init(&options, sizeof options);
 *     ...                                              set data and options
 *     l2m_create(&options, seed, &loader, error, sizeof error);
 *     while ((code = l2m_next(loader, &batch)) == L2M_OK) {
 *       ...                                            train on the batch, compute the loss of each of its rows
 *       l2m_record(loader, losses, batch->num_rows, NULL, L2M_LAST);
 *       l2m_release(loader, batch);
 *     }                                                L2M_END: the epoch has ended; the next l2m_next() begins another
 *     l2m_free(loader);
 *
 * Results. Every function returns L2M_OK, L2M_END or an error code, except l2m_errmsg(). After an error, nothing has
 * changed, and the call may be repeated. On several ranks, a callback that fails must fail on all of them. A callback
 * must return: it must not throw, call longjmp() or end its thread.
 *
 * Memory. The caller frees nothing but the loader, with l2m_free(). The data of the fields must stay valid and
 * unchanged as long as the loader is open, and all else that the options name during l2m_create().
 *
 * Threads. Functions marked [serial] may be called from any thread, but for each loader only one at a time. A call
 * from a callback of the same loader returns L2M_BUSY. Functions marked [any] have no such limit. Different loaders are
 * independent.
 */
#ifndef L2M_H
#define L2M_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define L2M_API __attribute__((visibility("default")))
#else
#define L2M_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Results of functions. */
enum {
  L2M_OK = 0,
  L2M_END = 1,       /* the epoch has ended */
  L2M_INVALID = 2,   /* an argument is invalid */
  L2M_NO_MEMORY = 3, /* out of memory */
  L2M_BUSY = 4,      /* the call comes from a callback of the same loader */
  L2M_CLOSED = 5,    /* the loader is closed */
  L2M_TOO_MANY = 6,  /* the caller holds max_batches batches */
  L2M_BAD_STATE = 7, /* a state is damaged, or is that of another version, of other data or of other options */
  L2M_CALLBACK = 8,  /* a callback failed */
  L2M_FAILED = 9     /* anything else, such as losses that come too late, or no thread */
};

/* Types of the elements of `classes`. */
enum { L2M_INT8 = 1, L2M_INT16 = 2, L2M_INT32 = 3, L2M_INT64 = 4, L2M_UINT8 = 5, L2M_UINT16 = 6, L2M_UINT32 = 7 };

/* Kinds of policies. */
enum {
  L2M_FIXED = 0,         /* keeps its first proportions */
  L2M_SCHEDULE = 1,      /* updated at the end of every window; needs no losses */
  L2M_FOLLOWS_LOSSES = 2 /* updated at the end of every window with recorded losses; needs classes */
};

#define L2M_OPTIONS_VERSION 1
#define L2M_LAST (-1) /* as `step`: the last batch */

typedef struct l2m_loader l2m_loader;

/* Array of the data that contributes one item per row to a batch. */
typedef struct l2m_field {
  const void* data;  /* row 0 */
  int64_t row_bytes; /* bytes of a row, > 0 */
  int64_t stride;    /* bytes from one row to the next, of any sign; 0: row_bytes */
} l2m_field;

/* Named parameter of a built-in policy. */
typedef struct l2m_parameter {
  const char* name;
  double value;
} l2m_parameter;

/* Loss window that has ended, over all ranks: the input of a policy. Arrays have num_classes values. */
typedef struct l2m_window {
  size_t num_classes;
  const double* proportions;  /* the newest ones */
  const double* class_losses; /* last known mean losses; where unknown, the mean of the others. L2M_SCHEDULE: 0 on
                               * several ranks, because nothing is reduced for it */
  const int64_t* class_sizes; /* rows of each class */
  const int64_t* counts;      /* losses recorded in the window. L2M_SCHEDULE: 0 on several ranks */
  const int64_t* rows_drawn;  /* since the beginning of training */
  const uint64_t* passes;     /* number of the current pass over the rows of each class */
  uint64_t step;              /* batches from the beginning of training to the end of the window */
  uint64_t total_steps;       /* batches of the whole training; 0: unknown */
} l2m_window;

/* Policy of the caller: how the proportions of the classes evolve. Its functions return 0, or another number if they
 * fail: the call that needed them then returns L2M_CALLBACK. If update() fails twice on one window, the proportions stay.
 * A policy must keep no state but `memory`, which states contain. */
typedef struct l2m_policy {
  const char* description; /* name and all parameters: states fit only policies with the same one */
  int kind;                /* L2M_FIXED, L2M_SCHEDULE or L2M_FOLLOWS_LOSSES */
  int64_t memory_rows;     /* in [0, 65536] */
  void* user_data;         /* first argument of the functions */
  /* Write the first proportions: finite, >= 0, with sum 1, and 0 for classes without rows. */
  int (*initial)(void* user_data, size_t num_classes, const int64_t* class_sizes, double* proportions);
  /* Replace the proportions, given the newest ones, and the memory [memory_rows, num_classes], at first all 0. NULL is
   * allowed if the kind is L2M_FIXED. */
  int (*update)(void* user_data, const l2m_window* window, double* proportions, double* memory);
} l2m_policy;

/* Options of a loader. Set by l2m_options_init() to the values in brackets. */
typedef struct l2m_options {
  uint32_t size;    /* sizeof(l2m_options) */
  uint32_t version; /* L2M_OPTIONS_VERSION */

  /* Data. */
  int64_t num_rows;        /* [0] rows of every field, >= 1 */
  const l2m_field* fields; /* [NULL] */
  size_t num_fields;       /* [0] any number; with 0, batches have row ids and classes only */
  const void* classes;     /* [NULL] class of each row, num_rows integers in [0, num_classes); NULL: a single class */
  int class_type;          /* [0] type of `classes`, L2M_INT8 to L2M_UINT32; 0 without classes */
  int64_t num_classes;     /* [0] 0: the largest class + 1 */
  const int64_t* rows;     /* [NULL] unique ids of the rows to draw from; NULL: all */
  int64_t num_selected;    /* [0] number of `rows` */

  /* Batches. */
  int64_t batch_size;      /* [1] rows per batch on this rank */
  int64_t steps_per_epoch; /* [0] batches per epoch; 0: as many as the rows fill on all ranks, at least 1 */
  int shuffle;             /* [1] 0: rows ascend within a class; without classes, they come in the order of `rows` */
  int grouped;             /* [0] 1: the rows of a batch are grouped by class */
  int drop_last;           /* [0] 1: without classes, a short last batch is dropped */
  int64_t max_batches;     /* [1] batches that the caller may hold at the same time */

  /* Mixing. */
  const char* mixing;              /* [NULL] name of a built-in policy, see l2m_create(); NULL: "Proportional" */
  const l2m_parameter* parameters; /* [NULL] its parameters */
  size_t num_parameters;           /* [0] */
  const double* proportions;       /* [NULL] proportions of "Static", num_classes values */
  const l2m_policy* policy;        /* [NULL] policy of the caller, in place of the three above */
  int64_t update_every;            /* [0] batches per loss window; 0: one window per epoch */
  int64_t lookahead;               /* [0] batches that may be taken beyond the one whose losses are recorded */
  uint64_t total_steps;            /* [0] batches of the whole training, for policies; 0: unknown */

  /* Ranks: processes that share each batch of batch_size * world_size rows. */
  int64_t rank;       /* [0] */
  int64_t world_size; /* [1] */
  /* [NULL] Function that replaces each value, an integer, by its sum over all ranks, and returns 0, or another number if
   * it fails.
   * Needed on several ranks by policies that follow losses; called in the same order on each. */
  int (*all_reduce)(void* user_data, double* values, size_t num_values);

  /* Work. */
  int num_threads; /* [0] most threads, <= 1024, that help the caller of l2m_next(); 0: all work is done in l2m_next() */
  int prefetch;    /* [4] batches prepared ahead by threads, <= 65536 */

  /* [NULL] Function that receives warnings, such as that of non-finite losses; NULL: they are dropped. */
  void (*warn)(void* user_data, const char* message);
  void* user_data; /* [NULL] first argument of all_reduce() and warn() */
} l2m_options;

/* Batch, valid until it is released. Its memory must not be written to. */
typedef struct l2m_batch {
  int64_t num_rows;          /* at most batch_size */
  const void* const* fields; /* for each field its rows, one after another, aligned to 64 bytes */
  const int64_t* rows;       /* id of each row */
  const int32_t* classes;    /* class of each row */
  const double* proportions; /* proportions with which it was drawn, num_classes values */
  uint64_t epoch;
  uint64_t step; /* batches since the beginning of training, from 0 */
} l2m_batch;

/* Source of memory of the caller. */
typedef struct l2m_allocator {
  /* Return `size` bytes at a multiple of `alignment`, a power of two, or NULL if there is no memory. */
  void* (*allocate)(void* user_data, size_t size, size_t alignment);
  void (*free)(void* user_data, void* memory, size_t size, size_t alignment);
  void* user_data; /* first argument of both */
} l2m_allocator;

/* Take memory of batches and row ids of loaders that are created from now on from an allocator; NULL: from the C++
 * runtime, as initially. It must stay usable until these loaders are freed. With num_threads > 0, its functions are
 * called from several threads at once. Alignments are 64 to 2^21. The rest, which grows with the numbers of classes and
 * of rows in a batch, comes from `operator new`, which a program may replace. Not while another thread uses the library.
 *
 * L2M_INVALID: one of its functions is NULL. */
L2M_API int l2m_set_allocator(const l2m_allocator* allocator);

/* Set all options to their defaults. [any]
 *
 * size: sizeof(l2m_options). L2M_INVALID: the header does not belong to the library, or `options` is NULL. */
L2M_API int l2m_options_init(l2m_options* options, size_t size);

/* Create a loader. [any]
 *
 * Built-in policies and their parameters, with defaults in brackets:
 *     "Proportional", "Balanced"
 *     "Static"            options.proportions
 *     "Temperature"       t > 0
 *     "EffectiveNumber"   beta in [0, 1)
 *     "Annealed"          start in [0, 1] [0.5], end in [0, 1] [1]; needs options.total_steps
 *     "Learn2Mix"         mixing_rate in (0, 1] [0.1], min_share in [0, 1 / classes with rows] [0],
 *                         balanced 0 or 1 [0]: the start
 *     "GroupDRO"          step_size > 0
 *
 * seed: any number, the same on all ranks. Loaders of the same length with the same seed draw their rows in the same
 * order. l2m_state_load() replaces it by that of the state.
 * loader: set to the loader, or to NULL after an error.
 * error: receives the message of an error, cut to error_size bytes with the final 0; may be NULL.
 * L2M_INVALID, L2M_NO_MEMORY, L2M_CALLBACK, L2M_FAILED: nothing was created. */
L2M_API int l2m_create(const l2m_options* options, uint64_t seed, l2m_loader** loader, char* error, size_t error_size);

/* Return the message of the last error of a loader: what was wrong, what was given and what is allowed. [serial]
 *
 * Valid until the next call with this loader. Empty before the first error. */
L2M_API const char* l2m_errmsg(const l2m_loader* loader);

/* Deliver the next batch. [serial]
 *
 * batch: set to the batch, or to NULL if there is none.
 * L2M_END: the epoch has ended; the next call begins the next one.
 * L2M_TOO_MANY: release a batch first. L2M_NO_MEMORY, L2M_CALLBACK, L2M_FAILED: the batch is not lost. */
L2M_API int l2m_next(l2m_loader* loader, const l2m_batch** batch);

/* Give a batch back, also of a closed loader. [serial]
 *
 * Its pointer may stand for another batch afterwards. L2M_INVALID: it is not a batch of this loader that is held. */
L2M_API int l2m_release(l2m_loader* loader, const l2m_batch* batch);

/* Add losses to the loss window of their batch. [serial] Several calls for one batch add up.
 *
 * losses: `count` losses. Non-finite ones are skipped, with a warning.
 * classes: class of each loss; NULL: the losses are those of the rows of the batch, in order.
 * step: l2m_batch.step of the batch, one of the last lookahead + 1. L2M_LAST: the last batch; with `classes`, there need
 * not be one, and once its window is closed (by L2M_END or l2m_update()), the losses count for the next window.
 * L2M_INVALID: wrong count or class. L2M_FAILED: no such batch, or the window of `step` is closed. */
L2M_API int l2m_record(l2m_loader* loader, const float* losses, int64_t count, const int32_t* classes, int64_t step);
L2M_API int l2m_record_double(l2m_loader* loader, const double* losses, int64_t count, const int32_t* classes,
                              int64_t step);

/* Close the loss window of the epoch now, so that it takes effect from the next epoch. [serial] Happens by itself at the
 * end of an epoch.
 *
 * L2M_FAILED: the loader has update_every. */
L2M_API int l2m_update(l2m_loader* loader);

/* Begin the next epoch as number `epoch`, at most 2^52. [serial] An epoch that runs ends first, unless it was resumed by
 * l2m_state_load() and no batch was delivered since: the rest of it is skipped. L2M_INVALID: `epoch` is larger. */
L2M_API int l2m_set_epoch(l2m_loader* loader, uint64_t epoch);

/* Return the current epoch, the batches delivered in it, and those since the beginning of training. [serial]
 * L2M_END begins the next epoch. Each pointer may be NULL. */
L2M_API int l2m_progress(l2m_loader* loader, uint64_t* epoch, int64_t* step, uint64_t* total_step);

/* Return the number of batches per epoch on this rank. [serial] */
L2M_API int l2m_epoch_size(l2m_loader* loader, int64_t* num_batches);

/* Return the number of classes. [serial] */
L2M_API int l2m_num_classes(l2m_loader* loader, size_t* num_classes);

/* Copy the rows of each class, the proportions in force (a window that the next batch closes is not applied yet), or the
 * last known mean loss of each class, NaN if unknown. [serial]
 *
 * num_classes: length of the array. L2M_INVALID: it is not that of l2m_num_classes(). */
L2M_API int l2m_class_sizes(l2m_loader* loader, int64_t* class_sizes, size_t num_classes);
L2M_API int l2m_proportions(l2m_loader* loader, double* proportions, size_t num_classes);
L2M_API int l2m_class_losses(l2m_loader* loader, double* class_losses, size_t num_classes);

/* Return the bytes of the state just after a batch. [serial]
 *
 * step: with lookahead, l2m_batch.step of that batch; L2M_LAST: the last batch with losses, but at most `lookahead`
 * batches back.
 * L2M_INVALID: the state after that batch is not available. */
L2M_API int l2m_state_size(l2m_loader* loader, int64_t step, size_t* size);

/* Write the state just after a batch: little-endian, the same on all machines, with a hash that detects damage. [serial]
 *
 * capacity: bytes of `state`. size: set to the bytes written; may be NULL.
 * L2M_INVALID: the capacity is too small, or as for l2m_state_size(). */
L2M_API int l2m_state_save(l2m_loader* loader, int64_t step, void* state, size_t capacity, size_t* size);

/* Resume from a state, of this or another machine, or of Python (state_to_bytes()). [serial]
 *
 * The next l2m_next() continues after the last batch of the state. If that was the last one of its epoch, the next
 * epoch begins, without another L2M_END: count epochs by l2m_progress(). Batches that the caller holds stay valid.
 * L2M_BAD_STATE: it is damaged, or of a loader with other data or options, which the message names. */
L2M_API int l2m_state_load(l2m_loader* loader, const void* state, size_t size);

/* Resume from the states of all ranks, whose losses add up. [serial] The number of ranks may change if batch_size *
 * world_size stays the same. */
L2M_API int l2m_state_load_ranks(l2m_loader* loader, const void* const* states, const size_t* sizes, size_t num_states);

/* Stop the threads and free all batches but those that the caller holds. [serial] All functions but l2m_errmsg(),
 * l2m_release(), l2m_close() and l2m_free() then return L2M_CLOSED. */
L2M_API int l2m_close(l2m_loader* loader);

/* Close a loader and free it, with all its batches. [serial] The last call with it. NULL is allowed.
 *
 * L2M_BUSY: called from a callback; nothing was freed. */
L2M_API int l2m_free(l2m_loader* loader);

#ifdef __cplusplus
}
#endif

#endif /* L2M_H */
