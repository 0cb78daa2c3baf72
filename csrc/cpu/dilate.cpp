// SPDX-License-Identifier: Apache-2.0
// Binary dilation on bit-packed rows.
//
// A pass is cut into its slices, the runs of one dz each. Slices that are alike, such as those of dz and -dz of a ball,
// are worked out once. Every plane of the mask is one job:
//   1. its rows are grown to every half width of the pass, one after the other, by a shift or two from the one before;
//   2. a slice is the OR, over its runs, of the rows grown to the run's half width, moved by dy rows;
//   3. each slice is OR-ed into the planes dz away.
// Jobs of several threads may meet in a plane of the output, one at a time. OR does not care for order, so the result
// is the same for any number of threads.
#include "rsuper/dilate.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "rsuper/bit_rows.h"
#include "rsuper/recycled.h"

namespace rsuper {
namespace {

constexpr std::int64_t kBlock = 8;  // rows of a slice that are worked out at once

// A run without its dz.
struct Tap {
  std::int64_t half_width, dy;
  bool operator<(const Tap& other) const {
    return std::tie(half_width, dy) < std::tie(other.half_width, other.dy);
  }
};

struct Plan {
  std::vector<std::int64_t> half_widths;       // rising
  std::vector<std::vector<Tap>> slices;        // here, half_width is an index into half_widths
  std::vector<std::vector<std::int64_t>> dzs;  // where each slice goes
  std::int64_t reach = 0;                      // the largest |dy|
};

// Leaves out runs that lead out of the volume from everywhere in it.
Plan make_plan(const Pass& pass, const Shape& shape) {
  std::map<std::int64_t, std::vector<Tap>> by_dz;
  std::set<std::int64_t> half_widths;
  Plan plan;
  for (const Run& run : pass) {
    if (std::abs(run.dz) >= shape.d || std::abs(run.dy) >= shape.h) continue;
    // a half width of the row's length or more reaches every voxel of the row
    const std::int64_t half_width = std::min<std::int64_t>(run.half_width, shape.w - 1);
    by_dz[run.dz].push_back({half_width, run.dy});
    half_widths.insert(half_width);
    plan.reach = std::max<std::int64_t>(plan.reach, std::abs(run.dy));
  }
  plan.half_widths.assign(half_widths.begin(), half_widths.end());

  std::map<std::vector<Tap>, std::vector<std::int64_t>> slices;
  for (auto& [dz, taps] : by_dz) {
    std::sort(taps.begin(), taps.end());
    slices[taps].push_back(dz);
  }
  for (const auto& [taps, dzs] : slices) {
    plan.slices.push_back(taps);
    for (Tap& tap : plan.slices.back())
      tap.half_width = std::distance(half_widths.begin(), half_widths.find(tap.half_width));
    plan.dzs.push_back(dzs);
  }
  return plan;
}

// Planes of bits, each column of words after the other: rows lie side by side, so that loops over them become vectors.
class BitPlanes {
 public:
  BitPlanes(std::int64_t planes, std::int64_t rows, std::int64_t words)
      : rows_(rows), words_(words), bits_(planes * rows * words) {}

  Word* column(std::int64_t plane, std::int64_t w) { return bits_.data() + (plane * words_ + w) * rows_; }
  std::int64_t words() const { return words_; }
  void clear() { std::fill(bits_.begin(), bits_.end(), Word{0}); }

 private:
  std::int64_t rows_, words_;
  Scratch<Word> bits_;
};

struct RowRange {
  std::int64_t begin, end;
  bool empty() const { return begin >= end; }
  std::int64_t size() const { return end - begin; }
};

// In place: every voxel spreads to the voxels `step` before and after it; 0 < step < 64. `before` and `after` are the
// columns on both sides as they were, `before` is set to what this column was.
RSUPER_MULTIVERSION void spread_column(Word* __restrict column, Word* __restrict before, const Word* __restrict after,
                                       std::int64_t rows, std::int64_t step, Word mask) {
  const std::int64_t rest = kWordBits - step;
  for (std::int64_t y = 0; y < rows; ++y) {
    const Word here = column[y];
    column[y] = (here | here << step | before[y] >> rest | here >> step | after[y] << rest) & mask;
    before[y] = here;
  }
}

// out[i] = OR of rows[offset + i] over the offsets, for whole blocks of rows.
RSUPER_MULTIVERSION void or_moved(const Word* __restrict rows, const std::vector<std::int64_t>& offsets,
                                  std::int64_t count, Word* __restrict out) {
  for (std::int64_t y = 0; y < count; y += kBlock) {
    Word block[kBlock] = {};
    for (const std::int64_t offset : offsets)
      for (std::int64_t i = 0; i < kBlock; ++i) block[i] |= rows[offset + y + i];
    for (std::int64_t i = 0; i < kBlock; ++i) out[y + i] = block[i];
  }
}

// Steps 1 and 2 of a job, with the memory that they need; one object per thread.
class SliceBuilder {
 public:
  SliceBuilder(const Plan& plan, const Shape& shape)
      : plan_(plan), height_(shape.h), width_(shape.w), words_(words_per_row(shape.w)),
        stride_(shape.h + 2 * plan.reach + kBlock), grown_(plan.half_widths.size(), stride_, words_),
        slices_(plan.slices.size(), shape.h + kBlock, words_), before_(shape.h), none_(shape.h) {
    for (const std::vector<Tap>& taps : plan.slices) {
      offsets_.emplace_back();
      for (const Tap& tap : taps) offsets_.back().push_back(tap.half_width * words_ * stride_ - tap.dy);
    }
  }

  // Fills the slices for one plane of the mask.
  void build(BitPlanes& mask, std::int64_t plane);

  // The rows that a slice may have bits in.
  RowRange touched() const;
  const Word* slice(std::size_t i, std::int64_t w) { return slices_.column(i, w); }

 private:
  RowRange occupied_rows(BitPlanes& mask, std::int64_t plane) const;
  Word* grown(std::size_t level, std::int64_t w) { return grown_.column(level, w) + plan_.reach; }
  void grow(std::size_t level, std::int64_t step);

  const Plan& plan_;
  const std::int64_t height_, width_, words_, stride_;
  BitPlanes grown_;   // the plane of the mask at every half width, with empty rows around it
  BitPlanes slices_;  // from the first touched row on
  std::vector<std::vector<std::int64_t>> offsets_;  // of each slice: where its taps lie in grown_
  std::vector<Word> before_;                        // a column as it was before it grew
  const std::vector<Word> none_;                    // the column past the last one
  RowRange rows_{0, 0};                             // where the mask has voxels
};

void SliceBuilder::build(BitPlanes& mask, std::int64_t plane) {
  rows_ = occupied_rows(mask, plane);
  if (rows_.empty()) return;
  grown_.clear();
  std::int64_t half_width = 0;
  for (std::size_t level = 0; level < plan_.half_widths.size(); ++level) {
    for (std::int64_t w = 0; w < words_; ++w) {
      const Word* from = level == 0 ? mask.column(plane, w) : grown(level - 1, w);
      std::copy(from + rows_.begin, from + rows_.end, grown(level, w) + rows_.begin);
    }
    // a step of at most half_width + 1 leaves no gap, also where the end of a row has cut off a part of a grown voxel
    while (half_width < plan_.half_widths[level]) {
      const std::int64_t step = std::min({plan_.half_widths[level] - half_width, half_width + 1, kWordBits - 1});
      grow(level, step);
      half_width += step;
    }
  }
  const RowRange rows = touched();
  for (std::size_t i = 0; i < plan_.slices.size(); ++i)
    for (std::int64_t w = 0; w < words_; ++w)
      or_moved(grown(0, w) + rows.begin, offsets_[i], rows.size(), slices_.column(i, w));
}

RowRange SliceBuilder::touched() const {
  if (rows_.empty()) return rows_;
  return {std::max<std::int64_t>(rows_.begin - plan_.reach, 0), std::min(rows_.end + plan_.reach, height_)};
}

RowRange SliceBuilder::occupied_rows(BitPlanes& mask, std::int64_t plane) const {
  const auto is_empty = [&](std::int64_t y) {
    Word all = 0;
    for (std::int64_t w = 0; w < words_; ++w) all |= mask.column(plane, w)[y];
    return all == 0;
  };
  RowRange rows{0, height_};
  while (!rows.empty() && is_empty(rows.begin)) ++rows.begin;
  while (!rows.empty() && is_empty(rows.end - 1)) --rows.end;
  return rows;
}

void SliceBuilder::grow(std::size_t level, std::int64_t step) {
  std::fill(before_.begin(), before_.end(), Word{0});
  for (std::int64_t w = 0; w < words_; ++w) {
    const bool last = w == words_ - 1;
    const Word* after = last ? none_.data() : grown(level, w + 1) + rows_.begin;
    spread_column(grown(level, w) + rows_.begin, before_.data(), after, rows_.size(), step,
                  last ? last_word_mask(width_) : ~Word{0});
  }
}

class Dilation {
 public:
  Dilation(const Shape& shape, int threads)
      : shape_(shape), planes_(shape.n * shape.d), threads_(std::max(threads, 1)),
        mask_(planes_, shape.h, words_per_row(shape.w)), out_(planes_, shape.h, words_per_row(shape.w)),
        out_locks_(planes_) {}

  // Of an array of masks, those with these numbers.
  void load(const Word* src, const std::vector<std::int64_t>& masks);
  void store(Word* dst, const std::vector<std::int64_t>& masks);
  void apply(const Pass& pass);

 private:
  std::int64_t place(std::int64_t plane, const std::vector<std::int64_t>& masks) {
    return (masks[plane / shape_.d] * shape_.d + plane % shape_.d) * shape_.h * mask_.words();
  }
  void scatter(SliceBuilder& slices, const Plan& plan, std::int64_t plane);

  // Calls body(plane, thread) for every plane, in parallel.
  template <typename Body>
  void for_each_plane(const Body& body) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t plane = 0; plane < planes_; ++plane) {
#ifdef _OPENMP
      body(plane, omp_get_thread_num());
#else
      body(plane, 0);
#endif
    }
  }

  const Shape shape_;
  const std::int64_t planes_;
  const int threads_;
  BitPlanes mask_, out_;
  std::vector<std::mutex> out_locks_;  // one per plane of out_
};

void Dilation::load(const Word* src, const std::vector<std::int64_t>& masks) {
  for_each_plane([&](std::int64_t plane, int) {
    const Word* from = src + place(plane, masks);
    for (std::int64_t w = 0; w < mask_.words(); ++w)
      for (std::int64_t y = 0; y < shape_.h; ++y) mask_.column(plane, w)[y] = from[y * mask_.words() + w];
  });
}

void Dilation::store(Word* dst, const std::vector<std::int64_t>& masks) {
  for_each_plane([&](std::int64_t plane, int) {
    Word* to = dst + place(plane, masks);
    for (std::int64_t w = 0; w < mask_.words(); ++w)
      for (std::int64_t y = 0; y < shape_.h; ++y) to[y * mask_.words() + w] = mask_.column(plane, w)[y];
  });
}

void Dilation::apply(const Pass& pass) {
  const Plan plan = make_plan(pass, shape_);
  std::vector<SliceBuilder> builders(threads_, SliceBuilder(plan, shape_));
  out_.clear();
  for_each_plane([&](std::int64_t plane, int thread) {
    builders[thread].build(mask_, plane);
    scatter(builders[thread], plan, plane);
  });
  std::swap(mask_, out_);
}

void Dilation::scatter(SliceBuilder& slices, const Plan& plan, std::int64_t plane) {
  const std::int64_t z = plane % shape_.d;
  const RowRange rows = slices.touched();
  if (rows.empty()) return;
  for (std::size_t i = 0; i < plan.dzs.size(); ++i) {
    for (const std::int64_t dz : plan.dzs[i]) {
      if (z + dz < 0 || z + dz >= shape_.d) continue;
      const std::lock_guard<std::mutex> lock(out_locks_[plane + dz]);
      for (std::int64_t w = 0; w < out_.words(); ++w)
        or_words(out_.column(plane + dz, w) + rows.begin, slices.slice(i, w), rows.size());
    }
  }
}

}  // namespace

void dilate(const Word* src, Word* dst, const Shape& shape, const std::vector<Pass>& passes, int threads) {
  const std::int64_t size = shape.d * shape.h * words_per_row(shape.w);
  std::vector<std::int64_t> occupied;  // the masks that are not empty
  for (std::int64_t n = 0; n < shape.n; ++n) {
    if (any_bit(src + n * size, size)) {
      occupied.push_back(n);
    } else {
      std::fill(dst + n * size, dst + (n + 1) * size, Word{0});
    }
  }
  if (occupied.empty()) return;
  Dilation dilation({static_cast<std::int64_t>(occupied.size()), shape.d, shape.h, shape.w}, threads);
  dilation.load(src, occupied);
  for (const Pass& pass : passes) dilation.apply(pass);
  dilation.store(dst, occupied);
}

}  // namespace rsuper
