// SPDX-License-Identifier: Apache-2.0
// The 64 voxels of a word of bits, as loops of constant length that compilers make vectors of. Divisions are the slowest
// step of a logistic, so four voxels share one, and logarithms are taken of products.
#pragma once

#include "rsuper/chunks.h"

namespace rsuper {

constexpr int kBlock = 64;
constexpr int kRounds = kBlock / kLanes;
// A logit whose probability, cross-entropy and slope are exactly 0: fills blocks that are not full.
constexpr float kNoLogit = -200.0f;

// bits -> 0 or 1
RSUPER_INLINE void expand_bits(Word word, float* out) {
  for (int half = 0; half < 2; ++half) {
    const auto bits = static_cast<std::uint32_t>(word >> 32 * half);
    for (int i = 0; i < 32; ++i) out[32 * half + i] = static_cast<float>(static_cast<std::int32_t>(bits >> i & 1u));
  }
}

// log(1 + q) for 0 <= q < 2^20, exact in relative terms also for tiny q.
RSUPER_INLINE float log1p_of_product(float q) {
  const float u = 1.0f + q;
  const auto bits = bit_cast<std::int32_t>(u);
  const std::int32_t exponent = (bits - 0x3f3504f3) >> 23;  // of the power of two nearest to u
  const float f = bit_cast<float>(bits - exponent * (1 << 23)) - 1.0f;
  const float rounding = (q - (u - 1.0f)) / u;  // what 1 + q has lost
  return static_cast<float>(exponent) * 0.693147181f + (log1p_from_ratio(f / (2.0f + f)) + rounding);
}

RSUPER_INLINE void add_block(const float* values, LaneSum& sum) {
  for (int round = 0; round < kRounds; ++round)
    for (int lane = 0; lane < kLanes; ++lane) sum.lanes[lane] += values[round * kLanes + lane];
}

// exp(-|x|) and 1 / (1 + exp(-|x|)) of a block of logits, from which probabilities follow.
struct LogisticBlock {
  float small[kBlock], inverse[kBlock];

  RSUPER_INLINE explicit LogisticBlock(const float* x) {
    for (int i = 0; i < kBlock; ++i) small[i] = exp_minus_abs(x[i]);
    for (int i = 0; i < kLanes; ++i) {
      const float a = 1 + small[i], b = 1 + small[i + kLanes], c = 1 + small[i + 2 * kLanes],
                  d = 1 + small[i + 3 * kLanes];
      const float ab = a * b, cd = c * d, shared = 1.0f / (ab * cd);
      const float of_ab = cd * shared, of_cd = ab * shared;
      inverse[i] = b * of_ab;
      inverse[i + kLanes] = a * of_ab;
      inverse[i + 2 * kLanes] = d * of_cd;
      inverse[i + 3 * kLanes] = c * of_cd;
    }
  }

  // p and 1 - p, neither by cancellation
  RSUPER_INLINE float probability(float x, int i) const { return x >= 0 ? inverse[i] : small[i] * inverse[i]; }
  RSUPER_INLINE float complement(float x, int i) const { return x >= 0 ? small[i] * inverse[i] : inverse[i]; }
  RSUPER_INLINE float slope(int i) const { return small[i] * inverse[i] * inverse[i]; }
};

// Sum of log(1 + t) for blocks of t in [0, 1], as logarithms of products over some blocks.
class LogSum {
 public:
  RSUPER_INLINE void add(const float* t) {
    for (int lane = 0; lane < kLanes; ++lane) {
      float q = product_[lane];
      for (int round = 0; round < kRounds; ++round) q = (q * t[round * kLanes + lane] + q) + t[round * kLanes + lane];
      product_[lane] = q;
    }
    if (++blocks_ == kBlocks) flush();
  }

  RSUPER_INLINE double total() {
    flush();
    return sum_.total();
  }

 private:
  static constexpr int kBlocks = 4;  // 16 factors of at most 2 each

  RSUPER_INLINE void flush() {
    for (int lane = 0; lane < kLanes; ++lane) sum_.lanes[lane] += log1p_of_product(product_[lane]);
    for (float& product : product_) product = 0;
    blocks_ = 0;
  }

  float product_[kLanes] = {};  // of 1 + t, less 1
  int blocks_ = 0;
  LaneSum sum_;
};

// Word x / 64 of a row of a chunk: its index, rows_words words a row, its first voxel in the chunk, and its voxels. Loops
// over words are written out, since the body of a lambda would not be compiled for each instruction set.
struct WordAt {
  std::int64_t index, first, count;

  RSUPER_INLINE WordAt(const Chunk& chunk, std::int64_t row_words, std::int64_t row, std::int64_t x)
      : index(row * row_words + x / kBlock), first(row * chunk.width + x),
        count(chunk.width - x < kBlock ? chunk.width - x : kBlock) {}
};

// The block of logits at x, padded where it is not full.
RSUPER_INLINE const float* full_block(const float* x, std::int64_t count, float* padded) {
  if (count == kBlock) return x;
  for (int i = 0; i < kBlock; ++i) padded[i] = i < count ? x[i] : kNoLogit;
  return padded;
}

}  // namespace rsuper
