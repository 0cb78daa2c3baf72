# SPDX-License-Identifier: Apache-2.0
"""Kernels of Triton and of CUDA C++, compiled and run as PTX, against torch and Python."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.emulation.conftest import emulated
from tests.emulation.launchers import emulator
from tests.emulation.ptx import NvccPtx, Ptx, PtxError

SOURCE = Path(__file__).parent / "fixtures" / "kernels.cu"


@pytest.fixture(params=["interpreter", 80, 90])
def launch(request):
    """Run a kernel of fixtures/kernels.py, by Triton's interpreter and by the PTX of two targets."""
    emulated("ptx")
    from tests.emulation.fixtures import kernels

    launcher = emulator("interpreter") if request.param == "interpreter" else Ptx(request.param)
    return lambda name, grid, warps=4, **arguments: launcher.triton(getattr(kernels, name), grid, arguments, warps)


@pytest.fixture(params=[80, 90])
def cuda(request):
    """Run a kernel of fixtures/kernels.cu, by the PTX of two targets."""
    emulated("interpreter", "nvcc")
    return lambda *arguments: NvccPtx(request.param).source(SOURCE, *arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_softmax(launch, dtype):
    x = torch.randn(9, 70).to(dtype)
    out, maxima = torch.full((9, 70), math.nan), torch.empty(9)
    launch("rows_softmax", (9,), x=x, out=out, maxima=maxima, rows=9, columns=70, BLOCK=128)
    torch.testing.assert_close(out, x.float().softmax(1))
    assert torch.equal(maxima, x.float().amax(1))


def test_last_program_sums_up(launch):
    x, partial, out = torch.randn(2000), torch.full((40,), math.nan), torch.empty(1)
    counter = torch.zeros(1, dtype=torch.int32)
    launch("total", (40,), x=x, partial=partial, counter=counter, out=out, count=2000, BLOCK=64)
    torch.testing.assert_close(out[0], x.sum())
    assert counter.item() == 0


def test_words(launch):
    bits = torch.randint(-(2**62), 2**62, (4, 7))
    bits[2] = 0
    bits[3, :4] = 0
    ranks, first = torch.empty(4, 7, dtype=torch.int32), torch.empty(4, dtype=torch.int32)
    launch("word_scan", (4,), bits=bits, ranks=ranks, first=first, columns=7, BLOCK=8)
    counts = torch.tensor([[(word % 2**64).bit_count() for word in row] for row in bits.tolist()])
    assert torch.equal(ranks.long(), counts.cumsum(1) - counts)
    assert first.tolist() == [0, 0, 7, 4]


def test_histogram_and_first_maximum(launch):
    x = (torch.rand(1000) * 64).floor() / 64
    counts = torch.zeros(16, dtype=torch.int32)
    values, places = torch.empty(4), torch.empty(4, dtype=torch.int32)
    arguments = {"x": x, "counts": counts, "values": values, "places": places, "count": 1000}
    launch("histogram_of", (4,), **arguments, BINS=16, BLOCK=256)
    assert torch.equal(counts.long(), (x * 16).long().bincount(minlength=16))
    parts = [part.tolist() for part in x.split(256)]
    assert values.tolist() == [max(part) for part in parts]
    assert places.tolist() == [part.index(max(part)) for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_transpose(launch, dtype):
    x, out = torch.randn(70, 33).to(dtype), torch.empty(33, 70, dtype=dtype)
    launch("transposed", (3, 2), x=x, out=out, rows=70, columns=33, TILE=32)
    assert torch.equal(out, x.T)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_loop(launch, steps):
    x, out = torch.rand(128) + 0.5, torch.empty(128)
    launch("powers", (1,), x=x, out=out, steps=steps, BLOCK=128)
    total = sum((x.double() ** i for i in range(1, steps + 1)), torch.zeros(128, dtype=torch.double))
    expected = ((1 + total).log() + total.sqrt() + (-x.double()).exp()) / (1 + x.double())
    torch.testing.assert_close(out, expected.float())


def test_product(launch):
    a, b, out = torch.randn(16, 16), torch.randn(16, 16), torch.empty(16, 16)
    launch("products", (1,), a=a, b=b, out=out, SIZE=16)
    torch.testing.assert_close(out, a @ b)


@pytest.mark.parametrize("short", ["x", "out"])
def test_a_launch_that_leaves_its_tensors(short):
    emulated("ptx")
    from tests.emulation.fixtures.kernels import rows_softmax

    arguments = {"x": torch.randn(9, 70), "out": torch.empty(9, 70), "maxima": torch.empty(9)}
    arguments[short] = arguments[short].flatten()[:-1]
    with pytest.raises(
        PtxError, match=rf"rows_softmax, block \(8, 0, 0\), thread .* `.*{'ld' if short == 'x' else 'st'}\.global"
    ):
        Ptx().triton(rows_softmax, (9,), {**arguments, "rows": 9, "columns": 70, "BLOCK": 128}, 4)


def test_functions_of_doubles(cuda):
    x = torch.rand(70, dtype=torch.float64) * 5 + 0.1
    out = torch.full((70, 8), math.nan, dtype=torch.float64)
    cuda("functions", (2,), 64, [x, out, 70])
    sine = ((x.float() * 1e6).double()).sin()
    expected = [x.sqrt(), x**2.5, (-x).exp(), x.log(), 1 / x, sine, (x + 1).lgamma()]
    torch.testing.assert_close(
        out[:, [0, 1, 2, 3, 4, 6]], torch.stack(expected, 1)[:, [0, 1, 2, 3, 4, 6]], rtol=1e-15, atol=1e-15
    )
    torch.testing.assert_close(out[:, 5], sine, rtol=1e-6, atol=1e-6)
    assert out[:, 7].abs().max() < 1e-14
    assert (out[:, 7] != 0).any()  # what rounding took from the product, which only one rounding shows


def test_integers(cuda):
    edges = [0, 1, -1, 2**63 - 1, -(2**63), 7, 1000]
    x = torch.tensor([*torch.randint(-(2**62), 2**62, (60,)).tolist(), *edges])
    out = torch.zeros(67, 12, dtype=torch.int64)
    cuda("integers", (2,), 64, [x, out, 67])
    assert out.tolist() == [integers(v) for v in x.tolist()]


def integers(v: int) -> list[int]:
    """What the kernel of this name computes."""

    def signed(value: int, bits: int = 64) -> int:
        return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)

    bits, word = v % 2**64, v % 2**32
    low = bits % 2**24
    of_bytes = [*word.to_bytes(4, "little"), 4, 3, 2, 1]
    return [
        bits.bit_count(),
        64 - bits.bit_length(),
        (bits & -bits).bit_length(),
        signed(int(f"{bits:064b}"[::-1], 2)),
        abs(v) // 7 * (-1 if v < 0 else 1),
        abs(v) % 1000 * (-1 if v < 0 else 1),
        signed(bits * bits >> 64),
        v * signed(3 * v) >> 64,
        ((word ^ 0xFFFFFFFF) << 5 | word >> 27) % 2**32,
        sum(of_bytes[place] << 8 * i for i, place in enumerate((5, 1, 7, 2))),
        signed(word, 32) >> 3,
        2 * low + (low >> 8 * (word % 3)) % 256,
    ]


def test_counts_of_bytes(cuda):
    x = torch.randint(0, 256, (1000,), dtype=torch.uint8)
    counts, total = torch.zeros(256, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    last = torch.zeros(1, dtype=torch.int64)
    cuda("bytes", (8,), 128, [x, counts, total, last, 1000])
    assert torch.equal(counts.long(), x.long().bincount(minlength=256))
    assert total.item() == x.sum()
    assert (last.item() >> 32, 2**32 - 1 - last.item() % 2**32) == (x.max(), x.tolist().index(x.max()))


def test_last_block_sums_up(cuda):
    x, partials = torch.randn(4096), torch.full((8,), math.nan, dtype=torch.float64)
    counter, out = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.float64)
    cuda("total", (8,), 128, [x, partials, counter, out, 4096], 1024)
    torch.testing.assert_close(out[0], x.double().sum(), rtol=1e-5, atol=1e-5)
    assert counter.item() == 0


def test_exchanges(cuda):
    x = torch.randint(-500, 500, (64,), dtype=torch.int32)
    out = torch.zeros(64, 8, dtype=torch.int32)
    cuda("exchanges", (1,), 64, [x, out])
    for warp in range(2):
        v = x.tolist()[32 * warp : 32 * warp + 32]
        for i, row in enumerate(out.tolist()[32 * warp : 32 * warp + 32]):
            assert row[:4] == [v[i - 3 if i >= 3 else i], v[i + 2 if i % 16 < 14 else i], v[i ^ 5], v[i // 2]]
            assert row[4] % 2**32 == sum((value > 0) << j for j, value in enumerate(v))
            assert row[5] % 2**32 == sum((value & 3 == v[i] & 3) << j for j, value in enumerate(v))
            assert row[6:] == [2, v[i ^ 1] if i < 16 else -v[i ^ 2]]


def test_a_missing_barrier_is_found(cuda):
    x, out = torch.randn(3, 64), torch.zeros(3, 64)
    cuda("reversed", (3,), 64, [x, out])
    assert torch.equal(out, x.flip(1))
    with pytest.raises(PtxError, match=r"reversed_without_barrier.*races for shared memory"):
        cuda("reversed_without_barrier", (3,), 64, [x, out])


def test_ways(cuda):
    x, out = torch.arange(128, dtype=torch.int32) % 9, torch.zeros(128, dtype=torch.int32)
    cuda("ways", (1,), 128, [x, out])
    results = [17, 100, -5, 27, -4, 5 ^ 12345, 6 << 7, 1 - 49, -1]
    assert out.tolist() == [results[i % 9] + results[i // 64 * 64 % 9] for i in range(128)]
