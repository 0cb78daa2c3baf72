// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>  // brings __GLIBC__ where there is one

// Where the C library can choose at load time, loops are compiled for three instruction sets. Not with a sanitizer: the
// choice is made before its library is ready.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#if __GNUC__ >= 12
#define RSUPER_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RSUPER_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define RSUPER_MULTIVERSION
#endif

// What multiversioned functions call has to become a part of each version.
#if defined(__GNUC__)
#define RSUPER_INLINE inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define RSUPER_INLINE __forceinline
#else
#define RSUPER_INLINE inline
#endif
