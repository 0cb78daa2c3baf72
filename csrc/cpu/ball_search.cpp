// SPDX-License-Identifier: Apache-2.0
// Exact argmax of a ball convolution by branch and bound, on the bounding box of the available voxels.
//
// Upper bounds come from sums over blocks of 4 x 4 x 4, then of 2 x 2 x 2 voxels: no voxel of a block is nearer to a centre
// than the nearest voxels of their blocks are, so the convolution of the block sums with the kernel at these smallest
// distances cannot be below any score of the block of centres. What reaches the best score so far is scored in float,
// best bound first, and what may be the best within the error of float once more in double, far more exact than the
// width within which scores tie.
#include "rsuper/ball_search.h"

#include <cmath>
#include <iterator>

namespace rsuper {
namespace {

constexpr double kTie = 1e-6;
// Sums of tiny numbers lose digits below the normal floats: no bound is trusted below this, and what is, is summed in
// double.
constexpr double kUnderflow = 1e-34;

// Upper bounds of the scores in each block of a box of blocks; places are those of blocks.
struct Bounds {
  Box blocks;
  double error;  // relative
  Scratch<float> values;

  const float* row(std::int64_t z, std::int64_t y) const {
    return values.data() + ((z - blocks.z0) * blocks.height() + y - blocks.y0) * blocks.width() - blocks.x0;
  }
  // The lowest value that belongs to a score of `least`.
  float threshold(double least) const {
    return static_cast<float>(std::max(least * (1 - 2 * error) - kUnderflow, 0.0));
  }
};

RSUPER_MULTIVERSION void max_of_row(const float* row, std::int64_t count, float* __restrict lanes) {
  std::int64_t x = 0;
  for (; x + kLanes <= count; x += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = row[x + lane] > lanes[lane] ? row[x + lane] : lanes[lane];
  for (; x < count; ++x) lanes[0] = std::max(lanes[0], row[x]);
}

float largest_in(const Bounds& bounds, const Box& blocks) {
  float lanes[kLanes] = {};
  for (std::int64_t z = blocks.z0; z < blocks.z1; ++z)
    for (std::int64_t y = blocks.y0; y < blocks.y1; ++y)
      max_of_row(bounds.row(z, y) + blocks.x0, blocks.width(), lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

// The smallest box of blocks that holds all bounds of `blocks` from `least` on; empty where there are none.
Box hull(const Bounds& bounds, const Box& blocks, float least) {
  Box out{blocks.z1, blocks.y1, blocks.x1, blocks.z0, blocks.y0, blocks.x0};
  for (std::int64_t z = blocks.z0; z < blocks.z1; ++z)
    for (std::int64_t y = blocks.y0; y < blocks.y1; ++y) {
      const float* row = bounds.row(z, y);
      std::int64_t first = blocks.x0, last = blocks.x1;
      while (first < last && row[first] < least) ++first;
      if (first == last) continue;
      while (row[last - 1] < least) --last;
      out.z0 = std::min(out.z0, z), out.z1 = z + 1;
      out.y0 = std::min(out.y0, y), out.y1 = std::max(out.y1, y + 1);
      out.x0 = std::min(out.x0, first), out.x1 = std::max(out.x1, last);
    }
  return out;
}

Box scaled(const Box& box, std::int64_t factor) {
  return {box.z0 * factor, box.y0 * factor, box.x0 * factor, box.z1 * factor, box.y1 * factor, box.x1 * factor};
}

struct Tile {
  Box box;
  float bound;
};

// Columns of tile size that cover a box.
std::vector<Box> columns(const Box& box) {
  std::vector<Box> out;
  for (std::int64_t y = box.y0; y < box.y1; y += kTileHeight)
    for (std::int64_t x = box.x0; x < box.x1; x += kTileWidth)
      out.push_back({box.z0, y, x, box.z1, std::min(y + kTileHeight, box.y1), std::min(x + kTileWidth, box.x1)});
  return out;
}

// Tiles of places twice as fine as the bounds, within `limits`, that hold what reaches `least`; best bound first.
std::vector<Tile> surviving_tiles(const Bounds& coarse, const Box& limits, double least) {
  const float threshold = coarse.threshold(least);
  std::vector<Tile> tiles;
  for (const Box& column : columns(intersection(scaled(hull(coarse, coarse.blocks, threshold), 2), limits))) {
    const Box held = intersection(scaled(hull(coarse, blocks_over(column, 2), threshold), 2), column);
    if (!held.empty()) tiles.push_back({held, largest_in(coarse, blocks_over(held, 2))});
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.bound > b.bound; });
  return tiles;
}

Box hull_of(const std::vector<Tile>& tiles) {
  Box out = tiles.front().box;
  for (const Tile& tile : tiles) {
    const Box& box = tile.box;
    out = {std::min(out.z0, box.z0), std::min(out.y0, box.y0), std::min(out.x0, box.x0),
           std::max(out.z1, box.z1), std::max(out.y1, box.y1), std::max(out.x1, box.x1)};
  }
  return out;
}

Bounds upper_bounds(const BlockSums& sums, const KernelRows& kernel, const std::vector<Tile>& tiles, int threads) {
  Bounds bounds{hull_of(tiles), kernel.float_error(), {}};
  const Box& blocks = bounds.blocks;
  bounds.values.resize(blocks.depth() * blocks.height() * blocks.width());
  const std::int64_t count = tiles.size();
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    TileScorer<float> scorer(sums, kernel);
#pragma omp for schedule(dynamic)
    for (std::int64_t t = 0; t < count; ++t) {
      const Box& box = tiles[t].box;
      scorer.score(box);
      for (std::int64_t z = box.z0; z < box.z1; ++z)
        for (std::int64_t y = box.y0; y < box.y1; ++y)
          for (std::int64_t x = box.x0; x < box.x1; x += kLanes)
            std::copy_n(scorer.lanes(z, y, x), std::min<std::int64_t>(kLanes, box.x1 - x),
                        const_cast<float*>(bounds.row(z, y)) + x);
    }
  }
  return bounds;
}

// The best score so far, and of the centres that tie with it those that can still be chosen: a centre is out when one of a
// lower index has no lower score.
class Best {
 public:
  void add(std::int64_t index, double score) {
    score_ = std::max(score_, score);
    if (score < score_ * (1 - kTie)) return;
    auto next = std::lower_bound(ties_.begin(), ties_.end(), index,
                                 [](const Candidate& candidate, std::int64_t i) { return candidate.index < i; });
    if (next != ties_.begin() && std::prev(next)->score >= score) return;
    auto end = next;
    while (end != ties_.end() && end->score <= score) ++end;
    ties_.insert(ties_.erase(next, end), {index, score});
  }

  BestBall result() const {
    for (const Candidate& candidate : ties_)
      if (candidate.score >= score_ * (1 - kTie)) return {candidate.index, score_};
    return {-1, 0.0};
  }

 private:
  struct Candidate {
    std::int64_t index;
    double score;
  };
  double score_ = 0;
  std::vector<Candidate> ties_;  // by rising index and score
};

// A tile's plane and its best score in float.
struct Slice {
  std::int64_t tile, z;
  float best;
};

class Search {
 public:
  Search(const MaskedField& field, const Pyramid& sums, const BallKernel& kernel, int threads)
      : field_(field), sums_(sums), fine_(kernel, field.grid()), half_(kernel, field.grid(), 2),
        quarter_(kernel, field.grid(), 4), threads_(threads) {}

  BestBall run() {
    const Box& box = field_.extent();
    std::vector<Tile> tiles;
    for (const Box& column : columns(blocks_over(box, 4))) tiles.push_back({column, 0.0f});
    const Bounds coarse = upper_bounds(sums_.quarter, quarter_, tiles, threads_);
    start_with(coarse);
    tiles = surviving_tiles(coarse, blocks_over(box, 2), least());
    const Bounds bounds = upper_bounds(sums_.half, half_, tiles, threads_);
    tiles = surviving_tiles(bounds, box, least());
    score_in_float(bounds, tiles);
    return score_in_double(tiles);
  }

 private:
  // No score in float below this can be the best or tie with it.
  double least() const { return std::max(best_ * (1 - 2 * fine_.float_error() - kTie) - kUnderflow, 0.0); }

  // A first score to hold bounds against, where the bound is largest.
  void start_with(const Bounds& coarse) {
    const auto largest = std::max_element(coarse.values.begin(), coarse.values.end());
    const std::int64_t place = largest - coarse.values.begin(), width = coarse.blocks.width();
    const std::int64_t z = coarse.blocks.z0 + place / width / coarse.blocks.height();
    const std::int64_t y = coarse.blocks.y0 + place / width % coarse.blocks.height();
    const std::int64_t x = coarse.blocks.x0 + place % width;
    const Box tile = intersection(scaled({z, y, x, z + 1, y + 1, x + 1}, 4), field_.extent());
    TileScorer<float> scorer(field_, fine_);
    scorer.score(tile);
    for (std::int64_t plane = tile.z0; plane < tile.z1; ++plane)
      best_ = std::max(best_, best_of_plane(scorer, tile, plane));
  }

  static float best_of_plane(const TileScorer<float>& scorer, const Box& tile, std::int64_t z) {
    float best = 0;
    for (std::int64_t x = tile.x0; x < tile.x1; x += kLanes) {
      float lanes[kLanes] = {};
      max_of_row(scorer.lanes(z, tile.y0, x), tile.height() * kLanes, lanes);  // the plane's rows follow one another
      best = std::max(best, *std::max_element(lanes, lanes + std::min<std::int64_t>(kLanes, tile.x1 - x)));
    }
    return best;
  }

  void score_in_float(const Bounds& bounds, const std::vector<Tile>& tiles) {
    const std::int64_t count = tiles.size();
#pragma omp parallel num_threads(threads_) if (threads_ > 1)
    {
      TileScorer<float> scorer(field_, fine_);
#pragma omp for schedule(dynamic)
      for (std::int64_t t = 0; t < count; ++t) {
        double needed;
#pragma omp critical(rsuper_ball_search)
        needed = least();
        const Box& box = tiles[t].box;
        const float threshold = bounds.threshold(needed);
        const Box tile = intersection(scaled(hull(bounds, blocks_over(box, 2), threshold), 2), box);
        if (tile.empty()) continue;
        std::vector<Span> spans;
        for (std::int64_t x = tile.x0; x < tile.x1; x += kLanes) {
          const Box block{tile.z0, tile.y0, x, tile.z1, tile.y1, std::min<std::int64_t>(x + kLanes, tile.x1)};
          const Box held = intersection(scaled(hull(bounds, blocks_over(block, 2), threshold), 2), block);
          spans.push_back({held.z0, held.z1});
        }
        scorer.score(tile, spans);
#pragma omp critical(rsuper_ball_search)
        for (std::int64_t z = tile.z0; z < tile.z1; ++z) {
          const float best = best_of_plane(scorer, tile, z);
          best_ = std::max(best_, best);
          if (best >= least()) slices_.push_back({t, z, best});
        }
      }
    }
  }

  BestBall score_in_double(const std::vector<Tile>& tiles) {
    TileScorer<double> scorer(field_, fine_);
    Best best;
    for (auto first = slices_.begin(); first != slices_.end();) {
      auto last = first;
      while (last != slices_.end() && last->best >= least() && last->tile == first->tile &&
             last->z - first->z == last - first)
        ++last;
      if (last == first) {
        ++first;
        continue;
      }
      Box tile = tiles[first->tile].box;
      tile.z0 = first->z, tile.z1 = first->z + (last - first);
      scorer.score(tile);
      for (std::int64_t z = tile.z0; z < tile.z1; ++z)
        for (std::int64_t y = tile.y0; y < tile.y1; ++y)
          for (std::int64_t x = tile.x0; x < tile.x1; ++x)
            best.add(field_.index(z, y, x), scorer.lanes(z, y, x - (x - tile.x0) % kLanes)[(x - tile.x0) % kLanes]);
      first = last;
    }
    return best.result();
  }

  const MaskedField& field_;
  const Pyramid& sums_;
  const KernelRows fine_, half_, quarter_;
  const int threads_;
  float best_ = 0;
  std::vector<Slice> slices_;
};

}  // namespace

BestBall find_ball(const MaskedField& field, const Pyramid& sums, const BallKernel& kernel, int threads) {
  const Box& box = field.extent();
  if (box.empty()) return {-1, 0.0};
  if (sums.quarter.zero()) return {field.index(box.z0, box.y0, box.x0), 0.0};
  BestBall best = Search(field, sums, kernel, threads).run();
  best.score /= kernel.total;
  return best;
}

BestBall ball_search(const float* probability, const std::uint8_t* available, const Grid& grid,
                     const BallKernel& kernel, int threads) {
  const Scratch<Word> bits = packed(available, grid);
  const MaskedField field({probability, Type::f32}, false, grid, bits.data());
  return find_ball(field, Pyramid(field, threads), kernel, threads);
}

}  // namespace rsuper
