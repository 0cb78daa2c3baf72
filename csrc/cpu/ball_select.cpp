// SPDX-License-Identifier: Apache-2.0
// The most probable voxels of a ball. Its rows are read three times, cheaper than to keep them: for a histogram of the
// probabilities, for the keys in those bins where selections end, and to mark what is not below the last key selected.
#include "rsuper/ball_select.h"

#include <algorithm>
#include <functional>

#include "rsuper/ball_rows.h"
#include "rsuper/voxel_keys.h"

namespace rsuper {
namespace {

constexpr int kBinShift = 32 + 17;  // a bin for each 6 bits of mantissa
constexpr std::int64_t kBins = std::int64_t{1} << 14;

std::int64_t bin_of(Key key) { return key >> kBinShift & (kBins - 1); }

struct Ball {
  const MaskedField& field;
  const BallRows rows;

  Ball(const MaskedField& field, const Selection& selection, double limit)
      : field(field), rows{{selection.steps[0], selection.steps[1], selection.steps[2]},
                           limit,
                           selection.centre / field.grid().w / field.grid().h,
                           selection.centre / field.grid().w % field.grid().h,
                           selection.centre % field.grid().w} {}

  // Of the ball and the box that holds what is available.
  Box box() const {
    const std::int64_t rz = rows.reach(0, 0), ry = rows.reach(0, 1), rx = rows.reach(0, 2);
    return intersection({rows.z - rz, rows.y - ry, rows.x - rx, rows.z + rz + 1, rows.y + ry + 1, rows.x + rx + 1},
                        field.extent());
  }

  // Calls body(z, y, first, last) for each row of the box.
  template <typename Body>
  void for_each_row(const Body& body) const {
    const Box held = box();
    for (std::int64_t z = held.z0; z < held.z1; ++z)
      for (std::int64_t y = held.y0; y < held.y1; ++y) {
        const std::int64_t width = rows.half_width(z, y);
        const std::int64_t first = std::max(rows.x - width, held.x0), last = std::min(rows.x + width + 1, held.x1);
        if (first < last) body(z, y, first, last);
      }
  }
};

// The bits of a row's word from voxel `first` to before `last`.
Word clipped(const Word* row, std::int64_t word, std::int64_t first, std::int64_t last) {
  Word bits = row[word];
  const std::int64_t start = word * kWordBits;
  if (first > start) bits &= ~Word{0} << (first - start);
  if (last < start + kWordBits) bits &= (Word{1} << (last - start)) - 1;
  return bits;
}

std::int64_t voxels_in(const Ball& ball) {
  std::int64_t count = 0;
  ball.for_each_row([&](std::int64_t z, std::int64_t y, std::int64_t first, std::int64_t last) {
    const Word* row = ball.field.bits(z, y);
    for (std::int64_t word = first / kWordBits; word * kWordBits < last; ++word)
      count += count_bits(clipped(row, word, first, last));
  });
  return count;
}

Ball grown_ball(const MaskedField& field, const Selection& selection) {
  const std::vector<double>& radii = selection.squared_radii;
  // nothing is gained by growing where no ball can hold enough
  std::size_t i = selection.needed > field.available() ? radii.size() - 1 : 0;
  while (i + 1 < radii.size() && voxels_in(Ball(field, selection, radii[i])) < selection.needed) ++i;
  return Ball(field, selection, radii[i]);
}

// Calls body(index, bits, values) for each kLanes voxels of the ball of which some are available: linear index of the
// first, bits, and probabilities.
template <typename Body>
void for_each_piece(const Ball& ball, const Body& body) {
  std::vector<float> values(ball.field.grid().w + 2 * kLanes);
  ball.for_each_row([&](std::int64_t z, std::int64_t y, std::int64_t first, std::int64_t last) {
    const std::int64_t start = first / kLanes * kLanes, end = (last + kLanes - 1) / kLanes * kLanes;
    if (!ball.field.read(z, y, start, end - start, values.data())) return;
    const Word* row = ball.field.bits(z, y);
    for (std::int64_t x = start; x < end; x += kLanes) {
      const Word bits = clipped(row, x / kWordBits, first, last) >> x % kWordBits & kPieceMask;
      if (bits != 0) body(ball.field.index(z, y, x), bits, values.data() + (x - start));
    }
  });
}

template <typename Body>
inline void for_each_bit(Word bits, const Body& body) {
  for (int i = 0; bits != 0; ++i, bits >>= 1)
    if (bits & 1) body(i);
}

// Where the `count` highest keys of the histogram end: their last bin, and how many of that bin are among them.
struct End {
  std::int64_t bin, rank;
};

End end_of(const std::vector<std::uint32_t>& histogram, std::int64_t highest, std::int64_t count) {
  std::int64_t bin = highest;
  while (count > histogram[bin]) count -= histogram[bin--];
  return {bin, count};
}

// For each count the lowest key that is selected.
std::vector<Key> thresholds(const Ball& ball, const std::vector<std::int64_t>& counts) {
  std::vector<std::uint32_t> histogram(kBins);
  std::int64_t highest = 0, total = 0;
  for_each_piece(ball, [&](std::int64_t, Word bits, const float* values) {
    for_each_bit(bits, [&](int i) {
      const std::int64_t bin = bin_of(key_of(values[i], 0));
      ++histogram[bin];
      highest = std::max(highest, bin);
      ++total;
    });
  });
  std::vector<End> ends;
  std::vector<std::uint8_t> wanted(kBins);
  for (const std::int64_t count : counts) {
    ends.push_back(count > 0 && count < total ? end_of(histogram, highest, count) : End{-1, count});
    if (ends.back().bin >= 0) wanted[ends.back().bin] = 1;
  }
  std::vector<Key> keys, out;
  for_each_piece(ball, [&](std::int64_t index, Word bits, const float* values) {
    for_each_bit(bits, [&](int i) {
      const Key key = key_of(values[i], index + i);
      if (wanted[bin_of(key)]) keys.push_back(key);
    });
  });
  for (const End& end : ends) {
    if (end.bin < 0) {
      out.push_back(end.rank > 0 ? Key{0} : kNoKey);
      continue;
    }
    const auto last = std::partition(keys.begin(), keys.end(), [&](Key key) { return bin_of(key) == end.bin; });
    std::nth_element(keys.begin(), keys.begin() + (end.rank - 1), last, std::greater<Key>());
    out.push_back(keys[end.rank - 1]);
  }
  return out;
}

RSUPER_MULTIVERSION Word not_below(const float* values, std::int64_t index, Key threshold) {
  std::uint8_t bytes[kLanes];
  for (int i = 0; i < kLanes; ++i) bytes[i] = key_of(values[i], index + i) >= threshold;
  return pack_word(bytes, kLanes);
}

}  // namespace

Box select_in_ball(const MaskedField& field, const Selection& selection, const std::vector<Word*>& masks) {
  if (selection.centre < 0 || field.available() == 0) return {};
  const Ball ball = grown_ball(field, selection);
  const std::vector<Key> least = thresholds(ball, selection.counts);
  const std::int64_t width = field.grid().w, row_words = words_per_row(width);
  for_each_piece(ball, [&](std::int64_t index, Word bits, const float* values) {
    const std::int64_t x = index % width, word = index / width * row_words + x / kWordBits;
    if (masks[0] != nullptr) masks[0][word] |= bits << x % kWordBits;
    for (std::size_t k = 0; k < least.size(); ++k)
      masks[1 + k][word] |= (bits & not_below(values, index, least[k])) << x % kWordBits;
  });
  return ball.box();
}

void ball_select(const float* probability, const std::uint8_t* available, const Grid& grid, const Selection& selection,
                 bool outside_competes, std::uint8_t* masks) {
  const Scratch<Word> bits = packed(available, grid);
  const MaskedField field({probability, Type::f32}, false, grid, bits.data());
  Scratch<Word> words(bits.size() * (1 + selection.counts.size()));
  std::vector<Word*> targets;
  for (std::size_t k = 0; k <= selection.counts.size(); ++k) targets.push_back(words.data() + k * bits.size());
  select_in_ball(field, selection, targets);
  const std::int64_t row_words = words_per_row(grid.w), rows = grid.rows() * (1 + selection.counts.size());
  for (std::int64_t row = 0; row < rows; ++row)
    unpack_row(words.data() + row * row_words, masks + row * grid.w, grid.w);
  if (!outside_competes) return;
  std::int64_t positive = 0;
  for (std::int64_t i = 0; i < grid.voxels(); ++i) positive += masks[i] && probability[i] > 0;
  for (std::size_t k = 0; k < selection.counts.size(); ++k) {
    // beyond the positive ones, zeros by rising index, of which only those in the ball remain
    std::int64_t zeros = std::min(selection.counts[k], grid.voxels()) - positive;
    if (zeros <= 0) continue;
    std::uint8_t* mask = masks + (1 + k) * grid.voxels();
    for (std::int64_t i = 0; i < grid.voxels(); ++i) {
      const bool chosen = masks[i] && probability[i] > 0;
      mask[i] = chosen || (zeros > 0 && masks[i]);
      if (!chosen) --zeros;
    }
  }
}

}  // namespace rsuper
