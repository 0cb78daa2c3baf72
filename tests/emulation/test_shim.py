# SPDX-License-Identifier: Apache-2.0
"""The emulator of CUDA C++ itself: that it gives what kernels compute, and finds what is wrong with them."""

import pytest
import torch

from tests.emulation.launchers import required

GOOD = """
extern "C" __global__ void __launch_bounds__(256) sums(const float* in, int64_t* out, int64_t count, double scale) {
  __shared__ int total;
  extern __shared__ int parts[];
  if (threadIdx.x == 0) total = 0;
  const int64_t i = blockIdx.x * blockDim.x + threadIdx.x;
  parts[threadIdx.x] = i < count ? static_cast<int>(scale * in[i]) : 0;
  __syncthreads();
  int part = parts[blockDim.x - 1 - threadIdx.x];
  for (int step = 16; step > 0; step /= 2) part += __shfl_xor_sync(0xffffffffu, part, step);
  if (threadIdx.x % 32 == 0) atomicAdd(&total, part);
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}
"""

BAD = {
    "a barrier that some threads do not reach": (
        "if (threadIdx.x < 40) __syncthreads();",
        "a thread ends while others wait",
    ),
    "two barriers for one": (
        "if (threadIdx.x < 40) {\n __syncthreads();\n } else {\n __syncthreads();\n }",
        "different barriers",
    ),
    "an exchange without some of its lanes": (
        "if (threadIdx.x % 32 < 5) __shfl_sync(0xffffffffu, 1, 0);",
        "names a lane that has ended",
    ),
    "an exchange that waits behind a barrier": (
        "if (threadIdx.x % 32 < 5) __syncwarp(); else __syncthreads();\n __syncthreads();",
        "waits for lanes that do not come",
    ),
    "lanes with different masks": ("__ballot_sync(threadIdx.x % 2 ? 0xffffffffu : 0xfffffffeu, 1);", "mask"),
    "a write behind the array": ("out[threadIdx.x + 1] = 0;", "behind the end of an array|outside of the arrays"),
    "a read far from the array": ("out[0] = out[10000];", "outside of the arrays"),
    "a read before the array": ("out[0] = out[-3000];", "outside of the arrays"),
}


@pytest.fixture
def shim(tmp_path):
    """run(code, kernel, tensors, ...) with a source of its own."""
    try:
        from tests.emulation.shim import Shim

        launcher = Shim(tmp_path)
    except ImportError as error:
        if required():
            raise
        pytest.skip(str(error))

    def run(code: str, kernel: str, *arguments, blocks: int = 1, threads: int = 64, shared: int = 0) -> None:
        (tmp_path / "source.cu").write_text(f"#include <cstdint>\n{code}")
        launcher.cuda("source", kernel, (blocks,), threads, arguments, shared)

    return run


def test_values(shim):
    values = torch.arange(500.0)
    out = torch.empty(4, dtype=torch.int64)
    shim(GOOD, "sums", values, out, 450, 2.0, blocks=4, threads=128, shared=512)
    doubled = 2 * torch.arange(512) * (torch.arange(512) < 450)
    assert out.tolist() == doubled.view(4, 128).sum(1).tolist()


@pytest.mark.parametrize("fault", BAD)
def test_faults_are_told(shim, fault):
    body, message = BAD[fault]
    out = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=message):
        shim(f'extern "C" __global__ void bad(int64_t* out) {{ {body} }}', "bad", out)
    # and the next launch is not the worse for it
    shim('extern "C" __global__ void good(int64_t* out) { out[threadIdx.x] = threadIdx.x; }', "good", out)
    assert out.tolist() == list(range(64))


def test_a_missing_barrier_shows(shim):
    """Each thread reads what its neighbour has just written."""
    code = """
    extern "C" __global__ void neighbours(int64_t* out) {
      __shared__ int64_t values[64];
      values[threadIdx.x] = threadIdx.x;
      BARRIER
      out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
    }
    """
    expected = [(i + 1) % 64 for i in range(64)]
    out = torch.zeros(64, dtype=torch.int64)
    shim(code.replace("BARRIER", "__syncthreads();"), "neighbours", out)
    assert out.tolist() == expected
    shim(code.replace("BARRIER", "").replace("neighbours", "racing"), "racing", out)
    assert out.tolist() != expected


def test_the_order_of_blocks_and_threads_changes(shim):
    code = """
    extern "C" __global__ void order(int64_t* out, int64_t* next) {
      out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, int64_t{1});
    }
    """
    orders = []
    for _ in range(2):
        out, following = torch.empty(128, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        shim(code, "order", out, following, blocks=2)
        assert sorted(out.tolist()) == list(range(128))
        orders.append(out.tolist())
    assert orders[0] != orders[1]


def test_shared_memory_is_of_the_block(shim):
    """A block finds nothing of what the one before left."""
    code = """
    extern "C" __global__ void leftovers(int64_t* out) {
      __shared__ int64_t value;
      if (threadIdx.x == 0) { out[blockIdx.x] = value; value = 1; }
    }
    """
    out = torch.zeros(3, dtype=torch.int64)
    shim(code, "leftovers", out, blocks=3)
    assert len(set(out.tolist())) == 1
    assert out[0] not in (0, 1)


def test_tensors_of_one_storage_are_one_memory(shim):
    values = torch.zeros(10, dtype=torch.int64)
    code = 'extern "C" __global__ void two(int64_t* a, const int64_t* b) { a[0] = 5; a[1] = b[0]; }'
    shim(code, "two", values, values[0:], threads=1)
    assert values.tolist() == [5, 5] + [0] * 8
    shim(code, "two", values[4:6], values[4:], threads=1)
    assert values.tolist() == [5, 5, 0, 0, 5, 5, 0, 0, 0, 0]
