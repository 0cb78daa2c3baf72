# SPDX-License-Identifier: Apache-2.0
"""What is measured on a GPU: sizes, losses and ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import baselines
from benchmarks.gpu.inputs import Inputs, inputs
from benchmarks.gpu.steps import Loss, ball, total, volume
from benchmarks.inputs import CHANNEL, ORGAN, TUMOURS
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.geometry import ball_element, ball_voxels, growth_radii
from rsuper_kernels.ops.ball_select import foreground_weights
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks, unpack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls
from tests.fake_gpu.choice import FAKE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """Of a batch."""

    batch: int
    channels: int
    edge: int

    def __str__(self) -> str:
        return f"B={self.batch} C={self.channels} {self.edge}^3"

    @property
    def spacing(self) -> float:
        """1 mm; on the fake device, whose patches are tiny, as large as it takes for the tumours to fit."""
        return 128 / self.edge if FAKE else 1.0

    def nbytes(self, dtype: torch.dtype, heads: int = 1) -> int:
        """Of all logits."""
        return heads * self.batch * self.channels * self.edge**3 * dtype.itemsize

    def inputs(self, dtype: torch.dtype, tumours: tuple[float, ...] = TUMOURS[3], **options: Any) -> Inputs:
        return inputs(
            self.edge,
            tumours,
            batch=self.batch,
            channels=self.channels,
            spacing=self.spacing,
            dtype=dtype,
            **options,
        )


SMALL = Size(2, 4, 12) if FAKE else Size(2, 3, 128)
SIZES = (SMALL,) if FAKE else (SMALL, Size(2, 42, 128), Size(8, 42, 192))
TRAINING = Size(2, 4, 16) if FAKE else SMALL
NEEDED = 4
"""Times the logits: themselves, their gradients, a copy of them, and as much for all else."""


@dataclass(frozen=True)
class Case:
    """A loss, and the same in plain torch where that is written."""

    title: str
    loss: Loss
    tumours: tuple[float, ...] = TUMOURS[3]
    heads: int = 1
    annotated: bool = False
    baseline: Callable[..., torch.Tensor] | None = None

    def inputs(self, size: Size, dtype: torch.dtype) -> Inputs:
        return size.inputs(dtype, self.tumours, heads=self.heads, annotated=self.annotated)

    def plain(self, given: Inputs, _: str) -> tuple[torch.Tensor, ...]:
        """The baseline as a loss of a step."""
        assert self.baseline is not None
        return (self.baseline(given.heads[0], given.findings, given.label_map),)


CASES = {
    "volume": Case("volume loss", volume, baseline=baselines.volume_loss),
    "ball-1": Case("ball loss, 1 tumour", ball, TUMOURS[1], baseline=baselines.ball_loss),
    "ball-3": Case("ball loss, 3 tumours", ball, TUMOURS[3], baseline=baselines.ball_loss),
    "ball-10": Case("ball loss, 10 tumours", ball, TUMOURS[10], baseline=baselines.ball_loss),
    "total": Case("full training loss, two heads", total, heads=2, annotated=True),
}


# --- ops: (inputs, size, impl) -> a function that runs it once

Op = Callable[[Inputs, Size, str], Callable[[], object]]


def _region(given: Inputs) -> BitMasks:
    return pack_labels(given.label_map, range(len(given.label_map)), [[ORGAN]] * len(given.label_map))


def _planes(given: Inputs) -> tuple[list[int], list[int]]:
    batch = given.heads[0].shape[0]
    return list(range(batch)), [CHANNEL] * batch


def _sums(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    """One region a sample, and cross-entropy and Dice there."""
    region, planes, logits = _region(given), _planes(given), given.heads[0]

    def run() -> None:
        logits.grad = None
        parts = loss_sums(logits, [RegionSums(region, *planes), BceDice(region, region, *planes)], impl=impl)
        torch.cat([part.flatten() for part in parts]).sum().backward()

    return run


def _pack_labels(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    samples = list(range(size.batch))
    return lambda: pack_labels(given.label_map, samples, [[ORGAN]] * size.batch, impl=impl)


def _pack_masks(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    masks = given.label_map[:, None].expand(-1, size.channels, -1, -1, -1).flatten(0, 1).contiguous()
    return lambda: pack_masks(masks, impl=impl)


def _unpack(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    region = _region(given)
    return lambda: unpack_masks(region, impl=impl)


def _dilate(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    region, element = _region(given), ball_element(15.0, given.spacing)
    return lambda: dilate(region, element, impl=impl)


def _place(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    region, planes, logits = _region(given), _planes(given), given.heads[0].detach()
    balls = []
    for sample in planes[0]:
        tumours = []
        for diameter in TUMOURS[3]:
            count = ball_voxels(diameter, given.spacing)
            radii = tuple(growth_radii(diameter, 0.2, logits.shape[2:], given.spacing))
            tumours.append(Ball(sample, diameter, radii, count, (int(0.8 * count), count, int(1.2 * count))))
        balls.append(tumours)
    return lambda: place_balls(logits, region, *planes, balls, given.spacing, keep_bodies=False, impl=impl)


def _weights(given: Inputs, size: Size, impl: str) -> Callable[[], object]:
    """Of every voxel of the tumours."""
    planes, logits = _planes(given), given.heads[0].detach()
    surest = pack_masks(logits[:, CHANNEL] > 0)
    limits = [sum(ball_voxels(diameter + 4 * given.spacing[0], given.spacing) for diameter in TUMOURS[3])] * size.batch
    return lambda: foreground_weights(logits, surest, *planes, limits, impl=impl)


OPS: dict[str, Op] = {
    "loss_sums": _sums,
    "pack_labels": _pack_labels,
    "pack_masks": _pack_masks,
    "unpack_masks": _unpack,
    "dilate": _dilate,
    "place_balls": _place,
    "foreground_weights": _weights,
}
