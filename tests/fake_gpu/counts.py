# SPDX-License-Identifier: Apache-2.0
"""What work costs on the device: kernels, bytes, and when the host waits."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

# Kernels that torch starts for an op, where it is not one; estimates from reading torch 2.13.
KERNELS = {
    "aten::_fft_c2r": 2,
    "aten::_fft_r2c": 2,
    "aten::argsort": 4,
    "aten::cumsum": 2,
    "aten::sort": 4,
    "aten::topk": 3,
}
# They allocate, or look at what the host knows.
FREE = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_unsafe_view",
    "aten::lift_fresh",
    "aten::is_pinned",
    "aten::_local_scalar_dense",
}
# They read as much of their first tensor as they return.
GATHERING = {"aten::index", "aten::index_select", "aten::gather", "aten::take"}
# They do not read what they write to.
OVERWRITING = {"aten::fill_", "aten::zero_", "aten::copy_"}


@dataclass
class Moved:
    """Bytes that launches of one name read and wrote."""

    launches: int = 0
    read: int = 0
    written: int = 0

    def add(self, launches: int, read: int, written: int) -> None:
        self.launches += launches
        self.read += read
        self.written += written


@dataclass
class Counts:
    """Since the count was begun."""

    ours: dict[str, Moved] = field(default_factory=dict)
    torchs: dict[str, Moved] = field(default_factory=dict)
    syncs: Counter[str] = field(default_factory=Counter)
    """What makes the host wait for the device, and where."""
    uploads: Counter[str] = field(default_factory=Counter)
    """Asynchronous copies from pinned memory."""
    where: Counter[str] = field(default_factory=Counter)
    """Launches by torch, by the op of ours, or the line outside of them, that asks for them."""
    op: str = ""
    """The op of ours that is running."""

    @property
    def launches(self) -> int:
        return sum(moved.launches for moved in (*self.ours.values(), *self.torchs.values()))

    @property
    def nbytes(self) -> int:
        return sum(moved.read + moved.written for moved in (*self.ours.values(), *self.torchs.values()))


def record(table: dict[str, Moved], name: str, launches: int, read: int, written: int) -> None:
    table.setdefault(name, Moved()).add(launches, read, written)


def torch_op(counts: Counts, func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    """Count an op of torch, given the tensors that it reads and gives on the CPU."""
    name = func._schema.name
    if name in FREE or func.is_view or not any(t.numel() for t in outputs):
        return
    given = [nbytes(t) for t in inputs]
    written = sum(nbytes(t) for t in outputs)
    if name in GATHERING and given:
        given[0] = min(given[0], written)
    if name in OVERWRITING:
        given = given[1:]
    record(counts.torchs, name.removeprefix("aten::"), KERNELS.get(name, 1), sum(given), written)
    counts.where[counts.op or f"{caller()}: {name}"] += KERNELS.get(name, 1)


def nbytes(tensor: torch.Tensor) -> int:
    """Distinct bytes: what is broadcast counts once."""
    voxels = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        voxels *= size if stride or size == 0 else 1
    return voxels * tensor.element_size()


def caller() -> str:
    """The nearest line of the package, or of whoever called torch."""
    frame: Any = sys._getframe(1)
    nearest = ""
    while frame is not None:
        module, line = frame.f_globals.get("__name__", ""), f"{frame.f_code.co_name}, line {frame.f_lineno}"
        if module.startswith("rsuper_kernels"):
            return f"{module}: {line}"
        if not nearest and not module.startswith(("torch", "tests.fake_gpu")):
            nearest = f"{module}: {line}"
        frame = frame.f_back
    return nearest
