// SPDX-License-Identifier: Apache-2.0
// Masks and label maps to bits. Voxels become bytes of 0 or 1 in loops that compilers make vectors of, then bits.
#include "rsuper/pack_bits.h"

#include <algorithm>

namespace rsuper {
namespace {

using Ids = std::vector<std::int64_t>;

template <typename T>
RSUPER_INLINE std::uint8_t is_inside(T value) {
  return value != 0;
}

// Halves of either kind are zero where all bits but the sign are.
struct Half {
  std::uint16_t bits;
};
RSUPER_INLINE std::uint8_t is_inside(Half half) { return (half.bits & 0x7fffu) != 0; }

// A block of rows, so that choosing the instruction set costs little.
struct Rows {
  std::int64_t count, width;
};

template <typename T>
RSUPER_INLINE void add_nonzero(const T* row, Rows rows, Word* words) {
  for (std::int64_t y = 0; y < rows.count; ++y, row += rows.width, words += words_per_row(rows.width)) {
    std::int64_t x = 0;
    for (; x + kWordBits <= rows.width; x += kWordBits) {
      std::uint8_t bytes[kWordBits];
      for (int i = 0; i < kWordBits; ++i) bytes[i] = is_inside(row[x + i]);
      words[x / kWordBits] |= pack_word(bytes);
    }
    for (; x < rows.width; ++x) words[x / kWordBits] |= Word{is_inside(row[x])} << x % kWordBits;
  }
}

// One function per type, since templates cannot be multiversioned.
RSUPER_MULTIVERSION void add_bytes(const std::uint8_t* row, Rows rows, Word* words) { add_nonzero(row, rows, words); }
RSUPER_MULTIVERSION void add_halves(const Half* row, Rows rows, Word* words) { add_nonzero(row, rows, words); }
RSUPER_MULTIVERSION void add_floats(const float* row, Rows rows, Word* words) { add_nonzero(row, rows, words); }

void add_mask(const Array& mask, Rows rows, Word* words) {
  if (all_zero(mask, rows.count * rows.width)) return;
  switch (mask.type) {
    case Type::u8: add_bytes(mask.as<std::uint8_t>(), rows, words); break;
    case Type::f16:
    case Type::bf16: add_halves(mask.as<Half>(), rows, words); break;
    case Type::f32: add_floats(mask.as<float>(), rows, words); break;
    case Type::i16: add_nonzero(mask.as<std::int16_t>(), rows, words); break;
    case Type::i32: add_nonzero(mask.as<std::int32_t>(), rows, words); break;
    case Type::i64: add_nonzero(mask.as<std::int64_t>(), rows, words); break;
    case Type::bits: break;  // packed already
  }
}

template <typename T>
RSUPER_INLINE void add_equal(const T* row, Rows rows, T label, Word* words) {
  for (std::int64_t y = 0; y < rows.count; ++y, row += rows.width, words += words_per_row(rows.width)) {
    std::int64_t x = 0;
    for (; x + kWordBits <= rows.width; x += kWordBits) {
      std::uint8_t bytes[kWordBits];
      for (int i = 0; i < kWordBits; ++i) bytes[i] = row[x + i] == label;
      words[x / kWordBits] |= pack_word(bytes);
    }
    for (; x < rows.width; ++x) words[x / kWordBits] |= Word{row[x] == label} << x % kWordBits;
  }
}

RSUPER_MULTIVERSION void add_label(const std::uint8_t* row, Rows rows, std::uint8_t label, Word* words) {
  add_equal(row, rows, label, words);
}
RSUPER_MULTIVERSION void add_label(const std::int16_t* row, Rows rows, std::int16_t label, Word* words) {
  add_equal(row, rows, label, words);
}
RSUPER_MULTIVERSION void add_label(const std::int32_t* row, Rows rows, std::int32_t label, Word* words) {
  add_equal(row, rows, label, words);
}
RSUPER_MULTIVERSION void add_label(const std::int64_t* row, Rows rows, std::int64_t label, Word* words) {
  add_equal(row, rows, label, words);
}

// Ids that a label of type T cannot hold match nothing.
template <typename T>
void add_ids(const T* row, Rows rows, const Ids& ids, Word* words) {
  for (const std::int64_t id : ids)
    if (static_cast<T>(id) == id) add_label(row, rows, static_cast<T>(id), words);
}

void add_labels(const Array& labels, Rows rows, const Ids& ids, Word* words) {
  switch (labels.type) {
    case Type::u8: add_ids(labels.as<std::uint8_t>(), rows, ids, words); break;
    case Type::i16: add_ids(labels.as<std::int16_t>(), rows, ids, words); break;
    case Type::i32: add_ids(labels.as<std::int32_t>(), rows, ids, words); break;
    default: add_ids(labels.as<std::int64_t>(), rows, ids, words);
  }
}

template <typename T>
RSUPER_INLINE bool only_binary(const T* values, std::int64_t count) {
  std::uint8_t other = 0;
  for (std::int64_t i = 0; i < count; ++i) other |= values[i] != T(0) && values[i] != T(1);
  return other == 0;
}

RSUPER_MULTIVERSION bool binary_bytes(const std::uint8_t* values, std::int64_t count) {
  return only_binary(values, count);
}
RSUPER_MULTIVERSION bool binary_floats(const float* values, std::int64_t count) { return only_binary(values, count); }

// Clears the words of each block of rows of each group and calls add(group, first row, rows, words).
template <typename Add>
void for_each_block(std::int64_t groups, std::int64_t rows, std::int64_t width, Word* words, int threads,
                    const Add& add) {
  constexpr std::int64_t kRows = 64;
  const std::int64_t blocks = (rows + kRows - 1) / kRows, row_words = words_per_row(width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < groups * blocks; ++job) {
    const std::int64_t group = job / blocks, first = job % blocks * kRows, count = std::min(kRows, rows - first);
    Word* out = words + (group * rows + first) * row_words;
    std::fill(out, out + count * row_words, Word{0});
    add(group, first, Rows{count, width}, out);
  }
}

}  // namespace

void pack_masks(const Array& masks, std::int64_t rows, std::int64_t width, const std::vector<Ids>& groups, Word* words,
                int threads) {
  for_each_block(groups.size(), rows, width, words, threads,
                 [&](std::int64_t group, std::int64_t first, Rows block, Word* out) {
                   for (const std::int64_t plane : groups[group])
                     add_mask(masks.from((plane * rows + first) * width), block, out);
                 });
}

void pack_labels(const Array& labels, std::int64_t rows, std::int64_t width, const std::vector<std::int64_t>& samples,
                 const std::vector<Ids>& ids, Word* words, int threads) {
  for_each_block(samples.size(), rows, width, words, threads,
                 [&](std::int64_t group, std::int64_t first, Rows block, Word* out) {
                   add_labels(labels.from((samples[group] * rows + first) * width), block, ids[group], out);
                 });
}

bool holds_binary(const Array& array, std::int64_t count, int threads) {
  constexpr std::int64_t kPiece = 1 << 14;
  int others = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : others)
  for (std::int64_t first = 0; first < count; first += kPiece) {
    const std::int64_t size = std::min(kPiece, count - first);
    const Array piece = array.from(first);
    if (all_zero(piece, size)) continue;
    if (array.type == Type::u8) {
      others += !binary_bytes(piece.as<std::uint8_t>(), size);
    } else {
      std::vector<float> buffer(size);
      others += !binary_floats(load(piece, size, buffer.data()), size);
    }
  }
  return others == 0;
}

void unpack_masks(const Word* words, std::int64_t rows, std::int64_t width, std::uint8_t* voxels, int threads) {
  const std::int64_t row_words = words_per_row(width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) unpack_row(words + row * row_words, voxels + row * width, width);
}

}  // namespace rsuper
