// SPDX-License-Identifier: Apache-2.0
// What lets a header serve C++ on the CPU and CUDA on a GPU. Kernels are compiled at their first use by NVRTC, which has
// no standard headers.
#pragma once

#ifdef __CUDACC_RTC__
using int16_t = short;
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
namespace std {
using ::int32_t;
using ::int64_t;
using ::uint8_t;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
}  // namespace std
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#ifdef __CUDACC__
#define RSUPER_HOST_DEVICE __host__ __device__
#else
#define RSUPER_HOST_DEVICE
#endif
