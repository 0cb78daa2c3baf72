# SPDX-License-Identifier: Apache-2.0
"""Registration and public functions of the selection inside a ball and of the rank weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import (
    accumulation_dtype,
    check_choice,
    check_device,
    check_full_precision,
    check_integer,
    check_ndim,
    check_planes,
    check_shape,
)
from rsuper_kernels.geometry import UNIT_SPACING, as_spacing

for _op in ("ball_select", "rank_weights"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.ball_select.reference:{_op}"))
    dispatch.register_native("ball_select", _op, dtypes=(torch.float32,))
    dispatch.register_gpu("ball_select", _op, "cuda", dtypes=(torch.float32,))
dispatch.register(
    "foreground_weights",
    "reference",
    dispatch.Backend("rsuper_kernels.ops.ball_select.reference:foreground_weights"),
)
dispatch.register_native("ball_select", "foreground_weights", dtypes=native.FLOATS)
dispatch.register_gpu("ball_select", "foreground_weights", "cuda", dtypes=native.FLOATS)
for _op in ("ball_select", "foreground_weights", "rank_weights"):
    # torch's sort, where the kernels in CUDA C++ cannot run
    dispatch.register_torch("ball_select", _op)


@torch.library.custom_op(
    "rsuper::ball_select",
    mutates_args=(),
    schema="(Tensor probability, Tensor available, Tensor centre, float[] radii, int[] radius_counts, int[] needed, "
    "int[] counts, float[] spacing, bool outside_competes, str impl) -> Tensor",
)
def _ball_select(probability: torch.Tensor, *inputs: Any) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("ball_select", inputs[-1], probability.device, probability.dtype)(
        probability, *inputs[:-1]
    )
    return out


@_ball_select.register_fake
def _(
    probability: torch.Tensor,
    available: torch.Tensor,
    centre: torch.Tensor,
    radii: Sequence[float],
    radius_counts: Sequence[int],
    needed: Sequence[int],
    counts: Sequence[int],
    *rest: Any,
) -> torch.Tensor:
    planes, *shape = probability.shape
    return probability.new_empty(planes, 1 + len(counts) // max(planes, 1), *shape, dtype=torch.bool)


@torch.library.custom_op(
    "rsuper::rank_weights",
    mutates_args=(),
    schema="(Tensor probability, Tensor mask, float concentration, int[] limits, str impl) -> Tensor",
)
def _rank_weights(
    probability: torch.Tensor, mask: torch.Tensor, concentration: float, limits: Sequence[int], impl: str
) -> torch.Tensor:
    function = dispatch.select("rank_weights", impl, probability.device, probability.dtype)
    out: torch.Tensor = function(probability, mask, concentration, limits)
    return out


@_rank_weights.register_fake
def _(
    probability: torch.Tensor, mask: torch.Tensor, concentration: float, limits: Sequence[int], impl: str
) -> torch.Tensor:
    return torch.empty_like(probability, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "rsuper::foreground_weights",
    mutates_args=(),
    schema="(Tensor logits, Tensor words, int[] sample, int[] channel, int limit, float concentration, "
    "str activation, str impl) -> Tensor",
)
def _foreground_weights(logits: torch.Tensor, *inputs: Any) -> torch.Tensor:
    function = dispatch.select("foreground_weights", inputs[-1], logits.device, logits.dtype)
    out: torch.Tensor = function(logits, *inputs[:-1])
    return out


@_foreground_weights.register_fake
def _(
    logits: torch.Tensor, words: torch.Tensor, sample: Sequence[int], channel: Sequence[int], limit: int, *rest: Any
) -> torch.Tensor:
    return logits.new_empty(len(sample), limit, dtype=accumulation_dtype(logits))


def ball_select(
    probability: torch.Tensor,
    available: torch.Tensor,
    centre: torch.Tensor,
    radii: Sequence[Sequence[float]],
    needed: Sequence[int],
    counts: Sequence[Sequence[int]],
    spacing: Sequence[float] = UNIT_SPACING,
    *,
    outside_competes: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """Select, in each plane, the most probable voxels inside a ball that grows until it holds enough of them.

    Args:
        probability: (N, D, H, W) in [0, 1], float32 or float64.
        available: (N, D, H, W) bool, the voxels that the ball may take.
        centre: (N,) int64 linear indices, from `ball_search`; -1 selects nothing.
        radii: per plane, the radii in mm that the ball may take, in ascending order (`geometry.growth_radii`).
        needed: per plane, how many available voxels make the ball large enough; else the last radius stands.
        counts: per plane, how many voxels to select, equally many numbers for each plane (core, body, ring).
        spacing: (sD, sH, sW) in mm.
        outside_competes: rank all voxels of the patch, those outside the ball as probability 0, and keep those inside;
            the public code's rule, under which a ball with too few positive voxels is filled by chance (Q7).
        impl: "auto", "reference", "cpu" or "cuda".

    Returns:
        Bool (N, 1 + K, D, H, W): the ball, then the selection for each count; ties go to the lowest linear index, and a
        ball with fewer voxels than a count is selected whole. No gradient.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or tables that do not fit, named.

    Source: Bassi et al., MICCAI 2025, Ball Loss; growth and margins as in the public code.
    """
    check_full_precision("probability", probability)
    check_ndim("probability", probability, "(N, D, H, W)")
    check_shape("available", available, tuple(probability.shape), "(N, D, H, W)")
    planes = probability.shape[0]
    check_shape("centre", centre, (planes,), "(N,)")
    check_integer("centre", centre)
    for name, tensor in (("available", available), ("centre", centre)):
        check_device(name, tensor, "probability", probability)
    for name, table in (("radii", radii), ("needed", needed), ("counts", counts)):
        if len(table) != planes:
            raise ValueError(f"{name}: expected one entry for each of {planes} planes, got {len(table)}")
    if any(not row or list(row) != sorted(row) for row in radii):
        raise ValueError("radii: expected at least one radius for each plane, in ascending order")
    if len({len(row) for row in counts}) > 1 or any(count < 0 for row in counts for count in row):
        raise ValueError("counts: expected equally many numbers of at least 0 for each plane")
    return _ball_select(
        probability.detach(),
        available.bool(),
        centre,
        [float(radius) for row in radii for radius in row],
        [len(row) for row in radii],
        list(needed),
        [int(count) for row in counts for count in row],
        list(as_spacing(spacing)),
        outside_competes,
        impl,
    )


def rank_weights(
    probability: torch.Tensor,
    mask: torch.Tensor,
    limits: Sequence[int],
    *,
    concentration: float = 0.5,
    impl: str = "auto",
) -> torch.Tensor:
    """Weigh masked voxels by the rank of their probability, the surest most, with mean 1 over the mask.

    Args:
        probability: (N, D, H, W), float32 or float64.
        mask: (N, D, H, W) bool.
        limits: per plane, a number that the mask's voxels do not exceed, known on the host (it bounds the sort).
        concentration: c in [0, 1); 0 weighs all alike, 0.5 falls from 1.386 to 0.693.
        impl: "auto", "reference", "cpu" or "cuda".

    Returns:
        (N, D, H, W) weights in the dtype of `probability`, 0 outside the mask; ties rank by linear index. No gradient.

    Raises:
        TypeError, ValueError: shapes, devices, limits or a concentration that do not fit, named.

    Source: global weighted rank pooling, Kolesnikov and Lampert, ECCV 2016, as used by the public R-Super code.
    """
    check_full_precision("probability", probability)
    check_ndim("probability", probability, "(N, D, H, W)")
    check_shape("mask", mask, tuple(probability.shape), "(N, D, H, W)")
    check_device("mask", mask, "probability", probability)
    _check_ranking(probability.shape[0], limits, concentration)
    return _rank_weights(probability.detach(), mask.bool(), concentration, list(limits), impl)


def foreground_weights(
    logits: torch.Tensor,
    masks: BitMasks,
    sample: Sequence[int],
    channel: Sequence[int],
    limits: Sequence[int],
    *,
    concentration: float = 0.5,
    activation: str = "sigmoid",
    impl: str = "auto",
) -> torch.Tensor:
    """Weigh masked voxels as `rank_weights` does, straight from logits, without a volume of weights.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        masks: P bit masks of the volume (D, H, W).
        sample, channel: the plane of each of the P masks.
        limits: per mask, a number that its voxels do not exceed, known on the host.
        concentration: as for `rank_weights`.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference", "cpu" or "cuda".

    Returns:
        (P, max(limits)) weights of each mask's voxels by rising linear index, then 0, float32 (float64 for float64
        logits). No gradient.

    Raises:
        TypeError, ValueError: shapes, devices, limits or a concentration that do not fit, named.
    """
    check_planes(logits, sample, channel)
    check_choice("activation", activation, ("sigmoid", "identity"))
    check_shape("masks", masks, (len(sample), *logits.shape[2:]), "(P, D, H, W)")
    check_device("masks", masks.words, "logits", logits)
    _check_ranking(len(sample), limits, concentration)
    planes = (list(sample), list(channel))
    return _foreground_weights(
        logits.detach(), masks.words, *planes, max(limits, default=0), concentration, activation, impl
    )


def _check_ranking(planes: int, limits: Sequence[int], concentration: float) -> None:
    if len(limits) != planes or any(limit < 0 for limit in limits):
        raise ValueError(f"limits: expected one number of at least 0 for each of {planes} planes, got {limits}")
    if not 0 <= concentration < 1:
        raise ValueError(f"concentration: expected a number in [0, 1), got {concentration}")
