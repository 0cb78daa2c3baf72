// SPDX-License-Identifier: Apache-2.0
// Sums of a field weighted by a ball around every centre of a tile, in float or in double.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "rsuper/masked_field.h"

namespace rsuper {

// A ball: its runs (dz, dy, half width) as geometry.ball_element gives them, and Gaussian weights exp(-falloff r^2), which
// are divided by `total`, their sum over the ball.
struct BallKernel {
  std::vector<std::int32_t> runs;  // three numbers each
  double steps[3];                 // mm
  double falloff, total;
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

constexpr std::int64_t kTileHeight = 16, kTileWidth = 32;

// Scores tiles, of any depth. Holds the memory that this takes.
template <typename T>
class TileScorer {
 public:
  TileScorer(const RowSource& source, const KernelRows& kernel);
  void score(const Box& tile);
  // The scores of a row of the tile, kTileWidth of them; those past the tile mean nothing.
  const T* row(std::int64_t z, std::int64_t y) const {
    return scores_.data() + ((z - tile_.z0) * tile_.height() + y - tile_.y0) * kTileWidth;
  }

 private:
  bool widen_plane(std::int64_t z);
  void sum_disc(std::int64_t dz);
  void add_disc(std::int64_t z, std::int64_t dz);

  const RowSource& source_;
  const KernelRows& kernel_;
  std::vector<T> x_weights_;
  Box tile_{};
  std::vector<float> line_;
  std::vector<T> widened_;  // [half width, row of the plane, x]: the run's weighted sum around each x
  std::vector<T> disc_;     // [y, x] of the tile
  std::vector<T> scores_;
};

extern template class TileScorer<float>;
extern template class TileScorer<double>;

}  // namespace rsuper
