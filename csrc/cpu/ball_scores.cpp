// SPDX-License-Identifier: Apache-2.0
// The planes of the field are taken one after another. Of each, rows are summed over the runs of all half widths, these
// over the discs of the ball, and a disc is added to the tile's planes before and behind, which share it.
#include "rsuper/ball_scores.h"

#include <cmath>

namespace rsuper {
namespace {

// Smallest distance, in voxels, between voxels of blocks `apart` blocks apart.
std::int64_t smallest_distance(std::int64_t apart, std::int64_t size) { return apart == 0 ? 0 : size * apart - (size - 1); }

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

// out[w * stride + x]: the sum over |dx| <= w of weights[|dx|] * line[x + dx].
template <typename T>
inline void widen(const float* line, const T* weights, std::int64_t reach, std::int64_t stride, T* out) {
  T sum[kTileWidth];
  for (int x = 0; x < kTileWidth; ++x) out[x] = sum[x] = weights[0] * line[x];
  for (std::int64_t w = 1; w <= reach; ++w) {
    out += stride;
    for (int x = 0; x < kTileWidth; ++x)
      out[x] = sum[x] += weights[w] * (static_cast<T>(line[x - w]) + static_cast<T>(line[x + w]));
  }
}

RSUPER_MULTIVERSION void widen_line(const float* line, const float* weights, std::int64_t reach, std::int64_t stride,
                                    float* __restrict out) {
  widen(line, weights, reach, stride, out);
}
RSUPER_MULTIVERSION void widen_line(const float* line, const double* weights, std::int64_t reach, std::int64_t stride,
                                    double* __restrict out) {
  widen(line, weights, reach, stride, out);
}

template <typename T>
inline void add_pair(const T* before, const T* behind, T weight, std::int64_t count, T* __restrict out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += weight * (before[i] + behind[i]);
}

RSUPER_MULTIVERSION void add_rows(const float* before, const float* behind, float weight, std::int64_t count,
                                  float* __restrict out) {
  add_pair(before, behind, weight, count, out);
}
RSUPER_MULTIVERSION void add_rows(const double* before, const double* behind, double weight, std::int64_t count,
                                  double* __restrict out) {
  add_pair(before, behind, weight, count, out);
}

template <typename T>
inline void add_scaled(const T* in, T weight, std::int64_t count, T* __restrict out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += weight * in[i];
}

RSUPER_MULTIVERSION void add_plane(const float* in, float weight, std::int64_t count, float* __restrict out) {
  add_scaled(in, weight, count, out);
}
RSUPER_MULTIVERSION void add_plane(const double* in, double weight, std::int64_t count, double* __restrict out) {
  add_scaled(in, weight, count, out);
}

std::int64_t lanes_below(std::int64_t x) { return x & ~static_cast<std::int64_t>(kLanes - 1); }

}  // namespace

KernelRows::KernelRows(const BallKernel& kernel, const Grid& grid) {
  const std::int64_t room[3] = {grid.d - 1, grid.h - 1, grid.w - 1};
  std::int64_t reach[3] = {};
  for (std::size_t i = 0; i < kernel.runs.size(); ++i)
    reach[i % 3] = std::min(std::max<std::int64_t>(reach[i % 3], kernel.runs[i]), room[i % 3]);
  set_profiles(kernel, reach, 1);
  half_widths_.assign(z_.size() * y_.size(), -1);
  for (std::size_t i = 0; i < kernel.runs.size(); i += 3) {
    const std::int64_t dz = std::abs(kernel.runs[i]), dy = std::abs(kernel.runs[i + 1]);
    if (dz > reach[0] || dy > reach[1]) continue;
    half_widths_[dz * y_.size() + dy] = std::min<std::int64_t>(kernel.runs[i + 2], reach[2]);
  }
}

KernelRows::KernelRows(const BallKernel& kernel, const Grid& grid, std::int64_t size) {
  // the farthest voxel of the ball, with room for rounding: a bound may be too large, never too small
  const double limit = farthest_squared(kernel) * (1 + 1e-9);
  const std::int64_t room[3] = {(grid.d - 1) / size, (grid.h - 1) / size, (grid.w - 1) / size};
  const auto squared = [&](std::int64_t i, int axis) {
    const double distance = smallest_distance(i, size) * kernel.steps[axis];
    return distance * distance;
  };
  std::int64_t reach[3] = {};
  for (int axis = 0; axis < 3; ++axis)
    while (reach[axis] < room[axis] && squared(reach[axis] + 1, axis) <= limit) ++reach[axis];
  set_profiles(kernel, reach, size);
  for (std::int64_t dz = 0; dz <= reach[0]; ++dz)
    for (std::int64_t dy = 0; dy <= reach[1]; ++dy) {
      std::int64_t w = reach[2];
      while (w >= 0 && squared(dz, 0) + squared(dy, 1) + squared(w, 2) > limit) --w;
      half_widths_.push_back(w);
    }
}

void KernelRows::set_profiles(const BallKernel& kernel, const std::int64_t* reach, std::int64_t size) {
  std::vector<double>* profiles[3] = {&z_, &y_, &x_};
  for (int axis = 0; axis < 3; ++axis)
    for (std::int64_t i = 0; i <= reach[axis]; ++i) {
      const double distance = smallest_distance(i, size) * kernel.steps[axis];
      profiles[axis]->push_back(std::exp(-kernel.falloff * distance * distance));
    }
}

template <typename T>
TileScorer<T>::TileScorer(const RowSource& source, const KernelRows& kernel) : source_(source), kernel_(kernel) {
  for (std::int64_t dx = 0; dx <= kernel.reach_x(); ++dx) x_weights_.push_back(static_cast<T>(kernel.x(dx)));
}

template <typename T>
void TileScorer<T>::score(const Box& tile) {
  tile_ = tile;
  const std::int64_t plane = tile.height() * kTileWidth;
  scores_.assign(tile.depth() * plane, T{0});
  disc_.resize(plane);
  const std::int64_t last = std::min(tile.z1 + kernel_.reach_z(), source_.extent().z1);
  for (std::int64_t z = std::max(tile.z0 - kernel_.reach_z(), source_.extent().z0); z < last; ++z) {
    if (!widen_plane(z)) continue;
    for (std::int64_t dz = 0; dz <= kernel_.reach_z(); ++dz) {
      const bool before = z - dz >= tile.z0 && z - dz < tile.z1, behind = z + dz >= tile.z0 && z + dz < tile.z1;
      if (!before && !behind) continue;
      sum_disc(dz);
      if (before) add_disc(z - dz, dz);
      if (behind && dz > 0) add_disc(z + dz, dz);
    }
  }
}

template <typename T>
bool TileScorer<T>::widen_plane(std::int64_t z) {
  const std::int64_t reach = kernel_.reach_x(), rows = tile_.height() + 2 * kernel_.reach_y();
  const std::int64_t first = lanes_below(tile_.x0 - reach);
  const std::int64_t count = lanes_below(tile_.x0 + kTileWidth + reach + kLanes - 1) - first;
  line_.resize(count);
  widened_.resize((reach + 1) * rows * kTileWidth);
  bool any = false;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t y = tile_.y0 - kernel_.reach_y() + row;
    T* out = widened_.data() + row * kTileWidth;
    if (y >= source_.extent().y0 && y < source_.extent().y1 && source_.read(z, y, first, count, line_.data())) {
      widen_line(line_.data() + (tile_.x0 - first), x_weights_.data(), reach, rows * kTileWidth, out);
      any = true;
    } else {
      for (std::int64_t w = 0; w <= reach; ++w) std::fill_n(out + w * rows * kTileWidth, kTileWidth, T{0});
    }
  }
  return any;
}

template <typename T>
void TileScorer<T>::sum_disc(std::int64_t dz) {
  const std::int64_t rows = tile_.height() + 2 * kernel_.reach_y(), count = tile_.height() * kTileWidth;
  std::fill(disc_.begin(), disc_.end(), T{0});
  for (std::int64_t dy = 0; dy <= kernel_.reach_y() && kernel_.half_width(dz, dy) >= 0; ++dy) {
    const T* middle = widened_.data() + (kernel_.half_width(dz, dy) * rows + kernel_.reach_y()) * kTileWidth;
    const T weight = static_cast<T>(dy == 0 ? 0.5 * kernel_.y(0) : kernel_.y(dy));  // at 0 the pair is one row twice
    add_rows(middle - dy * kTileWidth, middle + dy * kTileWidth, weight, count, disc_.data());
  }
}

template <typename T>
void TileScorer<T>::add_disc(std::int64_t z, std::int64_t dz) {
  const std::int64_t count = tile_.height() * kTileWidth;
  add_plane(disc_.data(), static_cast<T>(kernel_.z(dz)), count, scores_.data() + (z - tile_.z0) * count);
}

template class TileScorer<float>;
template class TileScorer<double>;

}  // namespace rsuper
