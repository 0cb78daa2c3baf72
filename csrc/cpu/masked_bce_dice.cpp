// SPDX-License-Identifier: Apache-2.0
// Masked cross-entropy and Dice sums of masks of any type. Chunks without a known voxel are skipped before the logits are
// read. Bits, the fast case, are in bce_dice_bits.h.
#include "rsuper/masked_bce_dice.h"

#include <stdexcept>
#include <string>

#include "rsuper/blocks.h"

namespace rsuper {
namespace {

// What one voxel adds to the six sums.
struct SixTerms {
  float values[kSums];
};

inline SixTerms terms_of(float x, float t, float k, float w) {
  const Logistic y = logistic(x);
  const float kt = k * t, kn = k - kt;
  return {{w * kt * y.minus_log_p, w * kn * y.minus_log_1p, kt * y.probability, kn * y.probability,
           kt * y.complement, k}};
}

inline float at_most_100(float value) { return value < 100.0f ? value : 100.0f; }

inline SixTerms plain_terms_of(float p, float t, float k, float w) {
  const float kt = k * t, kn = k - kt;
  return {{w * kt * at_most_100(-std::log(p)), w * kn * at_most_100(-std::log(1.0f - p)), kt * p, kn * p,
           kt * (1.0f - p), k}};
}

RSUPER_MULTIVERSION void add_sigmoid_terms(const float* x, const float* t, const float* k, const float* w,
                                           std::int64_t count, double* sums) {
  LaneSum lanes[kSums];
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const SixTerms terms = terms_of(x[i + lane], t[i + lane], k[i + lane], w[i + lane]);
      for (int s = 0; s < kSums; ++s) lanes[s].lanes[lane] += terms.values[s];
    }
  for (; i < count; ++i) {
    const SixTerms terms = terms_of(x[i], t[i], k[i], w[i]);
    for (int s = 0; s < kSums; ++s) lanes[s].lanes[0] += terms.values[s];
  }
  for (int s = 0; s < kSums; ++s) sums[s] += lanes[s].total();
}

void add_plain_terms(const float* p, const float* t, const float* k, const float* w, std::int64_t count, double* sums) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (k[i] == 0.0f) continue;
    const SixTerms terms = plain_terms_of(p[i], t[i], k[i], w[i]);
    for (int s = 0; s < kSums; ++s) sums[s] += terms.values[s];
  }
}

// grad holds the gradients of the six sums.
RSUPER_MULTIVERSION void add_sigmoid_slopes(const float* x, const float* t, const float* k, const float* w,
                                            const float* grad, std::int64_t count, float* slopes) {
  const float positive = grad[0], negative = grad[1], tp = grad[2], fp = grad[3], fn = grad[4];
  for (std::int64_t i = 0; i < count; ++i) {
    const float e = exp_minus_abs(x[i]);
    const float inverse = 1.0f / (1.0f + e), small = e * inverse;
    const bool above = x[i] >= 0;
    const float p = above ? inverse : small, q = above ? small : inverse;
    const float kt = k[i] * t[i], kn = k[i] - kt;
    slopes[i] += w[i] * (negative * kn * p - positive * kt * q) + (kt * (tp - fn) + kn * fp) * p * q;
  }
}

// As torch does, p (1 - p) is kept away from 0, so that probabilities of 0 and 1 have finite slopes.
RSUPER_MULTIVERSION void add_plain_slopes(const float* p, const float* t, const float* k, const float* w,
                                          const float* grad, std::int64_t count, float* slopes) {
  const float positive = grad[0], negative = grad[1], tp = grad[2], fp = grad[3], fn = grad[4];
  for (std::int64_t i = 0; i < count; ++i) {
    const float product = p[i] * (1.0f - p[i]);
    const float scale = w[i] / (product > 1e-12f ? product : 1e-12f);
    const float kt = k[i] * t[i], kn = k[i] - kt;
    slopes[i] += scale * (negative * kn * p[i] + positive * kt * (p[i] - 1.0f)) + kt * (tp - fn) + kn * fp;
  }
}

// The masks of a chunk as float.
struct MaskChunk {
  const float *targets, *known, *weights;
  float buffers[3][kChunk];

  // `compact`: the weights from the chunk's first target voxel on, or null
  MaskChunk(const BceDiceMasks& masks, std::int64_t group, const Chunk& chunk, const float* compact)
      : targets(masks.targets.load(group, chunk, buffers[0])), known(masks.known.load(group, chunk, buffers[1])),
        weights(buffers[2]) {
    const std::int64_t start = group * masks.known.volume.voxels() + chunk.first;
    if (masks.weights.data != nullptr && compact == nullptr) {
      weights = load(masks.weights.from(start), chunk.size(), buffers[2]);
      return;
    }
    std::fill(buffers[2], buffers[2] + chunk.size(), 1.0f);
    if (compact == nullptr) return;
    for (std::int64_t i = 0; i < chunk.size(); ++i)
      if (targets[i] != 0.0f) buffers[2][i] = *compact++;
  }
};

// Most rows have no target.
std::int64_t count_row(const Word* row, std::int64_t words) {
  std::int64_t count = 0;
  if (any_bit(row, words))
    for (std::int64_t w = 0; w < words; ++w) count += count_bits(row[w]);
  return count;
}

}  // namespace

BceDiceTerm::BceDiceTerm(BceDiceMasks masks, std::vector<std::int64_t> planes, bool sigmoid)
    : Term(std::move(planes)), masks_(masks), sigmoid_(sigmoid) {
  if (masks.weights.data == nullptr || !masks.targets.is_bits()) return;
  const std::int64_t rows = masks.targets.volume.rows, row_words = masks.targets.row_words();
  targets_before_.reserve(groups() * rows);
  const Word* word = masks.targets.array.as<Word>();
  for (std::int64_t group = 0; group < groups(); ++group) {
    std::int64_t before = 0;
    for (std::int64_t row = 0; row < rows; ++row, word += row_words) {
      targets_before_.push_back(before);
      before += count_row(word, row_words);
    }
    if (before > masks.weight_stride)
      throw std::invalid_argument("weights: expected one for each of " + std::to_string(before) +
                                  " target voxels of group " + std::to_string(group) + ", got " +
                                  std::to_string(masks.weight_stride));
  }
}

// The weight of the first target voxel of a chunk, or null.
const float* BceDiceTerm::weights_of(std::int64_t group, const Chunk& chunk) const {
  if (targets_before_.empty()) return nullptr;
  std::int64_t before = targets_before_[group * masks_.targets.volume.rows + chunk.row];
  const Word* words = masks_.targets.words(group, chunk);
  for (std::int64_t w = 1; w <= chunk.x / kWordBits; ++w) before += count_bits(words[-w]);
  return masks_.weights.as<float>() + group * masks_.weight_stride + before;
}

BitChunk BceDiceTerm::bits_of(std::int64_t group, const Chunk& chunk) const {
  return {masks_.targets.words(group, chunk), masks_.known.words(group, chunk), masks_.known.row_words(),
          weights_of(group, chunk)};
}

void BceDiceTerm::add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const {
  if (by_bits()) {
    add_bit_terms(x, bits_of(group, chunk), chunk, partial);
    return;
  }
  const MaskChunk mask(masks_, group, chunk, weights_of(group, chunk));
  (sigmoid_ ? add_sigmoid_terms : add_plain_terms)(x, mask.targets, mask.known, mask.weights, chunk.size(), partial);
}

void BceDiceTerm::add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                             float* slopes) const {
  if (by_bits()) {
    add_bit_slopes(x, bits_of(group, chunk), chunk, grad, slopes);
    return;
  }
  const MaskChunk mask(masks_, group, chunk, weights_of(group, chunk));
  (sigmoid_ ? add_sigmoid_slopes : add_plain_slopes)(x, mask.targets, mask.known, mask.weights, grad, chunk.size(),
                                                     slopes);
}

}  // namespace rsuper
