// SPDX-License-Identifier: Apache-2.0
#include "rsuper/terms.h"

namespace rsuper {
namespace {

struct Member {
  std::size_t term;
  std::int64_t group;
};

// For each plane, the groups of all terms that it serves.
std::vector<std::vector<Member>> members_of_planes(std::int64_t planes, const Terms& terms) {
  std::vector<std::vector<Member>> members(planes);
  for (std::size_t t = 0; t < terms.size(); ++t)
    for (std::int64_t g = 0; g < terms[t]->groups(); ++g) members[terms[t]->plane(g)].push_back({t, g});
  return members;
}

// Where the outputs of each term start.
std::vector<std::int64_t> starts_of_outputs(const Terms& terms) {
  std::vector<std::int64_t> starts{0};
  for (const Term* term : terms) starts.push_back(starts.back() + term->groups() * term->outputs());
  return starts;
}

// Logits of a chunk, converted when they are first asked for.
class LogitChunk {
 public:
  LogitChunk(const Logits& logits, std::int64_t plane, const Chunk& chunk)
      : array_(logits.array.from(plane * logits.volume.voxels() + chunk.first)), count_(chunk.size()) {}

  const float* values() {
    if (values_ == nullptr) values_ = load(array_, count_, buffer_);
    return values_;
  }

 private:
  const Array array_;
  const std::int64_t count_;
  const float* values_ = nullptr;
  float buffer_[kChunk];
};

std::vector<std::int64_t> planes_in_use(const std::vector<std::vector<Member>>& members) {
  std::vector<std::int64_t> used;
  for (std::size_t plane = 0; plane < members.size(); ++plane)
    if (!members[plane].empty()) used.push_back(static_cast<std::int64_t>(plane));
  return used;
}

// In pieces large enough for the C library to write past the caches.
void clear(char* out, std::int64_t bytes, int threads) {
  constexpr std::int64_t kPiece = 1 << 20;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t start = 0; start < bytes; start += kPiece)
    std::memset(out + start, 0, std::min(kPiece, bytes - start));
}

}  // namespace

void Term::finish(const double* left, std::int64_t chunks, double* out) const {
  std::fill(out, out + outputs(), 0.0);
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int i = 0; i < outputs(); ++i) out[i] += left[chunk * partials() + i];
}

Partials partials_of(const Logits& logits, const Terms& terms, int threads) {
  const Chunks chunks(logits.volume);
  const std::int64_t count = chunks.count();
  const auto members = members_of_planes(logits.planes, terms);
  const auto used = planes_in_use(members);
  Partials partials;
  for (const Term* term : terms) partials.emplace_back(term->groups() * count * term->partials());

#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < static_cast<std::int64_t>(used.size()) * count; ++job) {
    const std::int64_t plane = used[job / count], c = job % count;
    const Chunk chunk = chunks[c];
    LogitChunk x(logits, plane, chunk);
    for (const Member& member : members[plane]) {
      const Term& term = *terms[member.term];
      if (term.empty(member.group, chunk)) continue;
      term.add(member.group, chunk, x.values(),
               partials[member.term].data() + (member.group * count + c) * term.partials());
    }
  }
  return partials;
}

std::vector<double> sums(const Logits& logits, const Terms& terms, int threads) {
  const std::int64_t count = Chunks(logits.volume).count();
  const Partials partials = partials_of(logits, terms, threads);
  const auto starts = starts_of_outputs(terms);
  std::vector<double> out(starts.back());
  for (std::size_t t = 0; t < terms.size(); ++t)
    for (std::int64_t g = 0; g < terms[t]->groups(); ++g)
      terms[t]->finish(partials[t].data() + g * count * terms[t]->partials(), count,
                       out.data() + starts[t] + g * terms[t]->outputs());
  return out;
}

void sums_backward(const Logits& logits, const std::vector<Term*>& terms, const float* grad, void* grad_logits,
                   int threads) {
  const Chunks chunks(logits.volume);
  const std::int64_t count = chunks.count(), element = size_of(logits.array.type);
  const Terms constant(terms.begin(), terms.end());
  const auto members = members_of_planes(logits.planes, constant);
  const auto starts = starts_of_outputs(constant);
  for (std::size_t t = 0; t < terms.size(); ++t) terms[t]->prepare(logits, grad + starts[t], threads);

  const std::int64_t plane_bytes = logits.volume.voxels() * element;
  for (std::int64_t plane = 0; plane < logits.planes; ++plane)
    if (members[plane].empty()) clear(static_cast<char*>(grad_logits) + plane * plane_bytes, plane_bytes, threads);

  const auto used = planes_in_use(members);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t job = 0; job < static_cast<std::int64_t>(used.size()) * count; ++job) {
    const std::int64_t plane = used[job / count];
    const Chunk chunk = chunks[job % count];
    char* out = static_cast<char*>(grad_logits) + plane * plane_bytes + chunk.first * element;
    std::memset(out, 0, chunk.size() * element);
    LogitChunk x(logits, plane, chunk);
    float buffer[kChunk];
    float* slopes = nullptr;
    for (const Member& member : members[plane]) {
      const Term& term = *terms[member.term];
      if (term.empty(member.group, chunk)) continue;
      if (slopes == nullptr && logits.array.type == Type::f32) {
        slopes = reinterpret_cast<float*>(out);
      } else if (slopes == nullptr) {
        slopes = buffer;
        std::fill(buffer, buffer + chunk.size(), 0.0f);
      }
      term.add_slopes(member.group, chunk, x.values(), grad + starts[member.term] + member.group * term.outputs(),
                      slopes);
    }
    if (slopes == buffer) store(buffer, chunk.size(), logits.array.type, out);
  }
}

}  // namespace rsuper
