// SPDX-License-Identifier: Apache-2.0
// The module rsuper_kernels._C: addresses and sizes in, results to addresses. Python owns allocation and checks the tensors;
// what cannot be checked there without reading them is checked here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "rsuper/attenuation_stats.h"
#include "rsuper/ball_search.h"
#include "rsuper/ball_select.h"
#include "rsuper/dilate.h"
#include "rsuper/masked_bce_dice.h"
#include "rsuper/pack_bits.h"
#include "rsuper/place_balls.h"
#include "rsuper/recycled.h"
#include "rsuper/region_sums.h"

namespace py = pybind11;

namespace {

using Integers = std::vector<std::int64_t>;
using TypedAddress = std::pair<std::uintptr_t, int>;  // address, number of the type

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

rsuper::Array array(const TypedAddress& typed) {
  return {pointer<const void>(typed.first), static_cast<rsuper::Type>(typed.second)};
}

std::vector<rsuper::Pass> read_passes(const std::int32_t* runs, const Integers& lengths) {
  std::vector<rsuper::Pass> passes;
  for (const std::int64_t length : lengths) {
    rsuper::Pass pass;
    for (std::int64_t i = 0; i < length; ++i, runs += 3) {
      if (runs[2] < 0) throw std::invalid_argument("runs: negative half width " + std::to_string(runs[2]));
      pass.push_back({runs[0], runs[1], runs[2]});
    }
    passes.push_back(std::move(pass));
  }
  return passes;
}

void dilate(std::uintptr_t src, std::uintptr_t dst, std::int64_t n, std::int64_t d, std::int64_t h, std::int64_t w,
            std::uintptr_t runs, const Integers& pass_lengths, int threads) {
  rsuper::dilate(pointer<const rsuper::Word>(src), pointer<rsuper::Word>(dst), {n, d, h, w},
                 read_passes(pointer<const std::int32_t>(runs), pass_lengths), threads);
}

void pack_masks(const TypedAddress& masks, const std::array<std::int64_t, 3>& volume,
                const std::vector<Integers>& groups, std::uintptr_t words, int threads) {
  rsuper::pack_masks(array(masks), volume[0] * volume[1], volume[2], groups, pointer<rsuper::Word>(words), threads);
}

void pack_labels(const TypedAddress& labels, const std::array<std::int64_t, 3>& volume, const Integers& samples,
                 const std::vector<Integers>& ids, std::uintptr_t words, int threads) {
  rsuper::pack_labels(array(labels), volume[0] * volume[1], volume[2], samples, ids, pointer<rsuper::Word>(words),
                      threads);
}

bool holds_binary(const TypedAddress& typed, std::int64_t count, int threads) {
  return rsuper::holds_binary(array(typed), count, threads);
}

void unpack_masks(std::uintptr_t words, std::int64_t rows, std::int64_t width, std::uintptr_t voxels, int threads) {
  rsuper::unpack_masks(pointer<const rsuper::Word>(words), rows, width, pointer<std::uint8_t>(voxels), threads);
}

rsuper::Mask mask(const TypedAddress& typed, const rsuper::Volume& volume) { return {array(typed), volume}; }

rsuper::Volume volume_of(const std::array<std::int64_t, 3>& shape) { return {shape[0] * shape[1], shape[2]}; }

using Shape3 = std::array<std::int64_t, 3>;  // (D, H, W)
using TermPointer = std::unique_ptr<rsuper::Term>;

TermPointer region_term(const Shape3& shape, const TypedAddress& regions, const Integers& planes, const Integers& rows,
                        bool sigmoid, bool count_voxels) {
  return std::make_unique<rsuper::RegionTerm>(mask(regions, volume_of(shape)), planes, rows, sigmoid, count_voxels);
}

TermPointer bce_dice_term(const Shape3& shape, const TypedAddress& targets, const TypedAddress& known,
                          const TypedAddress& weights, std::int64_t weight_stride, const Integers& planes,
                          bool sigmoid) {
  const rsuper::Volume volume = volume_of(shape);
  const rsuper::BceDiceMasks masks{mask(targets, volume), mask(known, volume), array(weights), weight_stride};
  return std::make_unique<rsuper::BceDiceTerm>(masks, planes, sigmoid);
}

TermPointer attenuation_term(const Shape3& shape, const TypedAddress& ct, const TypedAddress& tumour,
                             const TypedAddress& organ, const Integers& planes, const Integers& samples,
                             const std::pair<double, double>& window, double eps, bool sigmoid,
                             std::uintptr_t grad_organ) {
  const rsuper::Volume volume = volume_of(shape);
  const rsuper::AttenuationMasks masks{array(ct), mask(tumour, volume), mask(organ, volume), samples,
                                       window.first, window.second, eps};
  return std::make_unique<rsuper::AttenuationTerm>(masks, planes, sigmoid, pointer<void>(grad_organ));
}

rsuper::Logits logits_of(const TypedAddress& logits, std::int64_t planes, const Shape3& shape) {
  return {array(logits), volume_of(shape), planes};
}

void sums(const TypedAddress& logits, std::int64_t planes, const Shape3& shape,
          const std::vector<rsuper::Term*>& terms, std::uintptr_t out, int threads) {
  const rsuper::Terms constant(terms.begin(), terms.end());
  const std::vector<double> values = rsuper::sums(logits_of(logits, planes, shape), constant, threads);
  std::copy(values.begin(), values.end(), pointer<float>(out));
}

void sums_backward(const TypedAddress& logits, std::int64_t planes, const Shape3& shape,
                   const std::vector<rsuper::Term*>& terms, std::uintptr_t grad, std::uintptr_t grad_logits,
                   int threads) {
  rsuper::sums_backward(logits_of(logits, planes, shape), terms, pointer<const float>(grad), pointer<void>(grad_logits),
                        threads);
}

std::pair<std::int64_t, double> ball_search(std::uintptr_t probability, std::uintptr_t available, std::int64_t d,
                                            std::int64_t h, std::int64_t w, std::uintptr_t runs, std::int64_t run_count,
                                            const std::array<double, 3>& steps, double falloff, double total,
                                            int threads) {
  const auto* first = pointer<const std::int32_t>(runs);
  const rsuper::BallKernel kernel{{first, first + 3 * run_count}, {steps[0], steps[1], steps[2]}, falloff, total};
  const rsuper::BestBall best = rsuper::ball_search(pointer<const float>(probability),
                                                    pointer<const std::uint8_t>(available), {d, h, w}, kernel, threads);
  return {best.centre, best.score};
}

void ball_select(std::uintptr_t probability, std::uintptr_t available, std::int64_t d, std::int64_t h, std::int64_t w,
                 std::int64_t centre, const std::vector<double>& squared_radii, std::int64_t needed,
                 const Integers& counts, const std::array<double, 3>& steps, bool outside_competes,
                 std::uintptr_t masks) {
  rsuper::ball_select(
      pointer<const float>(probability), pointer<const std::uint8_t>(available), {d, h, w},
      {centre, squared_radii, needed, counts, {steps[0], steps[1], steps[2]}}, outside_competes,
      pointer<std::uint8_t>(masks));
}

void rank_weights(std::uintptr_t probability, std::uintptr_t mask, std::int64_t voxels, double concentration,
                  std::uintptr_t weights) {
  rsuper::rank_weights(pointer<const float>(probability), pointer<const std::uint8_t>(mask), voxels, concentration,
                       pointer<float>(weights));
}

// Bytes that go back to rsuper/recycled.h with their last view.
py::array_t<std::uint8_t> recycled(std::int64_t bytes) {
  void* memory = rsuper::acquire(bytes);
  return py::array_t<std::uint8_t>(bytes, static_cast<std::uint8_t*>(memory), py::capsule(memory, rsuper::release));
}

// Plane n has words, weights and a limit of its own; weights are rows of `stride`.
void foreground_weights(const TypedAddress& logits, const std::array<std::int64_t, 3>& volume, std::uintptr_t words,
                        const Integers& planes, double concentration, bool sigmoid, std::uintptr_t weights,
                        std::int64_t stride) {
  const rsuper::Grid grid{volume[0], volume[1], volume[2]};
  for (std::size_t n = 0; n < planes.size(); ++n)
    rsuper::foreground_weights(
        {array(logits).from(planes[n] * grid.voxels()), sigmoid, grid,
         pointer<const rsuper::Word>(words) + n * grid.rows() * rsuper::words_per_row(grid.w)},
        concentration, stride, pointer<float>(weights) + n * stride);
}

// mask, address and number of runs, falloff, squared radii, needed, counts
using Tumour = std::tuple<std::int64_t, std::uintptr_t, std::int64_t, double, std::vector<double>, std::int64_t, Integers>;

void place_balls(const TypedAddress& logits, const std::array<std::int64_t, 3>& volume, std::uintptr_t masks,
                 const Integers& planes, const std::vector<std::vector<Tumour>>& tumours,
                 const std::array<double, 3>& steps, bool sigmoid, std::uintptr_t unions, std::uintptr_t bodies,
                 int threads) {
  rsuper::Planes work{array(logits), sigmoid, {volume[0], volume[1], volume[2]}, pointer<const rsuper::Word>(masks),
                      planes, {}};
  for (const std::vector<Tumour>& plane : tumours) {
    work.tumours.emplace_back();
    for (const auto& [mask, runs, run_count, falloff, squared_radii, needed, counts] : plane) {
      const auto* first = pointer<const std::int32_t>(runs);
      work.tumours.back().push_back({mask,
                                     {{first, first + 3 * run_count}, {steps[0], steps[1], steps[2]}, falloff, 1.0},
                                     {-1, squared_radii, needed, counts, {steps[0], steps[1], steps[2]}}});
    }
  }
  rsuper::place_balls(work, pointer<rsuper::Word>(unions), pointer<rsuper::Word>(bodies), threads);
}

bool openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

}  // namespace

// Each function is that of its name in csrc/include/rsuper; an array is its address and the number of its type.
PYBIND11_MODULE(_C, m) {
  const py::call_guard<py::gil_scoped_release> without_gil;
  py::class_<rsuper::Term>(m, "Term", "Sums over voxels of one kind; keep its tensors alive as long as it is used.");
  m.def("attenuation_term", &attenuation_term);
  m.def("ball_search", &ball_search, without_gil);
  m.def("ball_select", &ball_select, without_gil);
  m.def("bce_dice_term", &bce_dice_term);
  m.def("dilate", &dilate, py::arg("src_ptr"), py::arg("dst_ptr"), py::arg("n"), py::arg("d"), py::arg("h"),
        py::arg("w"), py::arg("runs_ptr"), py::arg("pass_lengths"), py::arg("threads"), without_gil);
  m.def("foreground_weights", &foreground_weights, without_gil);
  m.def("give_back", &rsuper::give_back, "Free the memory that is kept for the next gradients.");
  m.def("holds_binary", &holds_binary, without_gil);
  m.def("openmp", &openmp, "Whether the module was built with OpenMP.");
  m.def("pack_labels", &pack_labels, without_gil);
  m.def("pack_masks", &pack_masks, without_gil);
  m.def("place_balls", &place_balls, without_gil);
  m.def("rank_weights", &rank_weights, without_gil);
  m.def("recycled", &recycled);
  m.def("region_term", &region_term);
  m.def("sums", &sums, without_gil);
  m.def("sums_backward", &sums_backward, without_gil);
  m.def("unpack_masks", &unpack_masks, without_gil);
}
