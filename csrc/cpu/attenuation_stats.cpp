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

RSUPER_MULTIVERSION void soft_masks(const float* x, const float* tumour, const float* organ, bool sigmoid_of_x,
                                    std::int64_t count, float* m_tumour, float* m_organ) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float p = sigmoid_of_x ? sigmoid(x[i]) : x[i];
    m_tumour[i] = p * tumour[i];
    m_organ[i] = (1.0f - m_tumour[i]) * organ[i];
  }
}

RSUPER_MULTIVERSION Moments moments_of(const float* values, const float* mask, std::int64_t count) {
  LaneSum weight, first, second;
  float low = values[0], high = values[0];
  for (std::int64_t i = 0; i < count; ++i) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
  }
  const float centre = 0.5f * low + 0.5f * high;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float m = mask[i + lane], d = values[i + lane] - centre;
      weight.lanes[lane] += m;
      first.lanes[lane] += m * d;
      second.lanes[lane] += m * d * d;
    }
  for (; i < count; ++i) {
    const float m = mask[i], d = values[i] - centre;
    weight.lanes[0] += m;
    first.lanes[0] += m * d;
    second.lanes[0] += m * d * d;
  }
  Moments moments;
  moments.weight = weight.total();
  if (moments.weight == 0) return moments;
  const double shift = first.total() / moments.weight;
  moments.mean = centre + shift;
  const double squares = second.total() - shift * shift * moments.weight;
  moments.squares = squares > 0 ? squares : 0;
  return moments;
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

RSUPER_MULTIVERSION void add_logit_slopes(const float* ct, const float* x, const float* tumour, const float* organ,
                                          const Slope& tumour_slope, const Slope& organ_slope, bool sigmoid_of_x,
                                          std::int64_t count, float* slopes, float* organ_slopes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float e = exp_minus_abs(x[i]), inverse = 1.0f / (1.0f + e);
    const float p = sigmoid_of_x ? (x[i] >= 0 ? inverse : e * inverse) : x[i];
    const float slope = sigmoid_of_x ? e * inverse * inverse : 1.0f;
    const float of_tumour = evaluate(tumour_slope, ct[i]), of_organ = evaluate(organ_slope, ct[i]);
    slopes[i] += (of_tumour - of_organ * organ[i]) * tumour[i] * slope;
    organ_slopes[i] = of_organ * (1.0f - p * tumour[i]);
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
  float soft[2][kChunk];
  soft_masks(x, values.tumour, values.organ, sigmoid_, chunk.size(), soft[0], soft[1]);
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
  const Values values(masks_, group, chunk);
  float organ_slopes[kChunk];
  add_logit_slopes(values.ct, x, values.tumour, values.organ, slopes_[2 * group], slopes_[2 * group + 1], sigmoid_,
                   chunk.size(), slopes, organ_slopes);
  if (grad_organ_ == nullptr) return;
  const Type type = masks_.organ.array.type;
  store(organ_slopes, chunk.size(), type,
        static_cast<char*>(grad_organ_) + (group * masks_.organ.volume.voxels() + chunk.first) * size_of(type));
}

}  // namespace rsuper
