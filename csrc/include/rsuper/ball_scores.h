// SPDX-License-Identifier: Apache-2.0
// Sums of a field weighted by a ball around every centre of a tile, in float or in double.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "rsuper/masked_field.h"
#include "rsuper/recycled.h"

namespace rsuper {

// A ball: its runs (dz, dy, half width) as geometry.ball_element gives them, and Gaussian weights exp(-falloff r^2), which
// are divided by `total`, their sum over the ball.
struct BallKernel {
  std::vector<std::int32_t> runs;  // three numbers each
  double steps[3];                 // mm
  double falloff, total;
};

struct Span {
  std::int64_t first, last;  // one past it
  bool holds(std::int64_t i) const { return i >= first && i < last; }
};

// The kernel as rows along x: their half widths, -1 outside the ball, and the weights along each axis, for offsets from 0
// up to those that the grid has room for.
class KernelRows {
 public:
  KernelRows(const BallKernel& kernel, const Grid& grid);
  // The kernel between blocks of `size` voxels a side: each pair of blocks at the smallest distance of their voxels. What
  // it gives is not below what the kernel gives for any voxel of the block.
  KernelRows(const BallKernel& kernel, const Grid& grid, std::int64_t size);

  std::int64_t reach_z() const { return static_cast<std::int64_t>(z_.size()) - 1; }
  std::int64_t reach_y() const { return static_cast<std::int64_t>(y_.size()) - 1; }
  std::int64_t reach_x() const { return static_cast<std::int64_t>(x_.size()) - 1; }
  double z(std::int64_t dz) const { return z_[dz]; }
  double y(std::int64_t dy) const { return y_[dy]; }
  double x(std::int64_t dx) const { return x_[dx]; }
  std::int64_t half_width(std::int64_t dz, std::int64_t dy) const { return half_widths_[dz * y_.size() + dy]; }
  // By how much a score in float may be wrong, relative to it: one rounding of float for each operation on its way.
  double float_error() const { return 0x1p-24 * (2 * reach_x() + 3 * reach_y() + 5 * reach_z() + 20); }

 private:
  void set_profiles(const BallKernel& kernel, const std::int64_t* reach, std::int64_t size);

  std::vector<double> z_, y_, x_;
  std::vector<std::int64_t> half_widths_;
};

// Tiles are worked on in blocks of kLanes centres along x and some rows along y.
constexpr std::int64_t kTileHeight = 16, kTileWidth = 64;

// Two rows of a plane that weigh the same, as distances from its first.
template <typename T>
struct RowPair {
  std::int64_t before, behind;
  T weight;
};

// Scores tiles, of any depth. Holds the memory that this takes.
template <typename T>
class TileScorer {
 public:
  TileScorer(const RowSource& source, const KernelRows& kernel);

  // `spans`: for each kLanes centres along x, the planes of the tile that are asked for; all where there are none.
  void score(const Box& tile, const std::vector<Span>& spans = {});

  // The scores of kLanes centres from x on, whose distance to the start of the tile is a multiple of kLanes; those past the
  // tile mean nothing.
  const T* lanes(std::int64_t z, std::int64_t y, std::int64_t x) const {
    return scores_.data() + ((x - tile_.x0) / kLanes * tile_.depth() + z - tile_.z0) * plane() + (y - tile_.y0) * kLanes;
  }

 private:
  std::int64_t rows() const { return tile_.height() + 2 * kernel_.reach_y(); }
  std::int64_t plane() const { return tile_.height() * kLanes; }
  void list_pairs();
  bool read_plane(std::int64_t z);
  void widen_block(std::int64_t block);
  void add_discs(std::int64_t z, std::int64_t block, const Span& span);

  const RowSource& source_;
  const KernelRows& kernel_;
  std::vector<T> x_weights_;
  Box tile_{};
  std::int64_t first_ = 0, stride_ = 0;   // of the lines: the first x, and how long they are
  std::vector<std::vector<RowPair<T>>> pairs_;  // of the disc at each distance along z
  Scratch<float> lines_;              // the field around the tile's plane
  std::vector<std::uint8_t> filled_;      // which of these lines can be other than 0
  Scratch<T> widened_;                // [half width, line, lane]: the run's weighted sum around each lane
  Scratch<T> scores_;                 // [block, z, y, lane]
};

extern template class TileScorer<float>;
extern template class TileScorer<double>;

}  // namespace rsuper
