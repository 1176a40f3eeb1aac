// The whole loader through the C API: a program whose size `make cross` reports.

#include <cstddef>

#include "l2m.h"

constexpr int kRows = 100, kBatch = 10;

int main() {
  static unsigned char data[kRows][8], classes[kRows], state[4096];
  const l2m_field field{data, sizeof(data[0]), 0};
  const l2m_parameter rate{"mixing_rate", 0.5};
  const float losses[kBatch] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  double proportions[3];
  std::size_t size = 0;
  l2m_options options;
  l2m_loader* loader = nullptr;
  const l2m_batch* batch = nullptr;
  for (int i = 0; i < kRows; ++i) classes[i] = i % 10 == 0 ? 2 : i % 3 == 0;
  if (l2m_options_init(&options, sizeof options) != L2M_OK) return 1;
  options.num_rows = kRows;
  options.fields = &field;
  options.num_fields = 1;
  options.classes = classes;
  options.class_type = L2M_UINT8;
  options.batch_size = kBatch;
  options.mixing = "Learn2Mix";
  options.parameters = &rate;
  options.num_parameters = 1;
  if (l2m_create(&options, 1, &loader, nullptr, 0) != L2M_OK) return 2;
  for (int epoch = 0; epoch < 3; ++epoch) {
    int code = L2M_OK;
    while ((code = l2m_next(loader, &batch)) == L2M_OK) {
      code = l2m_record(loader, losses, batch->num_rows, nullptr, L2M_LAST);
      if (code != L2M_OK || l2m_release(loader, batch) != L2M_OK) return 3;
    }
    if (code != L2M_END || l2m_state_save(loader, L2M_LAST, state, sizeof state, &size) != L2M_OK) return 4;
    if (l2m_state_load(loader, state, size) != L2M_OK) return 5;
  }
  if (l2m_proportions(loader, proportions, 3) != L2M_OK || l2m_free(loader) != L2M_OK) return 6;
  return proportions[0] > 0 && proportions[0] < 1 ? 0 : 7;
}
