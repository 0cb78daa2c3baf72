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
#include <numeric>

#include "rsuper/logistic.h"

namespace rsuper {
namespace {

constexpr double kTie = 1e-6;
constexpr std::int64_t kBlock = 4;
constexpr std::int64_t kTileDepth = 8, kTileHeight = 8, kTileWidth = 16;

// Half width of the kernel's row at (dz, dy), -1 outside the ball, and the weights along each axis.
class Rows {
 public:
  explicit Rows(const BallKernel& kernel) {
    for (std::size_t i = 0; i < kernel.runs.size(); i += 3) {
      reach_z_ = std::max<std::int64_t>(reach_z_, kernel.runs[i]);
      reach_y_ = std::max<std::int64_t>(reach_y_, kernel.runs[i + 1]);
      reach_x_ = std::max<std::int64_t>(reach_x_, kernel.runs[i + 2]);
    }
    half_widths_.assign((2 * reach_z_ + 1) * (2 * reach_y_ + 1), -1);
    for (std::size_t i = 0; i < kernel.runs.size(); i += 3)
      half_widths_[(kernel.runs[i] + reach_z_) * (2 * reach_y_ + 1) + kernel.runs[i + 1] + reach_y_] =
          kernel.runs[i + 2];
    z_ = profile(reach_z_, kernel.steps[0], kernel.falloff);
    y_ = profile(reach_y_, kernel.steps[1], kernel.falloff);
    x_ = profile(reach_x_, kernel.steps[2], kernel.falloff);
  }

  std::int64_t reach_z() const { return reach_z_; }
  std::int64_t reach_y() const { return reach_y_; }
  std::int64_t reach_x() const { return reach_x_; }
  const double* x_weights() const { return x_.data(); }  // of the offsets 0, 1, 2, ...

  bool contains(std::int64_t dz, std::int64_t dy) const {
    return std::abs(dz) <= reach_z_ && std::abs(dy) <= reach_y_ && half_width(dz, dy) >= 0;
  }
  std::int64_t half_width(std::int64_t dz, std::int64_t dy) const {
    return half_widths_[(dz + reach_z_) * (2 * reach_y_ + 1) + dy + reach_y_];
  }
  double weight(std::int64_t dz, std::int64_t dy) const { return z_[std::abs(dz)] * y_[std::abs(dy)]; }

 private:
  static std::vector<double> profile(std::int64_t reach, double step, double falloff) {
    std::vector<double> weights;
    for (std::int64_t i = 0; i <= reach; ++i) weights.push_back(std::exp(-falloff * (i * step) * (i * step)));
    return weights;
  }

  std::int64_t reach_z_ = 0, reach_y_ = 0, reach_x_ = 0;
  std::vector<std::int64_t> half_widths_;
  std::vector<double> z_, y_, x_;
};

struct Box {
  std::int64_t z0, y0, x0;
  Grid size;
  bool empty() const { return size.voxels() <= 0; }
};

Box bounding_box(const std::uint8_t* mask, const Grid& grid) {
  Box low{grid.d, grid.h, grid.w, {}};
  std::int64_t z1 = 0, y1 = 0, x1 = 0;
  for (std::int64_t z = 0; z < grid.d; ++z)
    for (std::int64_t y = 0; y < grid.h; ++y) {
      const std::uint8_t* row = mask + (z * grid.h + y) * grid.w;
      std::int64_t first = 0, last = grid.w;
      while (first < last && row[first] == 0) ++first;
      if (first == last) continue;
      while (row[last - 1] == 0) --last;
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
        values_(size_.d * size_.h * stride_), empty_(size_.d * size_.h, 1) {
    for (std::int64_t z = 0; z < size_.d; ++z)
      for (std::int64_t y = 0; y < size_.h; ++y) {
        const std::int64_t from = ((z + box.z0) * grid.h + y + box.y0) * grid.w + box.x0;
        float* to = values_.data() + (z * size_.h + y) * stride_ + room_;
        bool any = false;
        for (std::int64_t x = 0; x < size_.w; ++x) {
          to[x] = available[from + x] ? probability[from + x] : 0.0f;
          any |= to[x] != 0.0f;
        }
        empty_[z * size_.h + y] = !any;
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
    const std::vector<double> sums = block_sums(field);
    const std::int64_t reach_z = reach(kernel.steps[0], limit), reach_y = reach(kernel.steps[1], limit);
    for (std::int64_t dz = -reach_z; dz <= reach_z; ++dz)
      for (std::int64_t dy = -reach_y; dy <= reach_y; ++dy) add_rows(sums, kernel, limit, dz, dy);
  }

  double largest(std::int64_t z0, std::int64_t y0, std::int64_t x0) const {
    double bound = 0;
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

  std::vector<double> block_sums(const Field& field) const {
    std::vector<double> sums(size_.voxels());
    for (std::int64_t z = 0; z < field.size().d; ++z)
      for (std::int64_t y = 0; y < field.size().h; ++y) {
        if (field.empty(z, y)) continue;
        double* out = sums.data() + (z / kBlock * size_.h + y / kBlock) * size_.w;
        const float* row = field.row(z, y);
        for (std::int64_t x = 0; x < field.size().w; ++x) out[x / kBlock] += row[x];
      }
    return sums;
  }

  void add_rows(const std::vector<double>& sums, const BallKernel& kernel, double limit, std::int64_t dz,
                std::int64_t dy) {
    const double z = nearest(dz, kernel.steps[0]), y = nearest(dy, kernel.steps[1]);
    for (std::int64_t dx = 0;; ++dx) {
      const double x = nearest(dx, kernel.steps[2]), squared = z * z + y * y + x * x;
      if (squared > limit) return;
      const double weight = std::exp(-kernel.falloff * squared);
      shift_add(sums, weight, dz, dy, dx);
      if (dx > 0) shift_add(sums, weight, dz, dy, -dx);
    }
  }

  void shift_add(const std::vector<double>& sums, double weight, std::int64_t dz, std::int64_t dy, std::int64_t dx) {
    const std::int64_t first = std::max<std::int64_t>(0, -dx), last = std::min(size_.w, size_.w - dx);
    for (std::int64_t z = std::max<std::int64_t>(0, -dz); z < std::min(size_.d, size_.d - dz); ++z)
      for (std::int64_t y = std::max<std::int64_t>(0, -dy); y < std::min(size_.h, size_.h - dy); ++y) {
        double* out = bounds_.data() + (z * size_.h + y) * size_.w;
        const double* in = sums.data() + ((z + dz) * size_.h + y + dy) * size_.w + dx;
        for (std::int64_t x = first; x < last; ++x) out[x] += weight * in[x];
      }
  }

  const Grid size_;
  std::vector<double> bounds_;
};

struct Tile {
  std::int64_t z, y, x;
  double bound;
};

using TileScores = double[kTileDepth][kTileHeight][kTileWidth];

// widened[w] = sum over |dx| <= w of weight(dx) * row(x + dx), for the tile's width of x.
RSUPER_MULTIVERSION void widen_row(const float* row, const double* weights, std::int64_t reach,
                                   double (*widened)[kTileWidth]) {
  for (int x = 0; x < kTileWidth; ++x) widened[0][x] = weights[0] * row[x];
  for (std::int64_t w = 1; w <= reach; ++w)
    for (int x = 0; x < kTileWidth; ++x)
      widened[w][x] = widened[w - 1][x] + weights[w] * (static_cast<double>(row[x - w]) + row[x + w]);
}

RSUPER_MULTIVERSION void add_scaled(const double* row, double weight, double* out) {
  for (int x = 0; x < kTileWidth; ++x) out[x] += weight * row[x];
}

void score_tile(const Field& field, const Rows& rows, const Tile& tile, double (*widened)[kTileWidth],
                TileScores& scores) {
  std::fill(&scores[0][0][0], &scores[0][0][0] + kTileDepth * kTileHeight * kTileWidth, 0.0);
  const Grid& size = field.size();
  const std::int64_t depth = std::min(kTileDepth, size.d - tile.z), height = std::min(kTileHeight, size.h - tile.y);
  const std::int64_t z_end = std::min(size.d, tile.z + depth + rows.reach_z());
  const std::int64_t y_end = std::min(size.h, tile.y + height + rows.reach_y());
  for (std::int64_t z = std::max<std::int64_t>(0, tile.z - rows.reach_z()); z < z_end; ++z)
    for (std::int64_t y = std::max<std::int64_t>(0, tile.y - rows.reach_y()); y < y_end; ++y) {
      if (field.empty(z, y)) continue;
      std::int64_t widest = -1;
      for (std::int64_t i = 0; i < depth; ++i)
        for (std::int64_t j = 0; j < height; ++j)
          if (rows.contains(z - tile.z - i, y - tile.y - j))
            widest = std::max(widest, rows.half_width(z - tile.z - i, y - tile.y - j));
      if (widest < 0) continue;
      widen_row(field.row(z, y) + tile.x, rows.x_weights(), widest, widened);
      for (std::int64_t i = 0; i < depth; ++i)
        for (std::int64_t j = 0; j < height; ++j) {
          const std::int64_t dz = z - tile.z - i, dy = y - tile.y - j;
          if (rows.contains(dz, dy)) add_scaled(widened[rows.half_width(dz, dy)], rows.weight(dz, dy), scores[i][j]);
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
      if (next < tiles.size() && tiles[next].bound * (1 + kTie) >= best.score()) tile = &tiles[next++];
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
