// SPDX-License-Identifier: Apache-2.0
// The most probable voxels of a ball. A voxel is one 64-bit key, its probability above and its index, inverted, below:
// keys differ, and the order of keys is the order of selection, ties included.
#include "rsuper/ball_select.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "rsuper/logistic.h"

namespace rsuper {
namespace {

using Key = std::uint64_t;

// Probabilities are not negative, so their bits are in their order. A plane has fewer than 2^32 voxels.
Key key_of(float probability, std::int64_t index) {
  return static_cast<Key>(bit_cast<std::uint32_t>(probability + 0.0f)) << 32 | (0xffffffffu - static_cast<Key>(index));
}

std::int64_t index_of(Key key) { return 0xffffffffu - (key & 0xffffffffu); }

struct Span {
  std::int64_t first, last;
};

// Indices along an axis within sqrt(limit) of the centre.
Span reach(std::int64_t centre, std::int64_t size, double step, double limit) {
  Span span{centre, centre};
  const auto inside = [&](std::int64_t i) { return (i - centre) * step * ((i - centre) * step) <= limit; };
  while (span.first > 0 && inside(span.first - 1)) --span.first;
  while (span.last < size - 1 && inside(span.last + 1)) ++span.last;
  return span;
}

// Calls body(index) for every available voxel within the ball, by rising index.
template <typename Body>
void for_each_in_ball(const std::uint8_t* available, const Grid& grid, std::int64_t centre, const double* steps,
                      double limit, const Body& body) {
  const std::int64_t cz = centre / (grid.h * grid.w), cy = centre / grid.w % grid.h, cx = centre % grid.w;
  const Span zs = reach(cz, grid.d, steps[0], limit), ys = reach(cy, grid.h, steps[1], limit);
  for (std::int64_t z = zs.first; z <= zs.last; ++z)
    for (std::int64_t y = ys.first; y <= ys.last; ++y) {
      const double dz = (z - cz) * steps[0], dy = (y - cy) * steps[1];
      for (std::int64_t x = 0; x < grid.w; ++x) {
        const double dx = (x - cx) * steps[2];
        const std::int64_t index = (z * grid.h + y) * grid.w + x;
        if (dz * dz + dy * dy + dx * dx <= limit && available[index]) body(index);
      }
    }
}

std::vector<std::int64_t> grown_ball(const std::uint8_t* available, const Grid& grid, const Selection& selection) {
  std::vector<std::int64_t> ball;
  for (const double limit : selection.squared_radii) {
    ball.clear();
    for_each_in_ball(available, grid, selection.centre, selection.steps, limit,
                     [&](std::int64_t index) { ball.push_back(index); });
    if (static_cast<std::int64_t>(ball.size()) >= selection.needed) break;
  }
  return ball;
}

// Marks the `count` highest of `keys`, which it reorders.
void mark_highest(std::vector<Key>& keys, std::int64_t count, std::uint8_t* mask) {
  count = std::min<std::int64_t>(count, keys.size());
  if (count < static_cast<std::int64_t>(keys.size()))
    std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<Key>());
  for (std::int64_t i = 0; i < count; ++i) mask[index_of(keys[i])] = 1;
}

// As mark_highest, where all voxels of the patch compete, those outside the ball with probability 0.
void mark_highest_of_patch(std::vector<Key>& keys, const std::uint8_t* ball, std::int64_t voxels, std::int64_t count,
                           std::uint8_t* mask) {
  const auto zeros = std::partition(keys.begin(), keys.end(), [](Key key) { return key >> 32 != 0; });
  const std::int64_t positive = zeros - keys.begin();
  if (count <= positive) {
    std::vector<Key> above(keys.begin(), zeros);
    mark_highest(above, count, mask);
    return;
  }
  for (auto key = keys.begin(); key != zeros; ++key) mask[index_of(*key)] = 1;
  // the rest are zeros by rising index, of which only those in the ball remain
  std::int64_t left = count - positive;
  for (std::int64_t index = 0; index < voxels && left > 0; ++index) {
    if (mask[index]) continue;
    mask[index] = ball[index];
    --left;
  }
}

}  // namespace

void ball_select(const float* probability, const std::uint8_t* available, const Grid& grid, const Selection& selection,
                 std::uint8_t* masks) {
  const std::int64_t voxels = grid.voxels();
  std::memset(masks, 0, voxels * (1 + selection.counts.size()));
  if (selection.centre < 0) return;
  std::vector<Key> keys;
  for (const std::int64_t index : grown_ball(available, grid, selection)) {
    masks[index] = 1;
    keys.push_back(key_of(probability[index], index));
  }
  std::uint8_t* mask = masks + voxels;
  for (const std::int64_t count : selection.counts) {
    if (selection.outside_competes) {
      mark_highest_of_patch(keys, masks, voxels, std::min(count, voxels), mask);
    } else {
      mark_highest(keys, count, mask);
    }
    mask += voxels;
  }
}

void rank_weights(const float* probability, const std::uint8_t* mask, std::int64_t voxels, double concentration,
                  float* weights) {
  std::memset(weights, 0, voxels * sizeof(float));
  std::vector<Key> keys;
  for (std::int64_t index = 0; index < voxels; ++index)
    if (mask[index]) keys.push_back(key_of(probability[index], index));
  std::sort(keys.begin(), keys.end(), std::greater<Key>());
  const double count = static_cast<double>(keys.size());
  const double d = static_cast<float>(std::pow(1 - concentration, 1 / std::max(count, 1.0)));
  std::vector<double> decay(keys.size());
  double total = 0;
  for (std::size_t rank = 0; rank < keys.size(); ++rank) total += decay[rank] = std::pow(d, static_cast<double>(rank));
  for (std::size_t rank = 0; rank < keys.size(); ++rank)
    weights[index_of(keys[rank])] = static_cast<float>(decay[rank] * count / total);
}

}  // namespace rsuper
