// SPDX-License-Identifier: Apache-2.0
// Sums of probabilities over regions. Chunks of a region without a voxel are skipped before the logits are read.
#include "rsuper/region_sums.h"

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
                                           float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float t = exp_minus_abs(x[i]);
    const float inverse = 1.0f / (1.0f + t);
    out[i] += grad * weights[i] * (t * inverse * inverse);  // p (1 - p) is even in x
  }
}

RSUPER_MULTIVERSION void add_weights(const float* weights, float grad, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] += grad * weights[i];
}

template <typename T>
bool member_weights(const T* labels, const std::vector<std::int64_t>& ids, std::int64_t count, float* weights) {
  bool any = false;
  for (std::int64_t i = 0; i < count; ++i) {
    bool inside = false;
    for (const std::int64_t id : ids) inside |= labels[i] == id;
    weights[i] = inside;
    any |= inside;
  }
  return any;
}

// Weights of a chunk of a group's region, or null where they are all zero.
const float* region_weights(const RegionGroups& groups, std::int64_t g, std::int64_t first, std::int64_t count,
                            float* buffer) {
  const Array chunk = groups.regions.from(groups.maps[g] * groups.voxels + first);
  if (groups.ids.empty()) return all_zero(chunk, count) ? nullptr : load(chunk, count, buffer);
  bool any = false;
  switch (chunk.type) {
    case Type::u8: any = member_weights(chunk.as<std::uint8_t>(), groups.ids[g], count, buffer); break;
    case Type::i16: any = member_weights(chunk.as<std::int16_t>(), groups.ids[g], count, buffer); break;
    case Type::i32: any = member_weights(chunk.as<std::int32_t>(), groups.ids[g], count, buffer); break;
    default: any = member_weights(chunk.as<std::int64_t>(), groups.ids[g], count, buffer);
  }
  return any ? buffer : nullptr;
}

}  // namespace

void region_sums(const RegionGroups& groups, float* sums, int threads) {
  const std::int64_t count = groups.planes.size(), chunks = chunks_of(groups.voxels);
  std::vector<double> partial(count * chunks);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < count * chunks; ++job) {
    const std::int64_t g = job / chunks, first = job % chunks * kChunk;
    const std::int64_t size = std::min(kChunk, groups.voxels - first);
    float weight_buffer[kChunk], logit_buffer[kChunk];
    const float* weights = region_weights(groups, g, first, size, weight_buffer);
    if (weights == nullptr) continue;
    const float* x = load(groups.logits.from(groups.planes[g] * groups.voxels + first), size, logit_buffer);
    partial[job] = groups.sigmoid ? sum_sigmoid(x, weights, size) : sum_plain(x, weights, size);
  }
  for (std::int64_t g = 0; g < count; ++g) {
    double sum = 0;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[g * chunks + chunk];
    sums[g] = static_cast<float>(sum);
  }
}

void region_sums_backward(const RegionGroups& groups, const float* grad, std::int64_t plane_count, void* grad_logits,
                          int threads) {
  const std::int64_t chunks = chunks_of(groups.voxels);
  const auto members = members_of_planes(groups.planes, plane_count);
  const std::int64_t element = size_of(groups.logits.type);
  prefer_large_pages(grad_logits, plane_count * groups.voxels * element);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < plane_count * chunks; ++job) {
    const std::int64_t plane = job / chunks, first = job % chunks * kChunk;
    const std::int64_t size = std::min(kChunk, groups.voxels - first), start = plane * groups.voxels + first;
    char* out = static_cast<char*>(grad_logits) + start * element;
    float sum[kChunk], weight_buffer[kChunk], logit_buffer[kChunk];
    bool touched = false;
    for (const std::int64_t g : members[plane]) {
      const float* weights = region_weights(groups, g, first, size, weight_buffer);
      if (weights == nullptr) continue;
      if (!touched) std::fill(sum, sum + size, 0.0f);
      touched = true;
      if (groups.sigmoid) {
        add_sigmoid_slope(load(groups.logits.from(start), size, logit_buffer), weights, grad[g], size, sum);
      } else {
        add_weights(weights, grad[g], size, sum);
      }
    }
    if (touched) {
      store(sum, size, groups.logits.type, out);
    } else {
      std::memset(out, 0, size * element);
    }
  }
}

}  // namespace rsuper
