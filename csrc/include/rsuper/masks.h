// SPDX-License-Identifier: Apache-2.0
// Masks of several planes: rows of bits, or numbers of any type.
#pragma once

#include "rsuper/chunks.h"

namespace rsuper {

struct Mask {
  Array array;
  Volume volume;

  bool is_bits() const { return array.type == Type::bits; }
  std::int64_t row_words() const { return words_per_row(volume.width); }

  // The words of a chunk of a plane; the rows after the first follow row_words() apart.
  const Word* words(std::int64_t plane, const Chunk& chunk) const {
    return array.as<Word>() + (plane * volume.rows + chunk.row) * row_words() + chunk.x / kWordBits;
  }

  // Whether a chunk of a plane is zero everywhere.
  bool empty(std::int64_t plane, const Chunk& chunk) const;

  // A chunk of a plane as float, in `buffer` or in place.
  const float* load(std::int64_t plane, const Chunk& chunk, float* buffer) const;
};

}  // namespace rsuper
