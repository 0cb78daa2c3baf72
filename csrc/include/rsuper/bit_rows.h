// SPDX-License-Identifier: Apache-2.0
// What is done to rows of bits on the CPU.
#pragma once

#include "rsuper/multiversion.h"
#include "rsuper/words.h"

// Packing reads eight voxels as one integer, so the first voxel must be its lowest byte.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rsuper_kernels: the compiled module supports little-endian machines only"
#endif

namespace rsuper {

constexpr Word kLowBits = 0x0101010101010101;  // the lowest bit of each byte

// Eight bytes of 0 or 1 -> eight bits.
RSUPER_INLINE Word pack_bytes(Word bytes) {
  return bytes * 0x0102040810204080 >> 56;  // the product gathers bit 8i at bit 56 + i, without carries
}

// Eight bits -> eight bytes of 0 or 1.
inline Word unpack_bits(Word bits) {
  const Word one_bit_per_byte = (bits & 0xff) * kLowBits & 0x8040201008040201;
  return (one_bit_per_byte + 0x7f * kLowBits) >> 7 & kLowBits;
}

// Voxels of 0 or 1, a multiple of eight of them.
RSUPER_INLINE Word pack_word(const std::uint8_t* voxels, int count = kWordBits) {
  Word word = 0;
  for (int x = 0; x < count; x += 8) {
    Word bytes;
    std::memcpy(&bytes, voxels + x, sizeof bytes);
    word |= pack_bytes(bytes) << x;
  }
  return word;
}

inline void unpack_word(Word word, std::uint8_t* voxels, std::int64_t count) {
  for (std::int64_t x = 0; x < count; x += 8) {
    const Word bytes = unpack_bits(word >> x);
    std::memcpy(voxels + x, &bytes, count - x < 8 ? count - x : 8);
  }
}

inline void unpack_row(const Word* row, std::uint8_t* voxels, std::int64_t width) {
  std::int64_t x = 0;
  for (; x + kWordBits <= width; x += kWordBits) unpack_word(row[x / kWordBits], voxels + x, kWordBits);
  if (x < width) unpack_word(row[x / kWordBits], voxels + x, width - x);
}

inline bool any_bit(const Word* row, std::int64_t words) {
  Word all = 0;
  for (std::int64_t w = 0; w < words; ++w) all |= row[w];
  return all != 0;
}

RSUPER_INLINE std::int64_t count_bits(Word word) {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  return static_cast<std::int64_t>(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f) * kLowBits >> 56);
}

inline bool bit_at(const Word* row, std::int64_t x) { return row[x / kWordBits] >> x % kWordBits & 1; }

RSUPER_MULTIVERSION
inline void or_words(Word* __restrict out, const Word* __restrict in, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] |= in[i];
}

}  // namespace rsuper
