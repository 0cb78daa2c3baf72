# SPDX-License-Identifier: Apache-2.0
"""Every kernel of the package, as the package itself launches it: ops are called, and a launcher takes note.

Nothing runs, so the volumes have the size of a patch, and what the ops return is meaningless.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rsuper_kernels import dispatch, gpu
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.geometry import ball_element, ball_voxels, cascade_element, growth_radii
from rsuper_kernels.ops.attenuation_stats import attenuation_stats
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_select import ball_select, foreground_weights, rank_weights
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, combine
from rsuper_kernels.ops.curves import bce_dice, volume
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import AttenuationStats, BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks, unpack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls
from rsuper_kernels.ops.region_sums import region_sums
from tests.emulation.compiler import Pointer

SHAPE = (64, 64, 64)
SPACING = (1.0, 1.0, 1.0)
FLOATS = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class TritonKernel:
    """A kernel of Triton with the arguments that decide what is compiled."""

    target: str
    """ "module:function"."""
    arguments: tuple[tuple[str, Any], ...]
    warps: int
    variant: str
    """Types of tensors and values of constants, for people."""
    grid: tuple[int, ...] = field(compare=False)

    @property
    def name(self) -> str:
        return self.target.partition(":")[2]


@dataclass(frozen=True)
class CudaKernel:
    """An entry of csrc/cuda/<source>.cu."""

    source: str
    name: str
    grid: tuple[int, ...] = field(compare=False)
    threads: int = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False)
    shared: int = field(compare=False)


class Recorder:
    """A launcher that runs nothing."""

    def __init__(self) -> None:
        self.kernels: dict[TritonKernel | CudaKernel, None] = {}
        self._seen: set[tuple[Any, ...]] = set()

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        """Take note of a launch, unless one of the same types and constants is known."""
        function = kernel
        while not hasattr(function, "__code__"):
            function = function.fn
        target = f"{function.__module__}:{function.__qualname__}"
        parameters = inspect.signature(function).parameters
        constants = {name for name, one in parameters.items() if "constexpr" in str(one.annotation)}
        described = tuple((name, _described(arguments[name])) for name in parameters)
        variant = _variant(described, constants)
        if (target, variant, warps) not in self._seen:
            self._seen.add((target, variant, warps))
            self.kernels[TritonKernel(target, described, warps, variant, grid)] = None

    def cuda(
        self,
        source: str,
        kernel: str,
        grid: tuple[int, ...],
        threads: int,
        arguments: Sequence[gpu.Argument],
        shared: int,
    ) -> None:
        """Take note of a launch."""
        described = tuple(map(_described, arguments))
        self.kernels.setdefault(CudaKernel(source, kernel, grid, threads, described, shared))


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Pointer(value.dtype, value.data_ptr() % 16 == 0)
    return getattr(value, "value", value)


def _variant(arguments: tuple[tuple[str, Any], ...], constants: set[str]) -> str:
    """The types of the first tensor and of all floats, and the constants."""
    dtypes = [value.dtype for _, value in arguments if isinstance(value, Pointer)]
    types = dict.fromkeys(_short(dtype) for i, dtype in enumerate(dtypes) if i == 0 or dtype.is_floating_point)
    values = [f"{name}={value}" for name, value in arguments if name in constants]
    absent = [f"{name}=None" for name, value in arguments if value is None and name not in constants]
    return " ".join([*types, *values, *absent])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "f")


def recorded() -> list[TritonKernel | CudaKernel]:
    """The kernels that ops launch, Triton's before those in CUDA C++."""
    recorder = Recorder()
    with gpu.stand_in(recorder):
        for call, ops in CALLS.items():
            for impl in ("triton", "cuda"):
                if all(dispatch.refusal(op, impl, torch.device("cpu")) is None for op in ops):
                    call(impl)
    return sorted(recorder.kernels, key=_order)


def _order(kernel: TritonKernel | CudaKernel) -> tuple[str, ...]:
    if isinstance(kernel, CudaKernel):
        return "1", kernel.source, kernel.name
    return "0", kernel.target, kernel.variant, str(kernel.warps)


def defined() -> set[str]:
    """The names of all kernels that the sources define."""
    folder = Path(gpu.__file__).parent
    names = set()
    for file in sorted(folder.rglob("*.py")):
        names |= set(re.findall(r"^@triton\.jit\b.*?\ndef (\w+_kernel)\(", file.read_text(), re.M | re.S))
    for file in sorted((gpu.sources() / "cuda").glob("*.cu")):
        names |= set(re.findall(r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", file.read_text()))
    return names


def _logits(dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(2, 3, *SHAPE, dtype=dtype, requires_grad=True)


def _masks(count: int) -> BitMasks:
    return BitMasks(torch.zeros(count, *SHAPE[:2], -(-SHAPE[2] // 64), dtype=torch.int64), SHAPE[2])


def _back(*outputs: torch.Tensor) -> None:
    sum((output.sum() for output in outputs if output.requires_grad), torch.zeros(())).backward()


def _region_sums(impl: str) -> None:
    labels = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    for dtype in FLOATS:
        _back(region_sums(_logits(dtype), labels, [0, 1], [0, 2], [[1], [0, 2]], impl=impl))
        for masks in (torch.zeros(2, *SHAPE, dtype=torch.bool), torch.zeros(2, *SHAPE)):
            _back(region_sums(_logits(dtype), masks, [0, 1], [0, 2], impl=impl))


def _masked_bce_dice(impl: str) -> None:
    for dtype in FLOATS:
        for activation in ("sigmoid", "identity"):
            masks = torch.zeros(2, 3, *SHAPE, dtype=torch.bool)
            _back(masked_bce_dice(_logits(dtype), masks, masks, activation=activation, impl=impl))


def _attenuation_stats(impl: str) -> None:
    ct, planes = torch.zeros(2, *SHAPE), ([0, 1], [0, 2])
    for dtype in FLOATS:
        tumour = torch.zeros(2, *SHAPE, dtype=torch.bool)
        for organ in (tumour, torch.zeros(2, *SHAPE)):
            _back(attenuation_stats(ct, _logits(dtype), tumour, organ, *planes, impl=impl))
            if organ.is_floating_point():
                learned = organ.clone().requires_grad_()
                _back(attenuation_stats(ct, _logits(dtype), tumour, learned, *planes, impl=impl))


def _loss_sums(impl: str) -> None:
    planes = ([0, 1], [0, 2])
    ct = torch.zeros(2, *SHAPE)
    for dtype in FLOATS:
        for activation in ("sigmoid", "identity"):
            terms = [
                RegionSums(_masks(2), *planes),
                BceDice(_masks(2), _masks(2), *planes),
                BceDice(_masks(2), _masks(2), *planes, torch.zeros(2, 1000)),
                AttenuationStats(ct, _masks(2), _masks(2), *planes, (-160.0, 240.0)),
            ]
            alone = [[term] for term in terms] if activation == "sigmoid" and dtype == torch.float32 else []
            for chosen in (terms, *alone):
                _back(*loss_sums(_logits(dtype), chosen, activation=activation, impl=impl))


def _pack(impl: str) -> None:
    for dtype in (torch.bool, torch.uint8, *FLOATS):
        pack_masks(torch.zeros(4, *SHAPE).to(dtype), impl=impl)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        pack_labels(torch.zeros(2, *SHAPE, dtype=dtype), [0, 1, 1], [[1, 2], [3], []], impl=impl)
    unpack_masks(_masks(3), impl=impl)


def _dilate(impl: str) -> None:
    for element in (ball_element(4.5), cascade_element(31)):
        for beside in (None, [[1], None, []]):
            dilate(_masks(3), element, beside=beside, impl=impl)


def _combine(impl: str) -> None:
    for stacks in range(1, 7):
        masks = [_masks(2) for _ in range(stacks)]
        combine(masks, [[(OR, 0), (AND, 1), (MINUS, ALL)], [(OR, ALL)]], impl=impl)


def _search(impl: str) -> None:
    probability = torch.zeros(2, *SHAPE)
    for diameter in (5.0, 11.0, 25.0, 61.0):
        for sigma in (1.5, None):
            ball_search(probability, probability > 0, [diameter] * 2, SPACING, sigma=sigma, impl=impl)


def _tumour(diameter: float) -> Ball:
    count = ball_voxels(diameter, SPACING)
    return Ball(0, diameter, tuple(growth_radii(diameter, 0.2, SHAPE, SPACING)), count, (count // 2, count, 2 * count))


def _place(impl: str) -> None:
    for dtype in FLOATS:
        for activation in ("sigmoid", "identity"):
            tumours = [[_tumour(25.0), _tumour(11.0)]]
            place_balls(
                _logits(dtype).detach(), _masks(1), [0], [1], tumours, SPACING, activation=activation, impl=impl
            )


def _select(impl: str) -> None:
    probability = torch.zeros(1, *SHAPE)
    radii = [growth_radii(11.0, 0.2, SHAPE, SPACING)]
    selected = ball_select(
        probability,
        probability > 0,
        torch.zeros(1, dtype=torch.int64),
        radii,
        [700],
        [(300, 700, 900)],
        SPACING,
        impl=impl,
    )
    rank_weights(probability, selected[:, 1], [700], impl=impl)
    for dtype in FLOATS:
        foreground_weights(_logits(dtype).detach(), _masks(1), [0], [1], [700], impl=impl)


def _curves(impl: str) -> None:
    sums = torch.zeros(4, 2, requires_grad=True)
    curve = {"voxel": 1.0, "most": 5e5, "tolerance": 0.1, "smoothing": 500.0}
    for count in (0, 7):
        _back(volume(sums, [100.0] * 4, [50.0] * 4, [False] * 4, **curve, count=count, impl=impl))
    planes = torch.zeros(2, 3, 6, requires_grad=True)
    for voxels in (0, 300):
        for empty in ("skip", "one"):
            for mean_of_present in (False, True):
                options = {"voxels": voxels, "empty": empty, "mean_of_present": mean_of_present}
                _back(*bce_dice(planes, [1.0] * 6, [1.0] * 6, **options, impl=impl))


# What is called, and the ops that it needs.
CALLS: dict[Callable[[str], None], tuple[str, ...]] = {
    _region_sums: ("region_sums", "region_sums_backward"),
    _masked_bce_dice: ("masked_bce_dice", "masked_bce_dice_backward"),
    _attenuation_stats: ("attenuation_stats", "attenuation_stats_backward"),
    _loss_sums: ("loss_sums", "loss_sums_backward"),
    _pack: ("pack_masks", "pack_labels", "unpack_masks"),
    _dilate: ("dilate",),
    _combine: ("combine",),
    _search: ("ball_search",),
    _place: ("place_balls",),
    _select: ("ball_select", "rank_weights", "foreground_weights"),
    _curves: ("volume", "bce_dice"),
}
