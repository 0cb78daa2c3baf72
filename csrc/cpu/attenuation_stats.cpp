// SPDX-License-Identifier: Apache-2.0
// Soft CT statistics in one pass over memory: each chunk takes its moments about a centre of its own, and chunks are
// joined in double, so that HU around 1000 with an sd of 1 keep it.
#include "rsuper/attenuation_stats.h"

namespace rsuper {
namespace {

// Chan, Golub and LeVeque, 1979.
void join(Moments& moments, const Moments& other) {
  if (other.weight == 0) return;
  const double total = moments.weight + other.weight, distance = other.mean - moments.mean;
  moments.squares += other.squares + distance * distance * moments.weight * (other.weight / total);
  moments.mean += distance * (other.weight / total);
  moments.weight = total;
}

// p and dp / dx of logits; of probabilities, themselves and 1.
RSUPER_MULTIVERSION void sigmoids(const float* x, std::int64_t count, float* __restrict p, float* __restrict slope) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float t = exp_minus_abs(x[i]), inverse = 1.0f / (1.0f + t);
    p[i] = x[i] >= 0 ? inverse : t * inverse;
    slope[i] = t * inverse * inverse;
  }
}

void probabilities(const float* x, bool sigmoid_of_x, std::int64_t count, float* p, float* slope) {
  if (sigmoid_of_x) return sigmoids(x, count, p, slope);
  std::copy(x, x + count, p);
  std::fill(slope, slope + count, 1.0f);
}

RSUPER_MULTIVERSION void soft_masks(const float* p, const float* tumour, const float* organ, std::int64_t count,
                                    float* __restrict m_tumour, float* __restrict m_organ) {
  for (std::int64_t i = 0; i < count; ++i) {
    m_tumour[i] = p[i] * tumour[i];
    m_organ[i] = (1.0f - m_tumour[i]) * organ[i];
  }
}

struct Powers {
  double weight, first, second;  // of mask, mask (value - centre) and mask (value - centre)^2
};

RSUPER_INLINE double sum_of(const float* values, std::int64_t count) {
  LaneSum sum;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum.lanes[lane] += values[i + lane];
  for (; i < count; ++i) sum.lanes[0] += values[i];
  return sum.total();
}

RSUPER_MULTIVERSION Powers powers_about(float centre, const float* values, const float* mask, std::int64_t count) {
  float first[kChunk], second[kChunk];
  for (std::int64_t i = 0; i < count; ++i) {
    const float d = values[i] - centre;
    first[i] = mask[i] * d;
    second[i] = first[i] * d;
  }
  return {sum_of(mask, count), sum_of(first, count), sum_of(second, count)};
}

// In two passes: about any value for the mean, about the mean for the squares.
Moments moments_of(const float* values, const float* mask, std::int64_t count) {
  const Powers rough = powers_about(values[0], values, mask, count);
  if (rough.weight == 0) return {};
  const auto centre = static_cast<float>(values[0] + rough.first / rough.weight);
  const Powers powers = powers_about(centre, values, mask, count);
  const double shift = powers.first / powers.weight;
  return {powers.weight, centre + shift, std::max(powers.second - shift * shift * powers.weight, 0.0)};
}

Slope slope_of(const Stats& stats, const float* grad) {
  Slope slope{static_cast<float>(stats.mean), grad[0], static_cast<float>(grad[1] / stats.total), 0};
  if (stats.sd > 0) {
    // d sd = ((v - mean)^2 - sd^2 - 2 residual (v - mean)) / (2 sd total); at sd = 0 the root has no slope
    const double scale = grad[2] / (2 * stats.sd * stats.total);
    slope.c2 = static_cast<float>(scale);
    slope.c1 += static_cast<float>(-2 * stats.residual * scale);
    slope.c0 += static_cast<float>(-stats.sd * stats.sd * scale);
  }
  return slope;
}

RSUPER_MULTIVERSION void clip(const float* values, std::int64_t count, float low, float high, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float raised = values[i] < low ? low : values[i];
    out[i] = raised > high ? high : raised;
  }
}

inline float evaluate(const Slope& slope, float value) {
  const float d = value - slope.mean;
  return slope.c0 + d * (slope.c1 + d * slope.c2);
}

// Of tumour and organ at each value.
RSUPER_MULTIVERSION void evaluate_all(const float* ct, const Slope& tumour, const Slope& organ, std::int64_t count,
                                      float* __restrict of_tumour, float* __restrict of_organ) {
  for (std::int64_t i = 0; i < count; ++i) {
    of_tumour[i] = evaluate(tumour, ct[i]);
    of_organ[i] = evaluate(organ, ct[i]);
  }
}

}  // namespace

// CT and masks of a chunk, as float.
struct AttenuationTerm::Values {
  const float *tumour, *organ;
  float ct[kChunk], buffers[2][kChunk];

  Values(const AttenuationMasks& masks, std::int64_t group, const Chunk& chunk)
      : tumour(masks.tumour.load(group, chunk, buffers[0])), organ(masks.organ.load(group, chunk, buffers[1])) {
    const std::int64_t start = masks.samples[group] * masks.tumour.volume.voxels() + chunk.first;
    clip(load(masks.ct.from(start), chunk.size(), ct), chunk.size(), static_cast<float>(masks.low),
         static_cast<float>(masks.high), ct);
  }
};

AttenuationTerm::AttenuationTerm(AttenuationMasks masks, std::vector<std::int64_t> planes, bool sigmoid,
                                 void* grad_organ)
    : Term(std::move(planes)), masks_(std::move(masks)), sigmoid_(sigmoid), grad_organ_(grad_organ) {}

bool AttenuationTerm::empty(std::int64_t group, const Chunk& chunk) const {
  // the slope of an organ's voxel does not vanish where the masks do
  return grad_organ_ == nullptr && masks_.tumour.empty(group, chunk) && masks_.organ.empty(group, chunk);
}

void AttenuationTerm::add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const {
  const Values values(masks_, group, chunk);
  float p[kChunk], slope[kChunk], soft[2][kChunk];
  probabilities(x, sigmoid_, chunk.size(), p, slope);
  soft_masks(p, values.tumour, values.organ, chunk.size(), soft[0], soft[1]);
  for (int mask = 0; mask < 2; ++mask) {
    const Moments moments = moments_of(values.ct, soft[mask], chunk.size());
    partial[3 * mask] = moments.weight;
    partial[3 * mask + 1] = moments.mean;
    partial[3 * mask + 2] = moments.squares;
  }
}

Stats AttenuationTerm::stats_of(const double* partials, std::int64_t chunks, int mask) const {
  Moments moments;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const double* partial = partials + 6 * chunk + 3 * mask;
    join(moments, {partial[0], partial[1], partial[2]});
  }
  const double total = moments.weight + masks_.eps;
  const double mean = moments.mean * (moments.weight / total);
  const double offset = moments.mean - mean;
  const double variance = (moments.squares + moments.weight * offset * offset) / total;
  return {total, mean, std::sqrt(variance), moments.weight * offset / total};
}

void AttenuationTerm::finish(const double* partials, std::int64_t chunks, double* out) const {
  for (int mask = 0; mask < 2; ++mask) {
    const Stats stats = stats_of(partials, chunks, mask);
    *out++ = stats.total - masks_.eps;
    *out++ = stats.mean;
    *out++ = stats.sd;
  }
}

void AttenuationTerm::prepare(const Logits& logits, const float* grad, int threads) {
  const std::int64_t chunks = Chunks(logits.volume).count();
  const std::vector<double> partials = std::move(partials_of(logits, {this}, threads).front());
  slopes_.clear();
  for (std::int64_t group = 0; group < groups(); ++group)
    for (int mask = 0; mask < 2; ++mask, grad += 3)
      slopes_.push_back(slope_of(stats_of(partials.data() + 6 * group * chunks, chunks, mask), grad));
}

void AttenuationTerm::add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* /*grad*/,
                                 float* slopes) const {
  if (grad_organ_ == nullptr && masks_.tumour.empty(group, chunk)) return;
  const Values values(masks_, group, chunk);
  const std::int64_t count = chunk.size();
  float p[kChunk], slope[kChunk], of_tumour[kChunk], of_organ[kChunk];
  probabilities(x, sigmoid_, count, p, slope);
  evaluate_all(values.ct, slopes_[2 * group], slopes_[2 * group + 1], count, of_tumour, of_organ);
  for (std::int64_t i = 0; i < count; ++i)
    slopes[i] += (of_tumour[i] - of_organ[i] * values.organ[i]) * values.tumour[i] * slope[i];
  if (grad_organ_ == nullptr) return;
  for (std::int64_t i = 0; i < count; ++i) of_organ[i] *= 1.0f - p[i] * values.tumour[i];
  const Type type = masks_.organ.array.type;
  store(of_organ, count, type,
        static_cast<char*>(grad_organ_) + (group * masks_.organ.volume.voxels() + chunk.first) * size_of(type));
}

}  // namespace rsuper
