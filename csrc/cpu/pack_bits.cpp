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

template <typename T>
RSUPER_INLINE void nonzero_words(const T* row, std::int64_t width, Word* words) {
  std::int64_t x = 0;
  for (; x + kWordBits <= width; x += kWordBits) {
    std::uint8_t bytes[kWordBits];
    for (int i = 0; i < kWordBits; ++i) bytes[i] = is_inside(row[x + i]);
    words[x / kWordBits] |= pack_word(bytes, kWordBits);
  }
  for (; x < width; ++x) words[x / kWordBits] |= Word{is_inside(row[x])} << x % kWordBits;
}

// One function per type, since templates cannot be multiversioned.
RSUPER_MULTIVERSION void add_bytes(const std::uint8_t* row, std::int64_t width, Word* words) {
  nonzero_words(row, width, words);
}
RSUPER_MULTIVERSION void add_halves(const Half* row, std::int64_t width, Word* words) {
  nonzero_words(row, width, words);
}
RSUPER_MULTIVERSION void add_floats(const float* row, std::int64_t width, Word* words) {
  nonzero_words(row, width, words);
}

void add_row(const Array& row, std::int64_t width, Word* words) {
  if (all_zero(row, width)) return;
  switch (row.type) {
    case Type::u8: add_bytes(row.as<std::uint8_t>(), width, words); break;
    case Type::f16:
    case Type::bf16: add_halves(row.as<Half>(), width, words); break;
    case Type::f32: add_floats(row.as<float>(), width, words); break;
    case Type::i16: nonzero_words(row.as<std::int16_t>(), width, words); break;
    case Type::i32: nonzero_words(row.as<std::int32_t>(), width, words); break;
    case Type::i64: nonzero_words(row.as<std::int64_t>(), width, words); break;
    case Type::bits: break;  // packed already
  }
}

// The ids that a label of type T can hold: others match nothing.
template <typename T>
RSUPER_INLINE void member_words(const T* row, std::int64_t width, const Ids& ids, Word* words) {
  std::fill(words, words + words_per_row(width), Word{0});
  for (const std::int64_t id : ids) {
    const auto held = static_cast<T>(id);
    if (held != id) continue;
    std::int64_t x = 0;
    for (; x + kWordBits <= width; x += kWordBits) {
      std::uint8_t bytes[kWordBits];
      for (int i = 0; i < kWordBits; ++i) bytes[i] = row[x + i] == held;
      words[x / kWordBits] |= pack_word(bytes, kWordBits);
    }
    for (; x < width; ++x) words[x / kWordBits] |= Word{row[x] == held} << x % kWordBits;
  }
}

RSUPER_MULTIVERSION void mark_bytes(const std::uint8_t* row, std::int64_t width, const Ids& ids, Word* words) {
  member_words(row, width, ids, words);
}
RSUPER_MULTIVERSION void mark_longs(const std::int64_t* row, std::int64_t width, const Ids& ids, Word* words) {
  member_words(row, width, ids, words);
}

void mark_row(const Array& row, std::int64_t width, const Ids& ids, Word* words) {
  switch (row.type) {
    case Type::u8: mark_bytes(row.as<std::uint8_t>(), width, ids, words); break;
    case Type::i16: member_words(row.as<std::int16_t>(), width, ids, words); break;
    case Type::i32: member_words(row.as<std::int32_t>(), width, ids, words); break;
    default: mark_longs(row.as<std::int64_t>(), width, ids, words);
  }
}

}  // namespace

void pack_masks(const Array& masks, std::int64_t rows, std::int64_t width, const std::vector<Ids>& groups, Word* words,
                int threads) {
  const std::int64_t row_words = words_per_row(width), count = groups.size();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < count * rows; ++job) {
    Word* out = words + job * row_words;
    std::fill(out, out + row_words, Word{0});
    for (const std::int64_t plane : groups[job / rows])
      add_row(masks.from((plane * rows + job % rows) * width), width, out);
  }
}

void pack_labels(const Array& labels, std::int64_t rows, std::int64_t width, const std::vector<std::int64_t>& samples,
                 const std::vector<Ids>& ids, Word* words, int threads) {
  const std::int64_t row_words = words_per_row(width), count = samples.size();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < count * rows; ++job)
    mark_row(labels.from((samples[job / rows] * rows + job % rows) * width), width, ids[job / rows],
             words + job * row_words);
}

void unpack_masks(const Word* words, std::int64_t rows, std::int64_t width, std::uint8_t* voxels, int threads) {
  const std::int64_t row_words = words_per_row(width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) unpack_row(words + row * row_words, voxels + row * width, width);
}

}  // namespace rsuper
