// SPDX-License-Identifier: Apache-2.0
// CUDA C++ as C++ on the host: blocks run one after another, each thread of a block on a stack of its own. Threads change
// places only where they wait for each other, and who goes on is drawn by lot, so that a result which hangs on the order
// of threads shows. A barrier or a warp's exchange that not all its threads reach ends the launch with a message.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ __attribute__((section("shared_memory"))) static

#define SHIM_EXPORT __attribute__((visibility("default")))

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace shim {

constexpr int kWarp = 32;
constexpr std::size_t kStack = 64 << 10;

enum class State { ready, barrier, exchange, done };

struct Thread {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;
  bool started = false;
  State state = State::done;
  int line = 0;                   // of the barrier
  unsigned mask = 0;              // lanes of the exchange
  std::uint64_t given = 0;        // to the exchange
  std::uint64_t taken[kWarp];     // from it, by lane
};

struct Machine {
  dim3 grid, block, block_index;
  std::vector<Thread> threads;
  unsigned current = 0;
  jmp_buf scheduler, launch;
  std::function<void()> kernel;
  std::vector<char> dynamic;
  std::mt19937 lots;
  std::string error;
};

inline Machine machine;

[[noreturn]] inline void fail(const std::string& what) {
  const dim3& at = machine.block_index;
  machine.error = what + " (block " + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
                  std::to_string(at.z) + ", thread " + std::to_string(machine.current) + ")";
  machine.threads.clear();  // their stacks are in the middle of something
  longjmp(machine.launch, 1);
}

inline Thread& self() { return machine.threads[machine.current]; }

inline void wait(State state) {
  self().state = state;
  if (!_setjmp(self().resume)) _longjmp(machine.scheduler, 1);
}

// A thread's stack serves block after block.
inline void run_threads() {
  for (;;) {
    machine.kernel();
    wait(State::done);
  }
}

inline void resume(unsigned index) {
  machine.current = index;
  Thread& thread = self();
  if (_setjmp(machine.scheduler)) return;
  if (thread.started) _longjmp(thread.resume, 1);
  thread.started = true;
  setcontext(&thread.start);
}

// Gives every lane of a complete exchange what all of them gave; false where some are still on their way.
inline bool exchanged(unsigned first, unsigned end) {
  bool any = false;
  for (unsigned i = first; i < end; ++i) {
    Thread& thread = machine.threads[i];
    if (thread.state != State::exchange) continue;
    machine.current = i;
    if (!(thread.mask >> (i - first) & 1)) fail("a lane exchanges values in a mask without itself");
    bool complete = true;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!(thread.mask >> lane & 1)) continue;
      if (first + lane >= end || machine.threads[first + lane].state == State::done)
        fail("an exchange names a lane that has ended");
      const Thread& other = machine.threads[first + lane];
      if (other.state == State::exchange && other.mask != thread.mask) fail("lanes exchange values in different masks");
      complete &= other.state == State::exchange;
    }
    if (!complete) continue;
    any = true;
    const unsigned mask = thread.mask;
    for (unsigned lane = 0; lane < kWarp; ++lane)
      for (unsigned from = 0; from < kWarp && (mask >> lane & 1); ++from)
        machine.threads[first + lane].taken[from] = mask >> from & 1 ? machine.threads[first + from].given : 0;
    for (unsigned lane = 0; lane < kWarp; ++lane)
      if (mask >> lane & 1) machine.threads[first + lane].state = State::ready;
  }
  return any;
}

// Runs a warp until none of its threads can go on; `order` is scratch memory.
inline void run_warp(unsigned warp, std::vector<unsigned>& order) {
  const unsigned first = warp * kWarp, end = std::min<unsigned>(first + kWarp, machine.threads.size());
  do {
    order.resize(end - first);
    std::iota(order.begin(), order.end(), first);
    std::shuffle(order.begin(), order.end(), machine.lots);
    for (const unsigned i : order)
      if (machine.threads[i].state == State::ready) resume(i);
  } while (exchanged(first, end));
}

inline void release_barrier() {
  int line = 0;
  for (unsigned i = 0; i < machine.threads.size(); ++i) {
    machine.current = i;
    const Thread& thread = machine.threads[i];
    if (thread.state == State::exchange) fail("an exchange waits for lanes that do not come");
    if (thread.state == State::done) fail("a thread ends while others wait at a barrier");
    if (line != 0 && thread.line != line) fail("threads wait at different barriers");
    line = thread.line;
  }
  for (Thread& thread : machine.threads) thread.state = State::ready;
}

inline bool all_done() {
  return std::all_of(machine.threads.begin(), machine.threads.end(),
                     [](const Thread& thread) { return thread.state == State::done; });
}

inline void run_block() {
  if (__start_shared_memory) std::memset(__start_shared_memory, 0xee, __stop_shared_memory - __start_shared_memory);
  std::fill(machine.dynamic.begin(), machine.dynamic.end(), char(0xee));
  for (Thread& thread : machine.threads) thread.state = State::ready;
  std::vector<unsigned> warps((machine.threads.size() + kWarp - 1) / kWarp), order;
  std::iota(warps.begin(), warps.end(), 0u);
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), machine.lots);
    for (const unsigned warp : warps) run_warp(warp, order);
    if (all_done()) return;
    release_barrier();
  }
}

inline void make_threads(unsigned count) {
  if (machine.threads.size() == count) return;
  machine.threads = std::vector<Thread>(count);
  for (Thread& thread : machine.threads) {
    thread.stack.reset(new char[kStack]);
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = thread.stack.get();
    thread.start.uc_stack.ss_size = kStack;
    makecontext(&thread.start, run_threads, 0);
  }
}

// Turns an access outside of the arrays into a message.
class FaultHandler {
 public:
  FaultHandler() : stack_(new char[kStack]) {
    const stack_t own{stack_.get(), 0, kStack};
    sigaltstack(&own, &stack_before_);
    struct sigaction action {};
    action.sa_handler = [](int) { fail("an access outside of the arrays"); };
    action.sa_flags = SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &before_, nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  std::unique_ptr<char[]> stack_;
  stack_t stack_before_;
  struct sigaction before_;
};

// Runs `kernel` in every block; an empty string, or what went wrong.
inline const char* launch(const std::int64_t* grid, std::int64_t threads, std::int64_t shared, std::int64_t seed,
                          std::function<void()> kernel) {
  machine.error.clear();
  machine.grid = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  machine.block = {unsigned(threads), 1, 1};
  machine.dynamic.resize(shared);
  machine.lots.seed(unsigned(seed));
  machine.kernel = std::move(kernel);
  make_threads(unsigned(threads));
  std::vector<std::int64_t> blocks(grid[0] * grid[1] * grid[2]);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), machine.lots);
  const FaultHandler handler;
  if (!setjmp(machine.launch))
    for (const std::int64_t b : blocks) {
      machine.block_index = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
      run_block();
    }
  return machine.error.c_str();
}

// Calls a kernel with arguments of eight bytes each.
template <typename... Parameters, std::size_t... I>
void call(void (*kernel)(Parameters...), const std::uint64_t* arguments, std::index_sequence<I...>) {
  const auto as = [](std::uint64_t bits, auto value) {
    static_assert(sizeof value == sizeof bits, "kernels take pointers, int64_t and double");
    std::memcpy(&value, &bits, sizeof bits);
    return value;
  };
  kernel(as(arguments[I], Parameters{})...);
}

template <typename... Parameters>
const char* launch(void (*kernel)(Parameters...), const std::int64_t* grid, std::int64_t threads, std::int64_t shared,
                   std::int64_t seed, const std::uint64_t* arguments, std::int64_t count) {
  if (count != sizeof...(Parameters)) return "the kernel takes another number of arguments";
  return launch(grid, threads, shared, seed,
                [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); });
}

[[gnu::noinline]] inline void barrier(int line) {
  self().line = line;
  wait(State::barrier);
}

// What the lanes of `mask` gave, by lane.
template <typename T>
[[gnu::noinline]] const std::uint64_t* exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8);
  self().given = 0;
  std::memcpy(&self().given, &value, sizeof value);
  self().mask = mask;
  wait(State::exchange);
  return self().taken;
}

template <typename T>
T value_of(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int lane() { return machine.current % kWarp; }
// A function, so that compilers do not keep one thread's answer for another.
[[gnu::noinline]] inline dim3 thread_index() { return {machine.current, 0, 0}; }
inline void* dynamic_memory() { return machine.dynamic.data(); }

}  // namespace shim

#define threadIdx shim::thread_index()
#define blockIdx shim::machine.block_index
#define blockDim shim::machine.block
#define gridDim shim::machine.grid
#define __syncthreads() shim::barrier(__LINE__)

inline void __syncwarp(unsigned mask = ~0u) { shim::exchange(mask, 0); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return shim::value_of<T>(shim::exchange(mask, value)[from & 31]);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const int from = shim::lane() - static_cast<int>(distance);
  return shim::value_of<T>(shim::exchange(mask, value)[from < 0 ? shim::lane() : from]);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const int from = shim::lane() + static_cast<int>(distance);
  return shim::value_of<T>(shim::exchange(mask, value)[from >= shim::kWarp ? shim::lane() : from]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return shim::value_of<T>(shim::exchange(mask, value)[shim::lane() ^ bits]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const std::uint64_t* taken = shim::exchange(mask, predicate != 0);
  unsigned out = 0;
  for (int lane = 0; lane < shim::kWarp; ++lane) out |= static_cast<unsigned>(taken[lane]) << lane;
  return out;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  const std::uint64_t* taken = shim::exchange(mask, value);
  unsigned out = 0;
  for (int lane = 0; lane < shim::kWarp; ++lane)
    if (mask >> lane & 1 && shim::value_of<T>(taken[lane]) == value) out |= 1u << lane;
  return out;
}

template <typename T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}
template <typename T>
T atomicMax(T* at, T value) {
  return std::exchange(*at, std::max(*at, value));
}
template <typename T>
T atomicMin(T* at, T value) {
  return std::exchange(*at, std::min(*at, value));
}
template <typename T>
T atomicOr(T* at, T value) {
  return std::exchange(*at, *at | value);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(bits); }
inline int __clzll(long long bits) { return bits == 0 ? 64 : __builtin_clzll(bits); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}
template <typename T>
T __ldg(const T* at) {
  return *at;
}
using std::max;
using std::min;
