/* Train logistic regression in C on a CSV file; the class mix follows the losses. Each line: class,number,number,...
 *
 *     train data.csv checkpoint [epochs]
 *
 * Saves a checkpoint after every batch, and resumes from it: kill -9 costs at most one batch. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <l2m.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_COLUMNS = 256, MAX_CLASSES = 32 };

static float* x; /* [rows, columns] */
static int32_t* y;
static int64_t rows, columns;
static size_t classes;
static double weights[MAX_CLASSES][MAX_COLUMNS + 1]; /* the last one is the bias */

static void fail(const char* what, const char* why) {
  fprintf(stderr, "train: %s: %s\n", what, why);
  exit(1);
}

static void check(const l2m_loader* loader, int code) {
  if (code != L2M_OK) fail("l2m", l2m_errmsg(loader));
}

static void read_csv(const char* path) {
  char line[8192];
  FILE* file = fopen(path, "r");
  if (file == NULL) fail(path, "cannot be opened");
  while (fgets(line, sizeof line, file) != NULL) {
    int64_t column = 0;
    char* cell = strtok(line, ",");
    if (rows % 1024 == 0) {
      x = realloc(x, (size_t)(rows + 1024) * MAX_COLUMNS * sizeof *x);
      y = realloc(y, (size_t)(rows + 1024) * sizeof *y);
      if (x == NULL || y == NULL) fail(path, "out of memory");
    }
    y[rows] = (int32_t)strtol(cell, NULL, 10);
    while ((cell = strtok(NULL, ",")) != NULL && column < MAX_COLUMNS)
      x[rows * columns + column++] = strtof(cell, NULL);
    if (rows == 0) columns = column;
    if (column == 0 || column != columns || y[rows] < 0 || y[rows] >= MAX_CLASSES) fail(path, "a line is invalid");
    ++rows;
  }
  fclose(file);
}

/* Take a step of gradient descent on a batch, and set the loss of each of its rows. */
static void step(const l2m_batch* batch, float* losses) {
  static double gradient[MAX_CLASSES][MAX_COLUMNS + 1];
  size_t k;
  int64_t i, j;
  memset(gradient, 0, sizeof gradient);
  for (i = 0; i < batch->num_rows; ++i) {
    const float* row = (const float*)batch->fields[0] + i * columns;
    const size_t label = (size_t)batch->classes[i];
    double p[MAX_CLASSES] = {0}, largest = -HUGE_VAL, sum = 0;
    for (k = 0; k < classes; ++k) {
      p[k] = weights[k][columns];
      for (j = 0; j < columns; ++j) p[k] += weights[k][j] * (double)row[j];
      if (p[k] > largest) largest = p[k];
    }
    for (k = 0; k < classes; ++k) sum += p[k] = exp(p[k] - largest);
    losses[i] = (float)-log(p[label] / sum);
    for (k = 0; k < classes; ++k) {
      const double slope = p[k] / sum - (k == label ? 1 : 0);
      for (j = 0; j < columns; ++j) gradient[k][j] += slope * (double)row[j];
      gradient[k][columns] += slope;
    }
  }
  for (k = 0; k < classes; ++k)
    for (j = 0; j <= columns; ++j) weights[k][j] -= 0.1 * gradient[k][j] / (double)batch->num_rows;
}

/* Write weights and state to a new file that replaces the old one at once. */
static void save(l2m_loader* loader, const char* path, const char* temporary) {
  size_t size = 0;
  char* state;
  FILE* file = fopen(temporary, "wb");
  check(loader, l2m_state_size(loader, L2M_LAST, &size));
  state = malloc(size);
  if (file == NULL || state == NULL) fail(temporary, "cannot be written");
  check(loader, l2m_state_save(loader, L2M_LAST, state, size, NULL));
  if (fwrite(weights, sizeof weights, 1, file) != 1 || fwrite(state, size, 1, file) != 1 || fflush(file) != 0 ||
      fsync(fileno(file)) != 0 || fclose(file) != 0 || rename(temporary, path) != 0)
    fail(path, "cannot be written");
  free(state);
}

static void resume(l2m_loader* loader, const char* path) {
  FILE* file = fopen(path, "rb");
  static char state[1 << 20];
  size_t size;
  if (file == NULL) return; /* the first run */
  if (fread(weights, sizeof weights, 1, file) != 1) fail(path, "is too short");
  size = fread(state, 1, sizeof state, file);
  fclose(file);
  check(loader, l2m_state_load(loader, state, size));
}

int main(int argc, char** argv) {
  l2m_options options;
  l2m_parameter rate = {"mixing_rate", 0.5};
  l2m_field field;
  l2m_loader* loader;
  const l2m_batch* batch;
  uint64_t epoch = 0;
  const uint64_t epochs = argc > 3 ? strtoul(argv[3], NULL, 10) : 20;
  char error[256], temporary[4096];
  float losses[32];
  size_t k;
  if (argc < 3) fail("usage", "train data.csv checkpoint [epochs]");
  snprintf(temporary, sizeof temporary, "%s.new", argv[2]);
  read_csv(argv[1]);
  field.data = x, field.row_bytes = columns * (int64_t)sizeof *x, field.stride = 0;
  l2m_options_init(&options, sizeof options);
  options.num_rows = rows, options.fields = &field, options.num_fields = 1;
  options.classes = y, options.class_type = L2M_INT32;
  options.batch_size = (int64_t)(sizeof losses / sizeof *losses);
  options.mixing = "Learn2Mix", options.parameters = &rate, options.num_parameters = 1;
  if (l2m_create(&options, 1, &loader, error, sizeof error) != L2M_OK) fail("l2m_create", error);
  check(loader, l2m_num_classes(loader, &classes));
  resume(loader, argv[2]);
  for (;;) {
    int code;
    check(loader, l2m_progress(loader, &epoch, NULL, NULL));
    if (epoch >= epochs) break;
    code = l2m_next(loader, &batch);
    if (code == L2M_END) continue;
    check(loader, code);
    step(batch, losses);
    check(loader, l2m_record(loader, losses, batch->num_rows, NULL, L2M_LAST));
    check(loader, l2m_release(loader, batch));
    save(loader, argv[2], temporary);
  }
  for (k = 0; k < classes; ++k) printf("class %d: bias %.17g\n", (int)k, weights[k][columns]);
  l2m_free(loader);
  free(x);
  free(y);
  return 0;
}
