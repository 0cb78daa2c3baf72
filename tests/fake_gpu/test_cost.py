# SPDX-License-Identifier: Apache-2.0
"""What the losses may cost on a GPU; see benchmarks/gpu/cost.py, which `make cost` measures at a larger size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.gpu import cost
from benchmarks.gpu.cost import CASES
from tests.fake_gpu.conftest import MISSING
from tests.fake_gpu.emulators import best_emulator

EDGE = 32
"""Voxels of 4 mm. Tables weigh more than at 128^3, and a row of bits is half empty."""
SMALL_TOTAL = {"channels": 6, "heads": 2, "annotated": True}


cases = pytest.mark.parametrize("name", CASES)


def measured(name: str, **changes) -> cost.Cost:
    """A case's cost in a small patch, with the emulators that count sectors."""
    if MISSING or set(best_emulator()[1]) != {"cuda", "triton"}:
        pytest.skip(MISSING or "needs an emulator of Triton and one of CUDA C++")
    from tests.fake_gpu.traffic import Metered

    return cost.measure(replace(CASES[name], edge=EDGE, **changes), Metered(), ["cuda", "triton"])


@pytest.mark.slow
@cases
def test_limits(name):
    found = measured(name, **({"options": SMALL_TOTAL} if name == "total" else {}))
    assert not found.syncs
    # the ball loss has many masks, whose rows are half empty here; `make cost` takes minutes for a larger patch
    if name != "ball":
        assert found.ratio <= found.at_most, cost.table({name: found})
    if found.launches_at_most is not None:
        assert found.launches <= found.launches_at_most, cost.table({name: found})


@cases
def test_committed_figures(name):
    """Those of `make cost` are within the limits."""
    costs = cost.read()
    if name not in costs:
        pytest.skip("not measured yet: make cost")
    found, case = costs[name], CASES[name]
    assert (found.title, found.at_most) == (case.title, case.bytes_at_most)
    assert found.ratio <= case.bytes_at_most
    assert not found.syncs
    assert case.launches_at_most is None or found.launches <= case.launches_at_most


def test_floor():
    """By hand: 8^3 voxels, two samples, three channels, one of them reported in both samples."""
    from tests.fake_gpu.device import fake_device

    if MISSING:
        pytest.skip(MISSING)
    with fake_device():
        given = CASES["volume"].inputs(8)
        # two planes read twice, six written, two masks of a bit a voxel
        assert cost.floor(given, cost.volume, 8) == (2 * 2 + 6) * 4 * 512 + 2 * 512 // 8
        full = replace(CASES["total"], options=SMALL_TOTAL).inputs(8)
        # two heads of twelve planes, read twice and written; labels and where they are known
        assert cost.floor(full, cost.total, 8) == 24 * 3 * 4 * 512 + 2 * 12 * 512 // 8
