// SPDX-License-Identifier: Apache-2.0
// Binary dilation on bit-packed rows.
//
// A pass is cut into its slices, the runs of one dz each. Slices that are alike, such as those of dz and -dz of a ball,
// are worked out once. Every plane of the mask is one job:
//   1. in rising order of half width, its rows are grown to that width, a shift or two per row from the width before,
//      and each run of that width is one long OR of the grown plane, moved by dy rows, into the run's slice;
//   2. each slice is OR-ed into the planes dz away.
// Jobs of several threads may meet in a plane of the output, one at a time. OR does not care for order, so the result
// is the same for any number of threads.
#include "rsuper/dilate.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "rsuper/bit_rows.h"

namespace rsuper {
namespace {

// A run without its dz: its half width first, so that sorting puts narrow ones first.
using SliceRun = std::pair<std::int64_t, std::int64_t>;  // half width, dy

struct Step {
  std::int64_t half_width, dy;
  std::size_t slice;
};

struct Plan {
  std::vector<Step> steps;                     // in rising order of half width
  std::vector<std::vector<std::int64_t>> dzs;  // where each slice goes
  std::int64_t reach = 0;                      // the largest |dy|
};

Plan make_plan(const Pass& pass) {
  std::map<std::int64_t, std::vector<SliceRun>> by_dz;
  for (const Run& run : pass) by_dz[run.dz].emplace_back(run.half_width, run.dy);

  std::map<std::vector<SliceRun>, std::vector<std::int64_t>> slices;
  for (auto& [dz, slice] : by_dz) {
    std::sort(slice.begin(), slice.end());
    slices[slice].push_back(dz);
  }

  Plan plan;
  for (const auto& [slice, dzs] : slices) {
    for (const auto& [half_width, dy] : slice) {
      plan.steps.push_back({half_width, dy, plan.dzs.size()});
      plan.reach = std::max(plan.reach, std::abs(dy));
    }
    plan.dzs.push_back(dzs);
  }
  std::stable_sort(plan.steps.begin(), plan.steps.end(),
                   [](const Step& a, const Step& b) { return a.half_width < b.half_width; });
  return plan;
}

// Planes of `rows` rows of whole words.
class BitPlanes {
 public:
  BitPlanes(std::int64_t planes, std::int64_t rows, std::int64_t width)
      : rows_(rows), words_(words_per_row(width)), bits_(planes * rows * words_) {}

  Word* row(std::int64_t plane, std::int64_t y) { return bits_.data() + (plane * rows_ + y) * words_; }
  std::int64_t words() const { return words_; }
  void clear() { std::fill(bits_.begin(), bits_.end(), Word{0}); }

 private:
  std::int64_t rows_, words_;
  std::vector<Word> bits_;
};

struct RowRange {
  std::int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// Step 1 of a job, with the memory that it needs; one object per thread.
class SliceBuilder {
 public:
  SliceBuilder(const Plan& plan, const Shape& shape)
      : plan_(plan), height_(shape.h), width_(shape.w), slices_(plan.dzs.size(), shape.h, shape.w),
        grown_(1, shape.h, shape.w) {}

  // Fills the slices for one plane of the mask, given by its first row.
  void build(const Word* plane);

  // The rows that a slice may have bits in, and the first of them.
  RowRange touched() const;
  const Word* slice(std::size_t i) { return slices_.row(i, touched().begin); }

 private:
  RowRange occupied_rows(const Word* plane) const;
  void grow_to(std::int64_t half_width);
  void grow_by(std::int64_t step);
  void add(const Step& step);

  const Plan& plan_;
  const std::int64_t height_, width_;
  BitPlanes slices_;
  BitPlanes grown_;             // the plane of the mask, its rows grown to half_width_; only rows_ are valid
  RowRange rows_{0, 0};         // where the mask has voxels
  std::int64_t half_width_ = 0;
};

void SliceBuilder::build(const Word* plane) {
  rows_ = occupied_rows(plane);
  if (rows_.empty()) return;
  const std::int64_t words = grown_.words();
  std::copy(plane + rows_.begin * words, plane + rows_.end * words, grown_.row(0, rows_.begin));
  half_width_ = 0;
  slices_.clear();
  for (const Step& step : plan_.steps) {
    grow_to(step.half_width);
    add(step);
  }
}

RowRange SliceBuilder::touched() const {
  if (rows_.empty()) return rows_;
  return {std::max<std::int64_t>(rows_.begin - plan_.reach, 0), std::min(rows_.end + plan_.reach, height_)};
}

RowRange SliceBuilder::occupied_rows(const Word* plane) const {
  const std::int64_t words = grown_.words();
  RowRange rows{0, height_};
  while (!rows.empty() && !any_bit(plane + rows.begin * words, words)) ++rows.begin;
  while (!rows.empty() && !any_bit(plane + (rows.end - 1) * words, words)) --rows.end;
  return rows;
}

// A half width of the row's length or more reaches every voxel of the row.
// A step of at most half_width_ + 1 leaves no gap, also where the end of the row has cut off a part of a grown voxel.
void SliceBuilder::grow_to(std::int64_t half_width) {
  const std::int64_t goal = std::min(half_width, width_ - 1);
  while (half_width_ < goal) grow_by(std::min({goal - half_width_, half_width_ + 1, kWordBits - 1}));
}

void SliceBuilder::grow_by(std::int64_t step) {
  const Word last_mask = last_word_mask(width_);
  for (std::int64_t y = rows_.begin; y < rows_.end; ++y) spread_row(grown_.row(0, y), grown_.words(), step, last_mask);
  half_width_ += step;
}

// Rows lie one after the other, so moving a plane by dy rows is one long OR.
void SliceBuilder::add(const Step& step) {
  const RowRange rows{std::max(rows_.begin, -step.dy), std::min(rows_.end, height_ - step.dy)};
  if (rows.empty()) return;
  or_words(slices_.row(step.slice, rows.begin + step.dy), grown_.row(0, rows.begin),
           (rows.end - rows.begin) * grown_.words());
}

class Dilation {
 public:
  Dilation(const Shape& shape, int threads)
      : shape_(shape), planes_(shape.n * shape.d), threads_(std::max(threads, 1)), mask_(planes_, shape.h, shape.w),
        out_(planes_, shape.h, shape.w), out_locks_(planes_) {}

  void load(const std::uint8_t* src);
  void apply(const Pass& pass);
  void store(std::uint8_t* dst);

 private:
  void scatter(SliceBuilder& slices, const Plan& plan, std::int64_t plane);

  // Calls body(plane, thread) for every plane, in parallel.
  template <typename Body>
  void for_each_plane(const Body& body) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
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

void Dilation::load(const std::uint8_t* src) {
  for_each_plane([&](std::int64_t plane, int) {
    for (std::int64_t y = 0; y < shape_.h; ++y)
      pack_row(src + (plane * shape_.h + y) * shape_.w, mask_.row(plane, y), shape_.w);
  });
}

void Dilation::store(std::uint8_t* dst) {
  for_each_plane([&](std::int64_t plane, int) {
    for (std::int64_t y = 0; y < shape_.h; ++y)
      unpack_row(mask_.row(plane, y), dst + (plane * shape_.h + y) * shape_.w, shape_.w);
  });
}

void Dilation::apply(const Pass& pass) {
  const Plan plan = make_plan(pass);
  std::vector<SliceBuilder> builders(threads_, SliceBuilder(plan, shape_));
  out_.clear();
  for_each_plane([&](std::int64_t plane, int thread) {
    builders[thread].build(mask_.row(plane, 0));
    scatter(builders[thread], plan, plane);
  });
  std::swap(mask_, out_);
}

void Dilation::scatter(SliceBuilder& slices, const Plan& plan, std::int64_t plane) {
  const std::int64_t z = plane % shape_.d;
  const RowRange rows = slices.touched();
  for (std::size_t i = 0; i < plan.dzs.size(); ++i) {
    for (const std::int64_t dz : plan.dzs[i]) {
      if (z + dz < 0 || z + dz >= shape_.d) continue;
      const std::lock_guard<std::mutex> lock(out_locks_[plane + dz]);
      or_words(out_.row(plane + dz, rows.begin), slices.slice(i), (rows.end - rows.begin) * out_.words());
    }
  }
}

}  // namespace

void dilate(const std::uint8_t* src, std::uint8_t* dst, const Shape& shape, const std::vector<Pass>& passes,
            int threads) {
  if (shape.n == 0 || shape.d == 0 || shape.h == 0 || shape.w == 0) return;
  Dilation dilation(shape, threads);
  dilation.load(src);
  for (const Pass& pass : passes) dilation.apply(pass);
  dilation.store(dst);
}

}  // namespace rsuper
