// SPDX-License-Identifier: Apache-2.0
// Weights by rank: a stable radix sort of the probabilities, and powers of d as products of two short tables.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "rsuper/ball_select.h"
#include "rsuper/logistic.h"

namespace rsuper {
namespace {

struct Ranked {
  std::uint32_t key;  // rises while the probability falls
  std::uint32_t place;
};

// Stable, by rising key, 11 bits at a time.
std::vector<Ranked> sorted(std::vector<Ranked> items) {
  constexpr int kDigit = 11;
  std::vector<Ranked> out(items.size());
  for (int shift = 0; shift < 32; shift += kDigit) {
    const auto digit = [shift](const Ranked& item) { return item.key >> shift & ((1u << kDigit) - 1); };
    std::array<std::uint32_t, (1 << kDigit) + 1> starts{};
    for (const Ranked& item : items) ++starts[digit(item) + 1];
    for (std::size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    for (const Ranked& item : items) out[starts[digit(item)]++] = item;
    items.swap(out);
  }
  return items;
}

// n d^rank / sum of d^i, to the last digits of double.
std::vector<double> weights_of_ranks(std::int64_t count, double concentration) {
  constexpr std::int64_t kBlock = 64;
  const double d = static_cast<float>(std::pow(1 - concentration, 1.0 / std::max<std::int64_t>(count, 1)));
  double fine[kBlock], total = 0;
  for (std::int64_t i = 0; i < kBlock; ++i) fine[i] = std::pow(d, static_cast<double>(i));
  std::vector<double> weights(count);
  for (std::int64_t first = 0; first < count; first += kBlock) {
    const double coarse = std::pow(d, static_cast<double>(first));
    for (std::int64_t i = first; i < std::min(first + kBlock, count); ++i)
      total += weights[i] = coarse * fine[i - first];
  }
  for (double& weight : weights) weight *= count / total;
  return weights;
}

// The weight of each probability, in their order.
void weigh(const std::vector<float>& probabilities, double concentration, float* weights) {
  std::vector<Ranked> items(probabilities.size());
  // probabilities are not negative, so their bits are in their order; adding 0 makes -0 one of them
  for (std::size_t i = 0; i < items.size(); ++i)
    items[i] = {~bit_cast<std::uint32_t>(probabilities[i] + 0.0f), static_cast<std::uint32_t>(i)};
  items = sorted(std::move(items));
  const std::vector<double> of_rank = weights_of_ranks(items.size(), concentration);
  for (std::size_t rank = 0; rank < items.size(); ++rank)
    weights[items[rank].place] = static_cast<float>(of_rank[rank]);
}

}  // namespace

void rank_weights(const float* probability, const std::uint8_t* mask, std::int64_t voxels, double concentration,
                  float* weights) {
  std::vector<float> inside;
  for (std::int64_t i = 0; i < voxels; ++i)
    if (mask[i]) inside.push_back(probability[i]);
  std::vector<float> found(inside.size());
  weigh(inside, concentration, found.data());
  auto next = found.begin();
  for (std::int64_t i = 0; i < voxels; ++i) weights[i] = mask[i] ? *next++ : 0.0f;
}

void foreground_weights(const MaskedField& field, double concentration, std::int64_t limit, float* weights) {
  if (field.available() > limit)
    throw std::invalid_argument("limits: a mask holds " + std::to_string(field.available()) + " voxels, more than " +
                                std::to_string(limit));
  std::vector<float> inside, row(field.grid().w + 2 * kLanes);
  inside.reserve(field.available());
  const Box& box = field.extent();
  const std::int64_t first = box.x0 / kLanes * kLanes, count = (box.x1 - first + kLanes - 1) / kLanes * kLanes;
  for (std::int64_t z = box.z0; z < box.z1; ++z)
    for (std::int64_t y = box.y0; y < box.y1; ++y)
      if (field.read(z, y, first, count, row.data()))
        for (std::int64_t x = box.x0; x < box.x1; ++x)
          if (bit_at(field.bits(z, y), x)) inside.push_back(row[x - first]);
  weigh(inside, concentration, weights);
  std::fill(weights + inside.size(), weights + limit, 0.0f);
}

}  // namespace rsuper
