// SPDX-License-Identifier: Apache-2.0
// The module rsuper_kernels._C: addresses and sizes in, nothing out. Python owns allocation and checks the tensors;
// what cannot be checked there without reading them is checked here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "rsuper/dilate.h"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::vector<rsuper::Pass> read_passes(const std::int32_t* runs, const std::vector<std::int64_t>& lengths) {
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
            std::uintptr_t runs, const std::vector<std::int64_t>& pass_lengths, int threads) {
  rsuper::dilate(pointer<const std::uint8_t>(src), pointer<std::uint8_t>(dst), {n, d, h, w},
                 read_passes(pointer<const std::int32_t>(runs), pass_lengths), threads);
}

bool openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("dilate", &dilate, py::arg("src_ptr"), py::arg("dst_ptr"), py::arg("n"), py::arg("d"), py::arg("h"),
        py::arg("w"), py::arg("runs_ptr"), py::arg("pass_lengths"), py::arg("threads"),
        py::call_guard<py::gil_scoped_release>(),
        "Binary dilation of n bit masks, see csrc/include/rsuper/dilate.h.");
  m.def("openmp", &openmp, "Whether the module was built with OpenMP.");
}
