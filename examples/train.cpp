// Train logistic regression in C++ on three classes of different size and difficulty; the mix follows the losses.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "l2m/data/dense.hpp"
#include "l2m/loader.hpp"
#include "l2m/mixing/learn2mix.hpp"

using Point = std::array<float, 2>;
using Weights = std::array<std::array<double, 3>, 3>;  // per class: weights of the two coordinates, and bias

std::array<double, 3> probabilities(const Weights& weights, const Point& x) {
  std::array<double, 3> p{};
  for (std::size_t k = 0; k < 3; ++k) p[k] = std::exp(weights[k][0] * x[0] + weights[k][1] * x[1] + weights[k][2]);
  const double sum = p[0] + p[1] + p[2];
  for (double& of_class : p) of_class /= sum;
  return p;
}

/// Return the error rate, averaged over the classes.
double error(const Weights& weights, const std::vector<Point>& points, const std::vector<std::int64_t>& labels) {
  std::array<double, 3> wrong{}, count{};
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto p = probabilities(weights, points[i]);
    const auto label = static_cast<std::size_t>(labels[i]);
    wrong[label] += std::ranges::max_element(p) - p.begin() != labels[i];
    ++count[label];
  }
  return (wrong[0] / count[0] + wrong[1] / count[1] + wrong[2] / count[2]) / 3;
}

int main() {
  std::vector<Point> points;
  std::vector<std::int64_t> labels;
  std::mt19937 random(0);
  std::normal_distribution<float> noise;
  const std::array<Point, 3> centers{{{0.0F, 0.0F}, {4.0F, 0.0F}, {1.5F, 1.5F}}};
  const std::array<int, 3> sizes{900, 90, 10};
  for (std::size_t k = 0; k < 3; ++k)
    for (int i = 0; i < sizes[k]; ++i) {
      points.push_back({centers[k][0] + noise(random), centers[k][1] + noise(random)});
      labels.push_back(static_cast<std::int64_t>(k));
    }

  const auto field = [](const auto& rows) {  // not copied: the rows outlive the loader
    return std::make_shared<l2m::Dense>(reinterpret_cast<const std::byte*>(rows.data()), sizeof(rows[0]),
                                        sizeof(rows[0]));
  };
  l2m::LoaderOptions options;
  options.index =
      std::make_shared<l2m::ClassIndex>(std::span<const std::int64_t>(labels), 3, std::ssize(labels), std::nullopt, 1);
  options.fields = {field(points), field(labels)};
  options.has_classes = true;
  options.mixing = std::make_shared<l2m::Learn2Mix>(0.2, 0.0, l2m::Learn2Mix::Start::kProportional);
  options.batch_size = 50;
  options.num_threads = 1;
  options.seed = 0;
  l2m::Loader loader(std::move(options));

  Weights weights{};
  const double before = error(weights, points, labels);
  while (loader.epoch() < 20) {
    const l2m::Iteration iteration = loader.iterate();
    while (const auto batch = loader.next(iteration)) {
      const auto* x = reinterpret_cast<const Point*>(batch->blocks[0].data());
      const auto* y = reinterpret_cast<const std::int64_t*>(batch->blocks[1].data());
      Weights gradient{};
      std::vector<double> losses;
      for (std::int64_t i = 0; i < batch->num_rows; ++i) {
        const auto p = probabilities(weights, x[i]);
        losses.push_back(-std::log(p[static_cast<std::size_t>(y[i])]));
        for (std::size_t k = 0; k < 3; ++k) {
          const double slope = p[k] - (static_cast<std::int64_t>(k) == y[i] ? 1 : 0);
          gradient[k][0] += slope * x[i][0];
          gradient[k][1] += slope * x[i][1];
          gradient[k][2] += slope;
        }
      }
      for (std::size_t k = 0; k < 3; ++k)
        for (std::size_t j = 0; j < 3; ++j)
          weights[k][j] -= 0.1 * gradient[k][j] / static_cast<double>(batch->num_rows);
      loader.record(std::span<const double>(losses));
    }
  }
  const double after = error(weights, points, labels);
  const std::vector<double>& mix = loader.proportions();
  std::printf("error %.3f before, %.3f after 20 epochs; mix %.2f, %.2f, %.2f\n", before, after, mix[0], mix[1], mix[2]);
  return after < before ? 0 : 1;
}
