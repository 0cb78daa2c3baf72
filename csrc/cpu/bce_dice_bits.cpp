// SPDX-License-Identifier: Apache-2.0
// Most words are background that is known everywhere, and cost an exponential, a quarter of a division and a sixty-fourth
// of a logarithm a voxel. Words with a target, or with unknown voxels, take the general way.
#include "rsuper/bce_dice_bits.h"

#include "rsuper/blocks.h"
#include "rsuper/masked_bce_dice.h"

namespace rsuper {
namespace {

struct BitSums {
  LaneSum sums[kSums - 1];
  LogSum background;  // a part of sums[1]
  std::int64_t known = 0;
};

RSUPER_INLINE void finish(BitSums& out, double* sums) {
  sums[1] += out.background.total();
  for (int s = 0; s < kSums - 1; ++s) sums[s] += out.sums[s].total();
  sums[kSums - 1] += static_cast<double>(out.known);
}

RSUPER_INLINE void add_background(const float* x, BitSums& out) {
  const LogisticBlock logistic(x);
  LaneSum &bce = out.sums[1], &fp = out.sums[3];
  out.background.add(logistic.small);
  float above[kBlock], p[kBlock];
  for (int i = 0; i < kBlock; ++i) above[i] = x[i] > 0 ? x[i] : 0.0f;
  for (int i = 0; i < kBlock; ++i) p[i] = logistic.probability(x[i], i);
  add_block(above, bce);
  add_block(p, fp);
}

// The masks of a word as float: known target, known background and weights.
struct MaskBlock {
  float target[kBlock], background[kBlock], weight[kBlock];

  RSUPER_INLINE MaskBlock(Word targets, Word known, const float* weights) {
    expand_bits(targets & known, target);
    expand_bits(known & ~targets, background);
    for (float& w : weight) w = 1;
    if (weights == nullptr) return;
    for (int i = 0; targets != 0; ++i, targets >>= 1)
      if (targets & 1) weight[i] = *weights++;
  }
};

RSUPER_INLINE void add_mixed(const float* x, const MaskBlock& mask, BitSums& out) {
  float terms[kSums - 1][kBlock];
  for (int i = 0; i < kBlock; ++i) {
    const Logistic y = logistic(x[i]);
    terms[0][i] = mask.weight[i] * mask.target[i] * y.minus_log_p;
    terms[1][i] = mask.weight[i] * mask.background[i] * y.minus_log_1p;
    terms[2][i] = mask.target[i] * y.probability;
    terms[3][i] = mask.background[i] * y.probability;
    terms[4][i] = mask.target[i] * y.complement;
  }
  for (int s = 0; s < kSums - 1; ++s) add_block(terms[s], out.sums[s]);
}

RSUPER_INLINE void background_slopes(const float* x, const float* grad, float* slopes) {
  const LogisticBlock logistic(x);
  const float negative = grad[1], fp = grad[3];
  for (int i = 0; i < kBlock; ++i)
    slopes[i] += logistic.probability(x[i], i) * (negative + fp * logistic.complement(x[i], i));
}

RSUPER_INLINE void mixed_slopes(const float* x, const MaskBlock& mask, const float* grad, float* slopes) {
  const LogisticBlock logistic(x);
  const float positive = grad[0], negative = grad[1], of_target = grad[2] - grad[4], fp = grad[3];
  for (int i = 0; i < kBlock; ++i) {
    const float p = logistic.probability(x[i], i), q = logistic.complement(x[i], i);
    slopes[i] += mask.weight[i] * (negative * mask.background[i] * p - positive * mask.target[i] * q) +
                 (mask.target[i] * of_target + mask.background[i] * fp) * p * q;
  }
}

// Whether all voxels of a chunk are known background: its rows are then worked on as one, without rests of words.
RSUPER_INLINE bool is_background(const BitChunk& bits, const Chunk& chunk) {
  const std::int64_t last = (chunk.width - 1) / kBlock;
  const Word rest = last_word_mask(chunk.width);
  Word targets = 0, unknown = 0;
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t w = 0; w <= last; ++w) {
      targets |= bits.targets[row * bits.row_words + w];
      unknown |= ~bits.known[row * bits.row_words + w] & (w < last ? ~Word{0} : rest);
    }
  return (targets | unknown) == 0;
}

}  // namespace

RSUPER_MULTIVERSION void add_bit_terms(const float* x, const BitChunk& bits, const Chunk& chunk, double* sums) {
  BitSums out;
  const float* weights = bits.weights;
  if (is_background(bits, chunk)) {
    float padded[kBlock];
    for (std::int64_t i = 0; i < chunk.size(); i += kBlock)
      add_background(full_block(x + i, std::min<std::int64_t>(kBlock, chunk.size() - i), padded), out);
    out.known = chunk.size();
    finish(out, sums);
    return;
  }
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t x0 = 0; x0 < chunk.width; x0 += kBlock) {
      const WordAt at(chunk, bits.row_words, row, x0);
      const Word targets = bits.targets[at.index], known = bits.known[at.index];
      const float* weight = weights;
      if (weights != nullptr) weights += count_bits(targets);
      if (known == 0) continue;
      float padded[kBlock];
      const float* block = full_block(x + at.first, at.count, padded);
      if (targets == 0 && known == last_word_mask(at.count)) {
        add_background(block, out);
      } else {
        add_mixed(block, MaskBlock(targets, known, weight), out);
      }
      out.known += count_bits(known);
    }
  finish(out, sums);
}

RSUPER_MULTIVERSION void add_bit_slopes(const float* x, const BitChunk& bits, const Chunk& chunk, const float* grad,
                                        float* slopes) {
  const float* weights = bits.weights;
  if (is_background(bits, chunk)) {
    std::int64_t i = 0;
    for (; i + kBlock <= chunk.size(); i += kBlock) background_slopes(x + i, grad, slopes + i);
    if (i == chunk.size()) return;
    float padded[kBlock], rest[kBlock] = {};
    background_slopes(full_block(x + i, chunk.size() - i, padded), grad, rest);
    for (std::int64_t k = i; k < chunk.size(); ++k) slopes[k] += rest[k - i];
    return;
  }
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t x0 = 0; x0 < chunk.width; x0 += kBlock) {
      const WordAt at(chunk, bits.row_words, row, x0);
      const Word targets = bits.targets[at.index], known = bits.known[at.index];
      const float* weight = weights;
      if (weights != nullptr) weights += count_bits(targets);
      if (known == 0) continue;
      float padded[kBlock], rest[kBlock] = {};
      const float* block = full_block(x + at.first, at.count, padded);
      float* out = at.count == kBlock ? slopes + at.first : rest;
      if (targets == 0 && known == last_word_mask(at.count)) {
        background_slopes(block, grad, out);
      } else {
        mixed_slopes(block, MaskBlock(targets, known, weight), grad, out);
      }
      if (out == rest)
        for (std::int64_t i = 0; i < at.count; ++i) slopes[at.first + i] += rest[i];
    }
}

}  // namespace rsuper
