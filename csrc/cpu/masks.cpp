// SPDX-License-Identifier: Apache-2.0
#include "rsuper/masks.h"

#include "rsuper/blocks.h"

namespace rsuper {
namespace {

RSUPER_MULTIVERSION void expand_row(const Word* words, std::int64_t width, float* out) {
  std::int64_t x = 0;
  for (; x + kBlock <= width; x += kBlock) expand_bits(words[x / kBlock], out + x);
  if (x == width) return;
  float block[kBlock];
  expand_bits(words[x / kBlock], block);
  std::copy(block, block + (width - x), out + x);
}

}  // namespace

bool Mask::empty(std::int64_t plane, const Chunk& chunk) const {
  if (!is_bits()) return all_zero(array.from(plane * volume.voxels() + chunk.first), chunk.size());
  const Word* row = words(plane, chunk);
  Word any = 0;
  for (std::int64_t y = 0; y < chunk.rows; ++y, row += row_words())
    for (std::int64_t w = 0; w < words_per_row(chunk.width); ++w) any |= row[w];
  return any == 0;
}

const float* Mask::load(std::int64_t plane, const Chunk& chunk, float* buffer) const {
  if (!is_bits()) return rsuper::load(array.from(plane * volume.voxels() + chunk.first), chunk.size(), buffer);
  const Word* row = words(plane, chunk);
  for (std::int64_t y = 0; y < chunk.rows; ++y, row += row_words()) expand_row(row, chunk.width, buffer + y * chunk.width);
  return buffer;
}

}  // namespace rsuper
