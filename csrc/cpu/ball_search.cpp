// SPDX-License-Identifier: Apache-2.0
// Exact argmax of a ball convolution by branch and bound, on the bounding box of the available voxels.
//
// Centres are taken in tiles. A tile's upper bound comes from sums over blocks of 4 x 4 x 4 voxels: no voxel of a block is
// nearer to a centre than the nearest voxels of their blocks are, so the convolution of the block sums with the kernel at
// these smallest distances cannot be below any score of the tile. Tiles are scored exactly, best bound first, while
// their bound reaches the best score. Scores are sums in double, far more exact than the width within which scores tie.
#include "rsuper/ball_search.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "rsuper/chunks.h"

namespace rsuper {
namespace {

constexpr double kTie = 1e-6;
// Bounds are sums of positive floats; their rounding stays far below this.
constexpr double kBoundSlack = 1e-4;
constexpr std::int64_t kBlock = 4;
constexpr std::int64_t kTileDepth = 8, kTileHeight = 8, kTileWidth = 16;

// The kernel as rows along x: their half widths, -1 outside the ball, and the weights along each axis. Rows may be asked
// for as far outside the ball as a tile reaches.
class Rows {
 public:
  explicit Rows(const BallKernel& kernel) {
    for (std::size_t i = 0; i < kernel.runs.size(); i += 3) {
      reach_z_ = std::max<std::int64_t>(reach_z_, kernel.runs[i]);
      reach_y_ = std::max<std::int64_t>(reach_y_, kernel.runs[i + 1]);
      reach_x_ = std::max<std::int64_t>(reach_x_, kernel.runs[i + 2]);
    }
    stride_ = 2 * (reach_y_ + kTileHeight) + 1;
    half_widths_.assign((2 * (reach_z_ + kTileDepth) + 1) * stride_, -1);
    for (std::size_t i = 0; i < kernel.runs.size(); i += 3)
      half_widths_[place(kernel.runs[i], kernel.runs[i + 1])] = kernel.runs[i + 2];
    z_ = profile(reach_z_ + kTileDepth, kernel.steps[0], kernel.falloff);
    y_ = profile(reach_y_ + kTileHeight, kernel.steps[1], kernel.falloff);
    x_ = profile(reach_x_, kernel.steps[2], kernel.falloff);
  }

  std::int64_t reach_z() const { return reach_z_; }
  std::int64_t reach_y() const { return reach_y_; }
  std::int64_t reach_x() const { return reach_x_; }
  const double* x_weights() const { return x_.data(); }  // of the offsets 0, 1, 2, ...
  std::int64_t half_width(std::int64_t dz, std::int64_t dy) const { return half_widths_[place(dz, dy)]; }
  double weight(std::int64_t dz, std::int64_t dy) const { return z_[std::abs(dz)] * y_[std::abs(dy)]; }

 private:
  std::int64_t place(std::int64_t dz, std::int64_t dy) const {
    return (dz + reach_z_ + kTileDepth) * stride_ + dy + reach_y_ + kTileHeight;
  }

  static std::vector<double> profile(std::int64_t reach, double step, double falloff) {
    std::vector<double> weights;
    for (std::int64_t i = 0; i <= reach; ++i) weights.push_back(std::exp(-falloff * (i * step) * (i * step)));
    return weights;
  }

  std::int64_t reach_z_ = 0, reach_y_ = 0, reach_x_ = 0, stride_ = 0;
  std::vector<std::int64_t> half_widths_;
  std::vector<double> z_, y_, x_;
};

struct Box {
  std::int64_t z0, y0, x0;
  Grid size;
  bool empty() const { return size.voxels() <= 0; }
};

// Row of the field: the probabilities of available voxels, 0 elsewhere. Returns whether any is not 0.
RSUPER_MULTIVERSION bool copy_available(const float* probability, const std::uint8_t* available, std::int64_t count,
                                        float* out) {
  std::uint32_t any = 0;
  for (std::int64_t x = 0; x < count; ++x) {
    const float value = available[x] ? probability[x] : 0.0f;
    out[x] = value;
    any |= bit_cast<std::uint32_t>(value);
  }
  return (any & 0x7fffffffu) != 0;
}

RSUPER_MULTIVERSION void add_scaled(const float* in, float weight, std::int64_t count, float* out) {
  for (std::int64_t x = 0; x < count; ++x) out[x] += weight * in[x];
}

// First and one past the last voxel of a row that is not 0; equal for an empty row.
std::pair<std::int64_t, std::int64_t> occupied(const std::uint8_t* row, std::int64_t width) {
  constexpr std::int64_t kWord = sizeof(std::uint64_t);
  const auto word_is_zero = [row](std::int64_t x) {
    std::uint64_t word = 0;
    std::memcpy(&word, row + x, kWord);
    return word == 0;
  };
  std::int64_t first = 0, last = width;
  while (first + kWord <= last && word_is_zero(first)) first += kWord;
  while (first < last && row[first] == 0) ++first;
  while (last - kWord >= first && word_is_zero(last - kWord)) last -= kWord;
  while (last > first && row[last - 1] == 0) --last;
  return {first, last};
}

Box bounding_box(const std::uint8_t* mask, const Grid& grid) {
  Box low{grid.d, grid.h, grid.w, {}};
  std::int64_t z1 = 0, y1 = 0, x1 = 0;
  for (std::int64_t z = 0; z < grid.d; ++z)
    for (std::int64_t y = 0; y < grid.h; ++y) {
      const auto [first, last] = occupied(mask + (z * grid.h + y) * grid.w, grid.w);
      if (first == last) continue;
      low.z0 = std::min(low.z0, z), low.y0 = std::min(low.y0, y), low.x0 = std::min(low.x0, first);
      z1 = std::max(z1, z + 1), y1 = std::max(y1, y + 1), x1 = std::max(x1, last);
    }
  low.size = {std::max<std::int64_t>(z1 - low.z0, 0), y1 - low.y0, x1 - low.x0};
  return low;
}

// The probabilities that count, cut to the box, each row with room for the kernel on both sides.
class Field {
 public:
  Field(const float* probability, const std::uint8_t* available, const Grid& grid, const Box& box, std::int64_t room)
      : size_(box.size), room_(room), stride_(box.size.w + 2 * room + kTileWidth),
        empty_(size_.d * size_.h, 1) {
    values_.reserve(size_.d * size_.h * stride_);
    prefer_large_pages(values_.data(), size_.d * size_.h * stride_ * sizeof(float));
    values_.resize(size_.d * size_.h * stride_);
    for (std::int64_t z = 0; z < size_.d; ++z)
      for (std::int64_t y = 0; y < size_.h; ++y) {
        const std::int64_t from = ((z + box.z0) * grid.h + y + box.y0) * grid.w + box.x0;
        float* to = values_.data() + (z * size_.h + y) * stride_ + room_;
        empty_[z * size_.h + y] = !copy_available(probability + from, available + from, size_.w, to);
      }
  }

  const Grid& size() const { return size_; }
  bool empty(std::int64_t z, std::int64_t y) const { return empty_[z * size_.h + y] != 0; }
  const float* row(std::int64_t z, std::int64_t y) const { return values_.data() + (z * size_.h + y) * stride_ + room_; }

 private:
  const Grid size_;
  const std::int64_t room_, stride_;
  std::vector<float> values_;
  std::vector<std::uint8_t> empty_;
};

std::int64_t blocks_of(std::int64_t voxels) { return (voxels + kBlock - 1) / kBlock; }

// Upper bounds (without the division by the kernel's total) of all scores within each block of centres.
class BlockBounds {
 public:
  BlockBounds(const Field& field, const BallKernel& kernel, double limit)
      : size_{blocks_of(field.size().d), blocks_of(field.size().h), blocks_of(field.size().w)},
        bounds_(size_.voxels()) {
    const std::vector<float> sums = block_sums(field);
    const std::int64_t reach_z = reach(kernel.steps[0], limit), reach_y = reach(kernel.steps[1], limit);
    for (std::int64_t dz = -reach_z; dz <= reach_z; ++dz)
      for (std::int64_t dy = -reach_y; dy <= reach_y; ++dy) add_rows(sums, kernel, limit, dz, dy);
  }

  float largest(std::int64_t z0, std::int64_t y0, std::int64_t x0) const {
    float bound = 0;
    for (std::int64_t z = z0 / kBlock; z < std::min((z0 + kTileDepth) / kBlock, size_.d); ++z)
      for (std::int64_t y = y0 / kBlock; y < std::min((y0 + kTileHeight) / kBlock, size_.h); ++y)
        for (std::int64_t x = x0 / kBlock; x < std::min((x0 + kTileWidth) / kBlock, size_.w); ++x)
          bound = std::max(bound, bounds_[(z * size_.h + y) * size_.w + x]);
    return bound;
  }

 private:
  // Smallest distance between voxels of two blocks, in mm.
  static double nearest(std::int64_t blocks, double step) {
    return std::max<std::int64_t>(kBlock * std::abs(blocks) - (kBlock - 1), 0) * step;
  }

  static std::int64_t reach(double step, double limit) {
    std::int64_t blocks = 0;
    while (nearest(blocks + 1, step) * nearest(blocks + 1, step) <= limit) ++blocks;
    return blocks;
  }

  std::vector<float> block_sums(const Field& field) const {
    std::vector<float> sums(size_.voxels());
    for (std::int64_t z = 0; z < field.size().d; ++z)
      for (std::int64_t y = 0; y < field.size().h; ++y) {
        if (field.empty(z, y)) continue;
        float* out = sums.data() + (z / kBlock * size_.h + y / kBlock) * size_.w;
        const float* row = field.row(z, y);
        for (std::int64_t x = 0; x < field.size().w; ++x) out[x / kBlock] += row[x];
      }
    return sums;
  }

  void add_rows(const std::vector<float>& sums, const BallKernel& kernel, double limit, std::int64_t dz,
                std::int64_t dy) {
    const double z = nearest(dz, kernel.steps[0]), y = nearest(dy, kernel.steps[1]);
    for (std::int64_t dx = 0;; ++dx) {
      const double x = nearest(dx, kernel.steps[2]), squared = z * z + y * y + x * x;
      if (squared > limit) return;
      const auto weight = static_cast<float>(std::exp(-kernel.falloff * squared));
      shift_add(sums, weight, dz, dy, dx);
      if (dx > 0) shift_add(sums, weight, dz, dy, -dx);
    }
  }

  void shift_add(const std::vector<float>& sums, float weight, std::int64_t dz, std::int64_t dy, std::int64_t dx) {
    const std::int64_t first = std::max<std::int64_t>(0, -dx), last = std::min(size_.w, size_.w - dx);
    if (first >= last) return;
    for (std::int64_t z = std::max<std::int64_t>(0, -dz); z < std::min(size_.d, size_.d - dz); ++z)
      for (std::int64_t y = std::max<std::int64_t>(0, -dy); y < std::min(size_.h, size_.h - dy); ++y)
        add_scaled(sums.data() + ((z + dz) * size_.h + y + dy) * size_.w + dx + first, weight, last - first,
                   bounds_.data() + (z * size_.h + y) * size_.w + first);
  }

  const Grid size_;
  std::vector<float> bounds_;
};

struct Tile {
  std::int64_t z, y, x;
  float bound;
};

using TileScores = double[kTileDepth][kTileHeight][kTileWidth];

// Offset from the nearest of `size` places from `start` on to a place, 0 among them.
inline std::int64_t nearest_offset(std::int64_t place, std::int64_t start, std::int64_t size) {
  if (place < start) return place - start;
  return std::max<std::int64_t>(place - (start + size - 1), 0);
}

// widened[w] is room for the sums over |dx| <= w of weight(dx) * row(x + dx), for the tile's width of x.
RSUPER_MULTIVERSION void score_tile(const Field& field, const Rows& rows, const Tile& tile,
                                    double (*widened)[kTileWidth], TileScores& scores) {
  std::memset(scores, 0, sizeof scores);
  const Grid& size = field.size();
  const std::int64_t depth = std::min(kTileDepth, size.d - tile.z), height = std::min(kTileHeight, size.h - tile.y);
  const std::int64_t z_end = std::min(size.d, tile.z + depth + rows.reach_z());
  const std::int64_t y_end = std::min(size.h, tile.y + height + rows.reach_y());
  const double* x_weights = rows.x_weights();
  for (std::int64_t z = std::max<std::int64_t>(0, tile.z - rows.reach_z()); z < z_end; ++z)
    for (std::int64_t y = std::max<std::int64_t>(0, tile.y - rows.reach_y()); y < y_end; ++y) {
      // rows of the kernel are widest at its centre
      const std::int64_t widest =
          rows.half_width(nearest_offset(z, tile.z, depth), nearest_offset(y, tile.y, height));
      if (widest < 0 || field.empty(z, y)) continue;
      const float* row = field.row(z, y) + tile.x;
      for (int x = 0; x < kTileWidth; ++x) widened[0][x] = x_weights[0] * row[x];
      for (std::int64_t w = 1; w <= widest; ++w)
        for (int x = 0; x < kTileWidth; ++x)
          widened[w][x] = widened[w - 1][x] + x_weights[w] * (static_cast<double>(row[x - w]) + row[x + w]);
      for (std::int64_t i = 0; i < depth; ++i)
        for (std::int64_t j = 0; j < height; ++j) {
          const std::int64_t half_width = rows.half_width(z - tile.z - i, y - tile.y - j);
          if (half_width < 0) continue;
          const double weight = rows.weight(z - tile.z - i, y - tile.y - j);
          for (int x = 0; x < kTileWidth; ++x) scores[i][j][x] += weight * widened[half_width][x];
        }
    }
}

struct Candidate {
  std::int64_t index;  // in the box
  double score;
};

// The best score so far, and all centres that tie with it.
class Best {
 public:
  double score() const { return score_; }

  void add(const Tile& tile, const Grid& size, const TileScores& scores) {
    for (std::int64_t z = tile.z; z < std::min(tile.z + kTileDepth, size.d); ++z)
      for (std::int64_t y = tile.y; y < std::min(tile.y + kTileHeight, size.h); ++y)
        for (std::int64_t x = tile.x; x < std::min(tile.x + kTileWidth, size.w); ++x) {
          const double score = scores[z - tile.z][y - tile.y][x - tile.x];
          score_ = std::max(score_, score);
          if (score >= score_ * (1 - kTie)) candidates_.push_back({(z * size.h + y) * size.w + x, score});
        }
    if (candidates_.size() > 4 * kept_) prune();
  }

  std::int64_t lowest_index() {
    prune();
    std::int64_t lowest = candidates_.front().index;
    for (const Candidate& candidate : candidates_) lowest = std::min(lowest, candidate.index);
    return lowest;
  }

 private:
  void prune() {
    const double least = score_ * (1 - kTie);
    candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                     [least](const Candidate& candidate) { return candidate.score < least; }),
                      candidates_.end());
    kept_ = std::max<std::size_t>(candidates_.size(), 1024);
  }

  double score_ = 0;
  std::size_t kept_ = 1024;
  std::vector<Candidate> candidates_;
};

double farthest_squared(const BallKernel& kernel) {
  double farthest = 0;
  for (std::size_t i = 0; i < kernel.runs.size(); i += 3) {
    double squared = 0;
    for (int axis = 0; axis < 3; ++axis)
      squared += kernel.runs[i + axis] * kernel.steps[axis] * kernel.runs[i + axis] * kernel.steps[axis];
    farthest = std::max(farthest, squared);
  }
  return farthest;
}

std::vector<Tile> tiles_by_bound(const Field& field, const BlockBounds& bounds) {
  std::vector<Tile> tiles;
  const Grid& size = field.size();
  for (std::int64_t z = 0; z < size.d; z += kTileDepth)
    for (std::int64_t y = 0; y < size.h; y += kTileHeight)
      for (std::int64_t x = 0; x < size.w; x += kTileWidth) tiles.push_back({z, y, x, bounds.largest(z, y, x)});
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.bound > b.bound; });
  return tiles;
}

}  // namespace

BestBall ball_search(const float* probability, const std::uint8_t* available, const Grid& grid,
                     const BallKernel& kernel, int threads) {
  const Box box = bounding_box(available, grid);
  if (box.empty()) return {-1, 0.0};
  const Rows rows(kernel);
  const Field field(probability, available, grid, box, rows.reach_x());
  // the farthest voxel of the ball, with room for rounding: a bound may be too large, never too small
  const double farthest = farthest_squared(kernel) * (1 + 1e-9);
  const std::vector<Tile> tiles = tiles_by_bound(field, BlockBounds(field, kernel, farthest));

  Best best;
  std::size_t next = 0;
#pragma omp parallel num_threads(threads)
  {
    std::vector<double> buffer((rows.reach_x() + 1) * kTileWidth);
    TileScores scores;
    for (;;) {
      const Tile* tile = nullptr;
#pragma omp critical(rsuper_ball_search)
      if (next < tiles.size() && tiles[next].bound * (1 + kBoundSlack) >= best.score()) tile = &tiles[next++];
      if (tile == nullptr) break;
      score_tile(field, rows, *tile, reinterpret_cast<double(*)[kTileWidth]>(buffer.data()), scores);
#pragma omp critical(rsuper_ball_search)
      best.add(*tile, field.size(), scores);
    }
  }
  const std::int64_t index = best.lowest_index(), row = index / box.size.w;
  const std::int64_t z = row / box.size.h + box.z0, y = row % box.size.h + box.y0, x = index % box.size.w + box.x0;
  return {(z * grid.h + y) * grid.w + x, best.score() / kernel.total};
}

}  // namespace rsuper
