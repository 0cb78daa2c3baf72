// SPDX-License-Identifier: Apache-2.0
// Sums of probabilities over regions. Words of bits without a voxel are skipped before the logits are read.
#include "rsuper/region_sums.h"

#include "rsuper/blocks.h"

namespace rsuper {
namespace {

RSUPER_MULTIVERSION double sum_sigmoid(const float* x, const float* weights, std::int64_t count) {
  LaneSum sum;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum.lanes[lane] += weights[i + lane] * sigmoid(x[i + lane]);
  for (; i < count; ++i) sum.lanes[0] += weights[i] * sigmoid(x[i]);
  return sum.total();
}

RSUPER_MULTIVERSION double sum_plain(const float* x, const float* weights, std::int64_t count) {
  LaneSum sum;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum.lanes[lane] += weights[i + lane] * x[i + lane];
  for (; i < count; ++i) sum.lanes[0] += weights[i] * x[i];
  return sum.total();
}

RSUPER_MULTIVERSION void add_sigmoid_slope(const float* x, const float* weights, float grad, std::int64_t count,
                                           float* slopes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float t = exp_minus_abs(x[i]);
    const float inverse = 1.0f / (1.0f + t);
    slopes[i] += grad * weights[i] * (t * inverse * inverse);  // p (1 - p) is even in x
  }
}

RSUPER_MULTIVERSION void add_weights(const float* weights, float grad, std::int64_t count, float* slopes) {
  for (std::int64_t i = 0; i < count; ++i) slopes[i] += grad * weights[i];
}

RSUPER_MULTIVERSION double sum_sigmoid_in_bits(const float* x, const Word* words, std::int64_t row_words,
                                               const Chunk& chunk) {
  LaneSum sum;
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t x0 = 0; x0 < chunk.width; x0 += kBlock) {
      const WordAt at(chunk, row_words, row, x0);
      if (words[at.index] == 0) continue;
      float inside[kBlock], padded[kBlock];
      const float* block = full_block(x + at.first, at.count, padded);
      const LogisticBlock logistic(block);
      expand_bits(words[at.index], inside);
      for (int i = 0; i < kBlock; ++i) inside[i] *= logistic.probability(block[i], i);
      add_block(inside, sum);
    }
  return sum.total();
}

RSUPER_MULTIVERSION void add_sigmoid_slope_in_bits(const float* x, const Word* words, std::int64_t row_words,
                                                   const Chunk& chunk, float grad, float* slopes) {
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t x0 = 0; x0 < chunk.width; x0 += kBlock) {
      const WordAt at(chunk, row_words, row, x0);
      if (words[at.index] == 0) continue;
      float inside[kBlock], padded[kBlock];
      const LogisticBlock logistic(full_block(x + at.first, at.count, padded));
      expand_bits(words[at.index], inside);
      for (int i = 0; i < kBlock; ++i) inside[i] *= grad * logistic.slope(i);
      for (int i = 0; i < at.count; ++i) slopes[at.first + i] += inside[i];
    }
}

RSUPER_MULTIVERSION std::int64_t voxels_of(const Word* words, std::int64_t row_words, const Chunk& chunk) {
  std::int64_t voxels = 0;
  for (std::int64_t row = 0; row < chunk.rows; ++row)
    for (std::int64_t word = 0; word < words_per_row(chunk.width); ++word)
      voxels += count_bits(words[row * row_words + word]);
  return voxels;
}

}  // namespace

RegionTerm::RegionTerm(Mask regions, std::vector<std::int64_t> planes, std::vector<std::int64_t> rows, bool sigmoid,
                       bool count_voxels)
    : Term(std::move(planes)), regions_(regions), rows_(std::move(rows)), sigmoid_(sigmoid),
      count_voxels_(count_voxels) {}

bool RegionTerm::empty(std::int64_t group, const Chunk& chunk) const { return regions_.empty(rows_[group], chunk); }

void RegionTerm::add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const {
  if (count_voxels_)
    partial[1] += static_cast<double>(voxels_of(regions_.words(rows_[group], chunk), regions_.row_words(), chunk));
  if (sigmoid_ && regions_.is_bits()) {
    *partial += sum_sigmoid_in_bits(x, regions_.words(rows_[group], chunk), regions_.row_words(), chunk);
    return;
  }
  float buffer[kChunk];
  const float* weights = regions_.load(rows_[group], chunk, buffer);
  *partial += (sigmoid_ ? sum_sigmoid : sum_plain)(x, weights, chunk.size());
}

void RegionTerm::add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                            float* slopes) const {
  if (sigmoid_ && regions_.is_bits()) {
    add_sigmoid_slope_in_bits(x, regions_.words(rows_[group], chunk), regions_.row_words(), chunk, *grad, slopes);
    return;
  }
  float buffer[kChunk];
  const float* weights = regions_.load(rows_[group], chunk, buffer);
  if (sigmoid_) {
    add_sigmoid_slope(x, weights, *grad, chunk.size(), slopes);
  } else {
    add_weights(weights, *grad, chunk.size(), slopes);
  }
}

}  // namespace rsuper
