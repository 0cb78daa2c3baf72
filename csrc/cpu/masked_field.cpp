// SPDX-License-Identifier: Apache-2.0
#include "rsuper/masked_field.h"

#include "rsuper/pack_bits.h"

namespace rsuper {
namespace {

// The bits of the kLanes voxels from x on, a multiple of kLanes.
inline std::uint32_t piece_bits(const Word* bits, std::int64_t x) {
  return static_cast<std::uint32_t>(bits[x / kWordBits] >> x % kWordBits & kPieceMask);
}

template <bool kSigmoid>
RSUPER_INLINE void masked_piece(const float* values, std::uint32_t bits, float* __restrict out) {
  for (int i = 0; i < kLanes; ++i) {
    const float value = kSigmoid ? sigmoid(values[i]) : values[i];
    out[i] = bits >> i & 1u ? value : 0.0f;
  }
}

// out[i] from values[i] and the bits of voxel first + i; `first` is a multiple of kLanes, the row ends after `count`.
template <bool kSigmoid>
RSUPER_INLINE void masked_values(const float* values, const Word* bits, std::int64_t first, std::int64_t count,
                                 float* __restrict out) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const std::uint32_t piece = piece_bits(bits, first + i);
    if (piece == 0) {
      std::fill(out + i, out + i + kLanes, 0.0f);
    } else if (i + kLanes <= count) {
      masked_piece<kSigmoid>(values + i, piece, out + i);
    } else {
      float rest[kLanes] = {};
      std::copy(values + i, values + count, rest);
      masked_piece<kSigmoid>(rest, piece, out + i);
    }
  }
}

RSUPER_MULTIVERSION void masked_sigmoids(const float* values, const Word* bits, std::int64_t first, std::int64_t count,
                                         float* out) {
  masked_values<true>(values, bits, first, count, out);
}
RSUPER_MULTIVERSION void masked_plain(const float* values, const Word* bits, std::int64_t first, std::int64_t count,
                                      float* out) {
  masked_values<false>(values, bits, first, count, out);
}

// out[i] = the values 2 i and 2 i + 1 of four rows.
RSUPER_MULTIVERSION void sum_blocks(const float* rows, std::int64_t stride, std::int64_t blocks,
                                    float* __restrict out) {
  const float *a = rows, *b = rows + stride, *c = rows + 2 * stride, *d = rows + 3 * stride;
  for (std::int64_t i = 0; i < blocks; ++i)
    out[i] = ((a[2 * i] + a[2 * i + 1]) + (b[2 * i] + b[2 * i + 1])) +
             ((c[2 * i] + c[2 * i + 1]) + (d[2 * i] + d[2 * i + 1]));
}

// Whether a row has bits, which join the union of rows; adds to their number.
RSUPER_MULTIVERSION bool survey_row(const Word* row, std::int64_t words, Word* rows_union, std::int64_t& count) {
  Word any = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    any |= row[w];
    rows_union[w] |= row[w];
    count += count_bits(row[w]);
  }
  return any != 0;
}

// Boxes of blocks of 4 that start at a multiple of kLanes voxels along x, so that rows are read in whole pieces.
Box wide_blocks(const Box& voxels) {
  constexpr std::int64_t kAlign = kLanes / 4;
  Box blocks = blocks_over(voxels, 4);
  blocks.x0 = blocks.x0 / kAlign * kAlign;
  blocks.x1 = (blocks.x1 + kAlign - 1) / kAlign * kAlign;
  return blocks;
}

Box twice(const Box& box) { return {2 * box.z0, 2 * box.y0, 2 * box.x0, 2 * box.z1, 2 * box.y1, 2 * box.x1}; }

}  // namespace

MaskedField::MaskedField(const Array& values, bool sigmoid, const Grid& grid, const Word* available)
    : values_(values), sigmoid_(sigmoid), grid_(grid), words_(available), row_words_(words_per_row(grid.w)),
      extent_{0, 0, 0, grid.d, grid.h, grid.w} {
  survey();
}

void MaskedField::cleared(std::int64_t count, const Box& box) {
  available_ -= count;
  const Box& all = extent_;
  const bool inside = box.z0 > all.z0 && box.y0 > all.y0 && box.x0 > all.x0 && box.z1 < all.z1 && box.y1 < all.y1 &&
                      box.x1 < all.x1;
  if (!inside) survey();
}

void MaskedField::survey() {
  const Box before = extent_;
  extent_ = {before.z1, before.y1, before.x1, before.z0, before.y0, before.x0};
  available_ = 0;
  std::vector<Word> rows_union(row_words_);
  for (std::int64_t z = before.z0; z < before.z1; ++z)
    for (std::int64_t y = before.y0; y < before.y1; ++y) {
      if (!survey_row(bits(z, y), row_words_, rows_union.data(), available_)) continue;
      extent_.z0 = std::min(extent_.z0, z), extent_.z1 = z + 1;
      extent_.y0 = std::min(extent_.y0, y), extent_.y1 = std::max(extent_.y1, y + 1);
    }
  if (available_ == 0) {
    extent_ = {};
    return;
  }
  extent_.x0 = before.x0, extent_.x1 = before.x1;
  while (!bit_at(rows_union.data(), extent_.x0)) ++extent_.x0;
  while (!bit_at(rows_union.data(), extent_.x1 - 1)) --extent_.x1;
}

bool MaskedField::read(std::int64_t z, std::int64_t y, std::int64_t x, std::int64_t count, float* out) const {
  const Word* row = bits(z, y);
  if (!any_bit(row, row_words_)) return false;
  const std::int64_t first = std::max<std::int64_t>(x, 0), last = std::min(x + count, grid_.w);
  if (first >= last) return false;
  std::fill(out, out + (first - x), 0.0f);
  float buffer[kChunk];
  for (std::int64_t from = first; from < last; from += kChunk) {
    const std::int64_t size = std::min(kChunk, last - from);
    const float* values = load(values_.from(index(z, y, from)), size, buffer);
    (sigmoid_ ? masked_sigmoids : masked_plain)(values, row, from, size, out + (from - x));
  }
  const std::int64_t written = (last - x + kLanes - 1) / kLanes * kLanes;
  std::fill(out + written, out + count, 0.0f);
  return true;
}

Scratch<Word> packed(const std::uint8_t* mask, const Grid& grid) {
  Scratch<Word> words(grid.rows() * words_per_row(grid.w));
  pack_masks({mask, Type::u8}, grid.rows(), grid.w, {{0}}, words.data(), 1);
  return words;
}

bool BlockSums::read(std::int64_t z, std::int64_t y, std::int64_t x, std::int64_t count, float* out) const {
  std::fill(out, out + count, 0.0f);
  const std::int64_t first = std::max(x, extent_.x0), last = std::min(x + count, extent_.x1);
  if (first < last) std::copy(row(z, y) + (first - extent_.x0), row(z, y) + (last - extent_.x0), out + (first - x));
  return first < last;
}

Pyramid::Pyramid(const MaskedField& field, int threads)
    : half(twice(wide_blocks(field.extent()))), quarter(wide_blocks(field.extent())) {
  update(field, field.extent(), threads);
}

void Pyramid::update(const MaskedField& field, const Box& box, int threads) {
  const Box blocks = wide_blocks(box);
  const Grid& grid = field.grid();
  const std::int64_t width = 4 * blocks.width();
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> rows(4 * width);
#pragma omp for schedule(dynamic, 8)
    for (std::int64_t job = 0; job < 4 * blocks.depth() * blocks.height(); ++job) {
      const std::int64_t z = 2 * blocks.z0 + job / (2 * blocks.height());
      const std::int64_t y = 2 * blocks.y0 + job % (2 * blocks.height());
      float* out = half.row(z, y) + 2 * (blocks.x0 - quarter.extent().x0);
      bool any = false;
      for (int i = 0; i < 4; ++i) {
        const std::int64_t voxel_z = 2 * z + i / 2, voxel_y = 2 * y + i % 2;
        float* row = rows.data() + i * width;
        const bool filled =
            voxel_z < grid.d && voxel_y < grid.h && field.read(voxel_z, voxel_y, 4 * blocks.x0, width, row);
        if (!filled) std::fill(row, row + width, 0.0f);
        any |= filled;
      }
      if (any) {
        sum_blocks(rows.data(), width, width / 2, out);
      } else {
        std::fill(out, out + width / 2, 0.0f);
      }
    }
  }
  std::vector<float> rows(4 * 2 * blocks.width());
  for (std::int64_t z = blocks.z0; z < blocks.z1; ++z)
    for (std::int64_t y = blocks.y0; y < blocks.y1; ++y) {
      for (int i = 0; i < 4; ++i) {
        const float* from = half.row(2 * z + i / 2, 2 * y + i % 2) + 2 * (blocks.x0 - quarter.extent().x0);
        std::copy(from, from + 2 * blocks.width(), rows.data() + i * 2 * blocks.width());
      }
      sum_blocks(rows.data(), 2 * blocks.width(), blocks.width(),
                 quarter.row(z, y) + (blocks.x0 - quarter.extent().x0));
    }
}

}  // namespace rsuper
