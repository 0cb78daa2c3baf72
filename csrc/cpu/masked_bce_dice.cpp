// SPDX-License-Identifier: Apache-2.0
// Masked cross-entropy and Dice sums. Chunks without a known voxel are skipped before the logits are read.
#include "rsuper/masked_bce_dice.h"

namespace rsuper {
namespace {

// What one voxel adds to the six sums.
struct Terms {
  float values[kSums];
};

inline Terms terms_of(float x, float t, float k, float w) {
  const Logistic y = logistic(x);
  const float kt = k * t, kn = k - kt;
  return {{w * kt * y.minus_log_p, w * kn * y.minus_log_1p, kt * y.probability, kn * y.probability,
           kt * y.complement, k}};
}

inline float at_most_100(float value) { return value < 100.0f ? value : 100.0f; }

inline Terms plain_terms_of(float p, float t, float k, float w) {
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
      const Terms terms = terms_of(x[i + lane], t[i + lane], k[i + lane], w[i + lane]);
      for (int s = 0; s < kSums; ++s) lanes[s].lanes[lane] += terms.values[s];
    }
  for (; i < count; ++i) {
    const Terms terms = terms_of(x[i], t[i], k[i], w[i]);
    for (int s = 0; s < kSums; ++s) lanes[s].lanes[0] += terms.values[s];
  }
  for (int s = 0; s < kSums; ++s) sums[s] += lanes[s].total();
}

void add_plain_terms(const float* p, const float* t, const float* k, const float* w, std::int64_t count, double* sums) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (k[i] == 0.0f) continue;
    const Terms terms = plain_terms_of(p[i], t[i], k[i], w[i]);
    for (int s = 0; s < kSums; ++s) sums[s] += terms.values[s];
  }
}

// grad holds the gradients of the six sums.
RSUPER_MULTIVERSION void add_sigmoid_slopes(const float* x, const float* t, const float* k, const float* w,
                                            const float* grad, std::int64_t count, float* out) {
  const float positive = grad[0], negative = grad[1], tp = grad[2], fp = grad[3], fn = grad[4];
  for (std::int64_t i = 0; i < count; ++i) {
    const float e = exp_minus_abs(x[i]);
    const float inverse = 1.0f / (1.0f + e), small = e * inverse;
    const bool above = x[i] >= 0;
    const float p = above ? inverse : small, q = above ? small : inverse;
    const float kt = k[i] * t[i], kn = k[i] - kt;
    out[i] += w[i] * (negative * kn * p - positive * kt * q) + (kt * (tp - fn) + kn * fp) * p * q;
  }
}

// As torch does, p (1 - p) is kept away from 0, so that probabilities of 0 and 1 have finite slopes.
RSUPER_MULTIVERSION void add_plain_slopes(const float* p, const float* t, const float* k, const float* w,
                                          const float* grad, std::int64_t count, float* out) {
  const float positive = grad[0], negative = grad[1], tp = grad[2], fp = grad[3], fn = grad[4];
  for (std::int64_t i = 0; i < count; ++i) {
    const float product = p[i] * (1.0f - p[i]);
    const float scale = w[i] / (product > 1e-12f ? product : 1e-12f);
    const float kt = k[i] * t[i], kn = k[i] - kt;
    out[i] += scale * (negative * kn * p[i] + positive * kt * (p[i] - 1.0f)) + kt * (tp - fn) + kn * fp;
  }
}

// The masks of a chunk as float.
struct MaskChunk {
  const float *targets, *known, *weights;
  float buffers[3][kChunk];

  // False if no voxel of the chunk is known.
  bool read(const BceDiceInputs& inputs, std::int64_t target, std::int64_t first, std::int64_t count) {
    const std::int64_t start = target * inputs.voxels + first;
    if (all_zero(inputs.known.from(start), count)) return false;
    known = load(inputs.known.from(start), count, buffers[1]);
    targets = load(inputs.targets.from(start), count, buffers[0]);
    if (inputs.weights.data == nullptr) {
      std::fill(buffers[2], buffers[2] + count, 1.0f);
      weights = buffers[2];
    } else {
      weights = load(inputs.weights.from(start), count, buffers[2]);
    }
    return true;
  }
};

}  // namespace

void masked_bce_dice(const BceDiceInputs& inputs, float* sums, int threads) {
  const std::int64_t count = inputs.planes.size(), chunks = chunks_of(inputs.voxels);
  std::vector<double> partial(count * chunks * kSums);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < count * chunks; ++job) {
    const std::int64_t g = job / chunks, first = job % chunks * kChunk;
    const std::int64_t size = std::min(kChunk, inputs.voxels - first);
    MaskChunk mask;
    if (!mask.read(inputs, g, first, size)) continue;
    float buffer[kChunk];
    const float* x = load(inputs.logits.from(inputs.planes[g] * inputs.voxels + first), size, buffer);
    const auto add = inputs.sigmoid ? add_sigmoid_terms : add_plain_terms;
    add(x, mask.targets, mask.known, mask.weights, size, partial.data() + job * kSums);
  }
  for (std::int64_t g = 0; g < count; ++g) {
    double total[kSums] = {};
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
      for (int s = 0; s < kSums; ++s) total[s] += partial[(g * chunks + chunk) * kSums + s];
    for (int s = 0; s < kSums; ++s) sums[g * kSums + s] = static_cast<float>(total[s]);
  }
}

void masked_bce_dice_backward(const BceDiceInputs& inputs, const float* grad, std::int64_t plane_count,
                              void* grad_logits, int threads) {
  const std::int64_t chunks = chunks_of(inputs.voxels), element = size_of(inputs.logits.type);
  const auto members = members_of_planes(inputs.planes, plane_count);
  prefer_large_pages(grad_logits, plane_count * inputs.voxels * element);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < plane_count * chunks; ++job) {
    const std::int64_t plane = job / chunks, first = job % chunks * kChunk;
    const std::int64_t size = std::min(kChunk, inputs.voxels - first), start = plane * inputs.voxels + first;
    char* out = static_cast<char*>(grad_logits) + start * element;
    float sum[kChunk], buffer[kChunk];
    bool touched = false;
    for (const std::int64_t g : members[plane]) {
      MaskChunk mask;
      if (!mask.read(inputs, g, first, size)) continue;
      if (!touched) std::fill(sum, sum + size, 0.0f);
      touched = true;
      const float* x = load(inputs.logits.from(start), size, buffer);
      const auto add = inputs.sigmoid ? add_sigmoid_slopes : add_plain_slopes;
      add(x, mask.targets, mask.known, mask.weights, grad + g * kSums, size, sum);
    }
    if (touched) {
      store(sum, size, inputs.logits.type, out);
    } else {
      std::memset(out, 0, size * element);
    }
  }
}

}  // namespace rsuper
