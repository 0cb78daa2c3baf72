// SPDX-License-Identifier: Apache-2.0
// Soft CT statistics in one pass over memory: each chunk takes its moments about a centre of its own, and chunks are
// joined in double, so that HU around 1000 with an sd of 1 keep it.
#include "rsuper/attenuation_stats.h"

namespace rsuper {
namespace {

// Weight, mean and sum of squares about the mean of some voxels.
struct Moments {
  double weight = 0, mean = 0, squares = 0;

  // Chan, Golub and LeVeque, 1979.
  void join(const Moments& other) {
    if (other.weight == 0) return;
    const double total = weight + other.weight, distance = other.mean - mean;
    squares += other.squares + distance * distance * weight * (other.weight / total);
    mean += distance * (other.weight / total);
    weight = total;
  }
};

// What the op returns. Its mean is a little smaller than the true one: it divides by the weight + eps.
struct Stats {
  double total, mean, sd;  // total = weight + eps
  double residual;         // weighted sum of value - mean, over total
};

Stats stats_of(const Moments& moments, double eps) {
  const double total = moments.weight + eps;
  const double mean = moments.mean * (moments.weight / total);
  const double offset = moments.mean - mean;
  const double variance = (moments.squares + moments.weight * offset * offset) / total;
  return {total, mean, std::sqrt(variance), moments.weight * offset / total};
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

// A chunk of a group, as float.
struct Chunk {
  const float *ct, *x, *tumour, *organ;
  float buffers[4][kChunk];

  // False if neither mask has a voxel here.
  bool read(const AttenuationInputs& in, std::int64_t g, std::int64_t first, std::int64_t count) {
    const Array tumour_chunk = in.tumour.from(g * in.voxels + first), organ_chunk = in.organ.from(g * in.voxels + first);
    tumour = load(tumour_chunk, count, buffers[2]);
    organ = load(organ_chunk, count, buffers[3]);
    if (all_zero(tumour_chunk, count) && all_zero(organ_chunk, count)) return false;
    ct = load(in.ct.from(in.samples[g] * in.voxels + first), count, buffers[0]);
    x = load(in.logits.from(in.planes[g] * in.voxels + first), count, buffers[1]);
    return true;
  }
};

std::vector<Stats> group_stats(const AttenuationInputs& in, int threads) {
  const std::int64_t count = in.planes.size(), chunks = chunks_of(in.voxels);
  std::vector<Moments> partial(2 * count * chunks);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < count * chunks; ++job) {
    const std::int64_t first = job % chunks * kChunk, size = std::min(kChunk, in.voxels - first);
    Chunk chunk;
    if (!chunk.read(in, job / chunks, first, size)) continue;
    float m_tumour[kChunk], m_organ[kChunk];
    soft_masks(chunk.x, chunk.tumour, chunk.organ, in.sigmoid, size, m_tumour, m_organ);
    partial[2 * job] = moments_of(chunk.ct, m_tumour, size);
    partial[2 * job + 1] = moments_of(chunk.ct, m_organ, size);
  }
  std::vector<Stats> stats;
  for (std::int64_t g = 0; g < count; ++g)
    for (int which = 0; which < 2; ++which) {
      Moments moments;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) moments.join(partial[2 * (g * chunks + chunk) + which]);
      stats.push_back(stats_of(moments, in.eps));
    }
  return stats;
}

// The slope of a mask's voxel is c0 + c1 (v - mean) + c2 (v - mean)^2.
struct Slope {
  float mean, c0, c1, c2;
};

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

inline float evaluate(const Slope& slope, float value) {
  const float d = value - slope.mean;
  return slope.c0 + d * (slope.c1 + d * slope.c2);
}

RSUPER_MULTIVERSION void add_slopes(const Chunk& chunk, const Slope& tumour, const Slope& organ, bool sigmoid_of_x,
                                    std::int64_t count, float* grad_x, float* grad_organ) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = chunk.x[i], t = chunk.tumour[i], e = exp_minus_abs(x), inverse = 1.0f / (1.0f + e);
    const float p = sigmoid_of_x ? (x >= 0 ? inverse : e * inverse) : x;
    const float slope = sigmoid_of_x ? e * inverse * inverse : 1.0f;
    const float of_tumour = evaluate(tumour, chunk.ct[i]), of_organ = evaluate(organ, chunk.ct[i]);
    grad_x[i] += (of_tumour - of_organ * chunk.organ[i]) * t * slope;
    grad_organ[i] = of_organ * (1.0f - p * t);
  }
}

}  // namespace

void attenuation_stats(const AttenuationInputs& inputs, float* out, int threads) {
  for (const Stats& stats : group_stats(inputs, threads)) {
    *out++ = static_cast<float>(stats.total - inputs.eps);
    *out++ = static_cast<float>(stats.mean);
    *out++ = static_cast<float>(stats.sd);
  }
}

void attenuation_stats_backward(const AttenuationInputs& in, const float* grad, std::int64_t plane_count,
                                void* grad_logits, void* grad_organ, int threads) {
  std::vector<Slope> slopes;
  for (const Stats& stats : group_stats(in, threads)) {
    slopes.push_back(slope_of(stats, grad));
    grad += 3;
  }
  const std::int64_t chunks = chunks_of(in.voxels), element = size_of(in.logits.type);
  const auto members = members_of_planes(in.planes, plane_count);
  prefer_large_pages(grad_logits, plane_count * in.voxels * element);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < plane_count * chunks; ++job) {
    const std::int64_t plane = job / chunks, first = job % chunks * kChunk, size = std::min(kChunk, in.voxels - first);
    float sum[kChunk] = {}, organ_sum[kChunk];
    for (const std::int64_t g : members[plane]) {
      Chunk chunk;
      const bool any = chunk.read(in, g, first, size);
      // an organ's slope does not vanish with its mask
      if (!any && grad_organ == nullptr) continue;
      if (!any) {
        chunk.ct = load(in.ct.from(in.samples[g] * in.voxels + first), size, chunk.buffers[0]);
        chunk.x = load(in.logits.from(plane * in.voxels + first), size, chunk.buffers[1]);
      }
      add_slopes(chunk, slopes[2 * g], slopes[2 * g + 1], in.sigmoid, size, sum, organ_sum);
      if (grad_organ != nullptr)
        store(organ_sum, size, in.organ.type,
              static_cast<char*>(grad_organ) + (g * in.voxels + first) * size_of(in.organ.type));
    }
    store(sum, size, in.logits.type, static_cast<char*>(grad_logits) + (plane * in.voxels + first) * element);
  }
}

}  // namespace rsuper
