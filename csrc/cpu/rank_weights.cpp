// SPDX-License-Identifier: Apache-2.0
// Weights by rank: a stable radix sort of the probabilities, and powers of d as products of two short tables.
#include <algorithm>
#include <array>
#include <stdexcept>

#include "rsuper/ball_select.h"
#include "rsuper/rank_weights.h"
#include "rsuper/recycled.h"
#include "rsuper/voxel_keys.h"

namespace rsuper {
namespace {

struct Ranked {
  std::uint32_t key;  // rises while the probability falls
  std::uint32_t place;
};

// Stable, by rising key, 11 bits at a time.
Scratch<Ranked> sorted(Scratch<Ranked> items) {
  constexpr int kDigit = 11;
  Scratch<Ranked> out(items.size());
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

// Rounded once.
Scratch<float> weights_of_ranks(std::int64_t count, double concentration) {
  constexpr std::int64_t kBlock = 64;
  const double decay = decay_of(count, concentration), scale = weight_scale(decay, count);
  double fine[kBlock];
  for (std::int64_t i = 0; i < kBlock; ++i) fine[i] = decay_power(decay, i);
  Scratch<float> weights(count);
  for (std::int64_t first = 0; first < count; first += kBlock) {
    const double coarse = scale * decay_power(decay, first);
    for (std::int64_t rank = first; rank < std::min(first + kBlock, count); ++rank)
      weights[rank] = static_cast<float>(coarse * fine[rank - first]);
  }
  return weights;
}

// The weight of each item, by its place.
void weigh(Scratch<Ranked> items, double concentration, float* weights) {
  items = sorted(std::move(items));
  const Scratch<float> of_rank = weights_of_ranks(items.size(), concentration);
  for (std::size_t rank = 0; rank < items.size(); ++rank) weights[items[rank].place] = of_rank[rank];
}

}  // namespace

void rank_weights(const float* probability, const std::uint8_t* mask, std::int64_t voxels, double concentration,
                  float* weights) {
  Scratch<Ranked> inside;
  for (std::int64_t i = 0; i < voxels; ++i)
    if (mask[i]) inside.push_back({falling_key(probability[i]), static_cast<std::uint32_t>(i)});
  std::fill(weights, weights + voxels, 0.0f);
  weigh(std::move(inside), concentration, weights);
}

void foreground_weights(const MaskedField& field, double concentration, std::int64_t limit, float* weights) {
  if (field.available() > limit)
    throw std::invalid_argument("limits: a mask holds " + std::to_string(field.available()) + " voxels, more than " +
                                std::to_string(limit));
  Scratch<Ranked> inside;
  inside.reserve(field.available());
  std::vector<float> row(field.grid().w + 2 * kLanes);
  const Box& box = field.extent();
  const std::int64_t first = box.x0 / kLanes * kLanes, count = (box.x1 - first + kLanes - 1) / kLanes * kLanes;
  for (std::int64_t z = box.z0; z < box.z1; ++z)
    for (std::int64_t y = box.y0; y < box.y1; ++y)
      if (field.read(z, y, first, count, row.data()))
        for (std::int64_t x = box.x0; x < box.x1; ++x)
          if (bit_at(field.bits(z, y), x))
            inside.push_back({falling_key(row[x - first]), static_cast<std::uint32_t>(inside.size())});
  std::fill(weights + inside.size(), weights + limit, 0.0f);
  weigh(std::move(inside), concentration, weights);
}

}  // namespace rsuper
