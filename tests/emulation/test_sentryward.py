# SPDX-License-Identifier: Apache-2.0
"""Proofs by sentryward (pip install sentryward): no schedule of a launch has a race or a barrier that not all come to.

It needs to know where control goes without looking at tensors, so it cannot decide most kernels of this package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsuper_kernels import gpu
from tests.emulation import compiler
from tests.emulation.compiler import Pointer
from tests.emulation.conftest import emulated
from tests.emulation.ptx import parse

SOURCE = Path(__file__).parent / "fixtures" / "kernels.cu"
TARGET = 100  # the one that it is made for
DECIDED = ("bce_dice_kernel", "curve_backward_kernel", "unpack_masks_kernel", "volume_kernel")
# Their loops or branches depend on tables or masks, or they call functions that it does not read.
UNDECIDED = (
    "attenuation_stats_bwd_kernel",
    "attenuation_stats_fwd_kernel",
    "bound_kernel",
    "combine",
    "combine_kernel",
    "dilate",
    "dilate_kernel",
    "fields_kernel",
    "foreground_weights",
    "loss_sums_bwd_kernel",
    "loss_sums_fwd_kernel",
    "masked_bce_dice_bwd_kernel",
    "masked_bce_dice_fwd_kernel",
    "pack_labels_kernel",
    "pack_masks_kernel",
    "region_sums_bwd_kernel",
    "region_sums_fwd_kernel",
    "screen_kernel",
    "search_kernel",
    "select_in_balls",
    "target_starts_kernel",
)


@pytest.fixture(scope="module")
def sentryward() -> Any:
    return pytest.importorskip("sentryward", reason="sentryward is not installed (pip install sentryward)")


@pytest.fixture(scope="module")
def kernels(sentryward) -> dict[str, Any]:
    emulated("ptx", "nvcc")
    from tests.emulation.kernels import recorded

    return {kernel.name: kernel for kernel in reversed(recorded())}


def verdict(
    sentryward: Any, folder: Path, text: str, entry: str, grid: Any, threads: int, values: list[Any], shared: int
) -> str:
    """What it says of a launch of at most two blocks along each axis."""
    parameters = parse(text, entry).parameters
    scalars = [
        {"parameter": name, "type": f"u{8 * size}", "value": int(value)}
        for (name, size), value in zip(parameters, values, strict=False)
        if isinstance(value, int)
    ]
    launch = {
        "grid_dim": [min(size, 2) for size in (*grid, 1, 1)[:3]],
        "block_dim": [threads, 1, 1],
        "dynamic_shared_bytes": shared,
    }
    given = {"schema": "spverify.kernel-input/v1", "entry": entry, "launch": launch, "arguments": scalars}
    (folder / "kernel.ptx").write_text(text)
    (folder / "input.json").write_text(json.dumps(given))
    result = sentryward.verify(folder / "kernel.ptx", input=folder / "input.json", timeout_seconds=60)
    return str(result["result"])


def verdict_of(sentryward: Any, folder: Path, kernel: Any) -> str:
    from tests.emulation.kernels import CudaKernel

    if isinstance(kernel, CudaKernel):
        text = compiler.compile_cuda(gpu.sources() / "cuda" / f"{kernel.source}.cu", TARGET)[0].decode()
        values = list(kernel.arguments)
        return verdict(sentryward, folder, text, kernel.name, kernel.grid, kernel.threads, values, kernel.shared)
    arguments = dict(kernel.arguments)
    compiled = compiler.compile_triton(kernel.target, arguments, kernel.warps, TARGET)
    values = [arguments[name] for name in compiled.parameters]
    threads = 32 * compiled.warps
    return verdict(sentryward, folder, compiled.text, kernel.name, kernel.grid, threads, values, compiled.shared)


@pytest.mark.parametrize("name", DECIDED)
def test_no_schedule_has_a_race(sentryward, kernels, tmp_path, name):
    assert verdict_of(sentryward, tmp_path, kernels[name]) == "race_free"


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_it_cannot_decide(sentryward, kernels, tmp_path, name):
    """Should a release of it decide more: they go to DECIDED."""
    assert verdict_of(sentryward, tmp_path, kernels[name]) in ("unsupported", "invalid_input")


def test_each_kernel_is_listed(kernels):
    assert set(kernels) <= {*DECIDED, *UNDECIDED}


@pytest.mark.parametrize(
    ("name", "expected"), [("reversed", "race_free"), ("reversed_without_barrier", "potential_race")]
)
def test_it_finds_a_missing_barrier(sentryward, tmp_path, name, expected):
    emulated("interpreter", "nvcc")
    module = compiler.compile_cuda(SOURCE, TARGET)[0].decode()
    begin = module.index(f".visible .entry {name}(")
    alone = module[module.index(".version") : module.index(".address_size")] + ".address_size 64\n"
    alone += module[begin : module.find(".visible .entry", begin + 1)]
    assert verdict(sentryward, tmp_path, alone, name, (2,), 64, [Pointer, Pointer], 0) == expected
