// SPDX-License-Identifier: Apache-2.0
// The planes of the field are taken one after another. Of each, rows are summed over the runs of all half widths, these
// over the discs of the ball, and a disc is added to the tile's planes before and behind, which share it.
#include "rsuper/ball_scores.h"

#include <cmath>

namespace rsuper {
namespace {

// Smallest distance, in voxels, between voxels of blocks `apart` blocks apart.
std::int64_t smallest_distance(std::int64_t apart, std::int64_t size) {
  return apart == 0 ? 0 : size * apart - (size - 1);
}

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
RSUPER_INLINE void widen(const float* line, const T* weights, std::int64_t reach, std::int64_t stride, T* out) {
  alignas(64) T sum[kLanes];
#pragma omp simd
  for (int x = 0; x < kLanes; ++x) out[x] = sum[x] = weights[0] * static_cast<T>(line[x]);
  for (std::int64_t w = 1; w <= reach; ++w) {
    out += stride;
#pragma omp simd
    for (int x = 0; x < kLanes; ++x)
      out[x] = sum[x] += weights[w] * (static_cast<T>(line[x - w]) + static_cast<T>(line[x + w]));
  }
}

// Lines follow one another after `stride`; those that are not filled hold nothing but zeros, whatever is there.
template <typename T>
RSUPER_INLINE void widen_all(const float* lines, std::int64_t stride, const std::vector<std::uint8_t>& filled,
                             const std::vector<T>& weights, T* __restrict out) {
  const std::int64_t count = filled.size(), reach = static_cast<std::int64_t>(weights.size()) - 1;
  for (std::int64_t line = 0; line < count; ++line) {
    if (filled[line]) {
      widen(lines + line * stride, weights.data(), reach, count * kLanes, out + line * kLanes);
    } else {
      for (std::int64_t w = 0; w <= reach; ++w) std::fill_n(out + (w * count + line) * kLanes, kLanes, T{0});
    }
  }
}

RSUPER_MULTIVERSION void widen_lines(const float* lines, std::int64_t stride, const std::vector<std::uint8_t>& filled,
                                     const std::vector<float>& weights, float* __restrict out) {
  widen_all(lines, stride, filled, weights, out);
}
RSUPER_MULTIVERSION void widen_lines(const float* lines, std::int64_t stride, const std::vector<std::uint8_t>& filled,
                                     const std::vector<double>& weights, double* __restrict out) {
  widen_all(lines, stride, filled, weights, out);
}

// Four pairs at once spare loads and stores of the sum; what is left over comes one by one.
template <typename T>
RSUPER_INLINE void add_four(const T* rows, const RowPair<T>* pairs, std::int64_t plane, T* __restrict sum) {
  const T *a = rows + pairs[0].before, *b = rows + pairs[0].behind, wab = pairs[0].weight;
  const T *c = rows + pairs[1].before, *d = rows + pairs[1].behind, wcd = pairs[1].weight;
  const T *e = rows + pairs[2].before, *f = rows + pairs[2].behind, wef = pairs[2].weight;
  const T *g = rows + pairs[3].before, *h = rows + pairs[3].behind, wgh = pairs[3].weight;
  for (std::int64_t first = 0; first < plane; first += kLanes)
#pragma omp simd
    for (std::int64_t i = first; i < first + kLanes; ++i)
      sum[i] += (wab * (a[i] + b[i]) + wcd * (c[i] + d[i])) + (wef * (e[i] + f[i]) + wgh * (g[i] + h[i]));
}

template <typename T>
RSUPER_INLINE void add_one(const T* rows, const RowPair<T>& pair, std::int64_t plane, T* __restrict sum) {
  const T *a = rows + pair.before, *b = rows + pair.behind, weight = pair.weight;
  for (std::int64_t first = 0; first < plane; first += kLanes)
#pragma omp simd
    for (std::int64_t i = first; i < first + kLanes; ++i) sum[i] += weight * (a[i] + b[i]);
}

// The sum of the pairs is added to the planes before and behind, unless they are null.
template <typename T>
RSUPER_INLINE void add_sum(const T* rows, const std::vector<RowPair<T>>& pairs, T weight, std::int64_t plane, T* before,
                           T* behind) {
  alignas(64) T sum[kTileHeight * kLanes];
  std::fill(sum, sum + plane, T{0});
  std::size_t p = 0;
  for (; p + 4 <= pairs.size(); p += 4) add_four(rows, pairs.data() + p, plane, sum);
  for (; p < pairs.size(); ++p) add_one(rows, pairs[p], plane, sum);
  for (T* out : {before, behind}) {
    if (out == nullptr) continue;
#pragma omp simd
    for (std::int64_t i = 0; i < plane; ++i) out[i] += weight * sum[i];
  }
}

RSUPER_MULTIVERSION void add_disc(const float* rows, const std::vector<RowPair<float>>& pairs, float weight,
                                  std::int64_t plane, float* before, float* behind) {
  add_sum(rows, pairs, weight, plane, before, behind);
}
RSUPER_MULTIVERSION void add_disc(const double* rows, const std::vector<RowPair<double>>& pairs, double weight,
                                  std::int64_t plane, double* before, double* behind) {
  add_sum(rows, pairs, weight, plane, before, behind);
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
void TileScorer<T>::score(const Box& tile, const std::vector<Span>& spans) {
  tile_ = tile;
  const std::int64_t blocks = (tile.width() + kLanes - 1) / kLanes;
  scores_.assign(blocks * tile.depth() * plane(), T{0});
  first_ = lanes_below(tile.x0 - kernel_.reach_x());
  stride_ = lanes_below(tile.x0 + blocks * kLanes + kernel_.reach_x() + kLanes - 1) - first_;
  list_pairs();
  const std::int64_t reach = kernel_.reach_z(), last = std::min(tile.z1 + reach, source_.extent().z1);
  for (std::int64_t z = std::max(tile.z0 - reach, source_.extent().z0); z < last; ++z) {
    if (!read_plane(z)) continue;
    for (std::int64_t block = 0; block < blocks; ++block) {
      const Span span = spans.empty() ? Span{tile.z0, tile.z1} : spans[block];
      if (z + reach < span.first || z - reach >= span.last) continue;
      widen_block(block);
      add_discs(z, block, span);
    }
  }
}

template <typename T>
void TileScorer<T>::list_pairs() {
  pairs_.resize(kernel_.reach_z() + 1);
  for (std::int64_t dz = 0; dz <= kernel_.reach_z(); ++dz) {
    pairs_[dz].clear();
    for (std::int64_t dy = 0; dy <= kernel_.reach_y() && kernel_.half_width(dz, dy) >= 0; ++dy) {
      const std::int64_t middle = kernel_.half_width(dz, dy) * rows() + kernel_.reach_y();
      const double weight = dy == 0 ? 0.5 * kernel_.y(0) : kernel_.y(dy);  // at 0 the pair is one row twice
      pairs_[dz].push_back({(middle - dy) * kLanes, (middle + dy) * kLanes, static_cast<T>(weight)});
    }
  }
}

template <typename T>
bool TileScorer<T>::read_plane(std::int64_t z) {
  lines_.resize(rows() * stride_);
  filled_.resize(rows());
  bool any = false;
  for (std::int64_t row = 0; row < rows(); ++row) {
    const std::int64_t y = tile_.y0 - kernel_.reach_y() + row;
    filled_[row] = y >= source_.extent().y0 && y < source_.extent().y1 &&
                   source_.read(z, y, first_, stride_, lines_.data() + row * stride_);
    any |= filled_[row] != 0;
  }
  return any;
}

template <typename T>
void TileScorer<T>::widen_block(std::int64_t block) {
  widened_.resize((kernel_.reach_x() + 1) * rows() * kLanes);
  const float* lines = lines_.data() + (tile_.x0 + block * kLanes - first_);
  widen_lines(lines, stride_, filled_, x_weights_, widened_.data());
}

template <typename T>
void TileScorer<T>::add_discs(std::int64_t z, std::int64_t block, const Span& span) {
  T* scores = scores_.data() + block * tile_.depth() * plane();
  for (std::int64_t dz = 0; dz <= kernel_.reach_z(); ++dz) {
    T* before = span.holds(z - dz) ? scores + (z - dz - tile_.z0) * plane() : nullptr;
    T* behind = dz > 0 && span.holds(z + dz) ? scores + (z + dz - tile_.z0) * plane() : nullptr;
    if (before == nullptr && behind == nullptr) continue;
    add_disc(widened_.data(), pairs_[dz], static_cast<T>(kernel_.z(dz)), plane(), before, behind);
  }
}

template class TileScorer<float>;
template class TileScorer<double>;

}  // namespace rsuper
