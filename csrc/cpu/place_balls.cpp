// SPDX-License-Identifier: Apache-2.0
// Tumours of a plane follow one another, planes are independent. What a body takes is cleared from the plane's fields,
// and of their block sums only those that it touches are summed anew.
#include "rsuper/place_balls.h"

#include <algorithm>
#include <map>

#include "rsuper/ball_search.h"
#include "rsuper/recycled.h"

namespace rsuper {
namespace {

// Calls body(first, last) for the words of the box's rows, plane after plane.
template <typename Body>
void for_each_plane(const Grid& grid, const Box& box, const Body& body) {
  const std::int64_t row_words = words_per_row(grid.w);
  for (std::int64_t z = box.z0; z < box.z1; ++z)
    body((z * grid.h + box.y0) * row_words, (z * grid.h + box.y1) * row_words);
}

// What a mask still allows on a plane.
class Region {
 public:
  Region(const Planes& planes, std::int64_t plane, std::int64_t mask, const Word* taken, int threads)
      : available_(without(planes, mask, taken)),
        field_(planes.logits.from(plane * planes.grid.voxels()), planes.sigmoid, planes.grid, available_.data()),
        sums_(field_, threads), threads_(threads) {}
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const MaskedField& field() const { return field_; }
  BestBall find(const BallKernel& kernel) const { return find_ball(field_, sums_, kernel, threads_); }

  void remove(const Word* body, const Box& box) {
    std::int64_t count = 0;
    for_each_plane(field_.grid(), box, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        count += count_bits(available_[i] & body[i]);
        available_[i] &= ~body[i];
      }
    });
    if (count == 0) return;
    const Box touched = intersection(box, field_.extent());
    field_.cleared(count, touched);
    sums_.update(field_, touched, threads_);
  }

 private:
  static Scratch<Word> without(const Planes& planes, std::int64_t mask, const Word* taken) {
    const std::int64_t count = planes.grid.rows() * words_per_row(planes.grid.w);
    Scratch<Word> words(planes.masks + mask * count, planes.masks + (mask + 1) * count);
    for (std::int64_t i = 0; i < count; ++i) words[i] &= ~taken[i];
    return words;
  }

  Scratch<Word> available_;
  MaskedField field_;
  Pyramid sums_;
  const int threads_;
};

// `bodies` is null where the bodies of the plane's tumours need not stay apart.
void place_on_plane(const Planes& planes, std::int64_t p, Word* core, Word* body, Word* ring, Word* bodies,
                    int threads) {
  const std::int64_t count = planes.grid.rows() * words_per_row(planes.grid.w);
  for (Word* words : {core, body, ring}) std::fill(words, words + count, Word{0});
  Scratch<Word> own(bodies == nullptr ? count : 0);
  Word* found = bodies == nullptr ? own.data() : bodies;
  std::map<std::int64_t, Region> regions;
  for (const Tumour& tumour : planes.tumours[p]) {
    const Region& region =
        regions.try_emplace(tumour.mask, planes, planes.planes[p], tumour.mask, body, threads).first->second;
    Selection selection = tumour.selection;
    selection.centre = region.find(tumour.kernel).centre;
    std::fill(found, found + count, Word{0});
    const Box box = select_in_ball(region.field(), selection, {nullptr, core, found, ring});
    for_each_plane(planes.grid, box, [&](std::int64_t first, std::int64_t last) {
      or_words(body + first, found + first, last - first);
    });
    if (&tumour != &planes.tumours[p].back())
      for (auto& [mask, other] : regions) other.remove(found, box);
    if (bodies != nullptr) found += count;
  }
}

}  // namespace

void place_balls(const Planes& planes, Word* unions, Word* bodies, int threads) {
  const std::int64_t count = planes.planes.size(), words = planes.grid.rows() * words_per_row(planes.grid.w);
  std::vector<std::int64_t> first{0};
  for (const auto& tumours : planes.tumours) first.push_back(first.back() + static_cast<std::int64_t>(tumours.size()));
  // one plane has all threads, several have one each
  const int inside = count == 1 ? threads : 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (count > 1)
  for (std::int64_t p = 0; p < count; ++p)
    place_on_plane(planes, p, unions + p * words, unions + (count + p) * words, unions + (2 * count + p) * words,
                   bodies == nullptr ? nullptr : bodies + first[p] * words, inside);
}

}  // namespace rsuper
