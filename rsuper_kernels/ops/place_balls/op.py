# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the placing of tumours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_choice, check_device, check_planes, check_shape
from rsuper_kernels.geometry import UNIT_SPACING, as_spacing
from rsuper_kernels.tables import flatten

dispatch.register("place_balls", "reference", dispatch.Backend("rsuper_kernels.ops.place_balls.reference:place_balls"))
dispatch.register_native("place_balls", "place_balls", dtypes=native.FLOATS)
for _impl in ("triton", "cuda"):
    dispatch.register_gpu("place_balls", "place_balls", _impl, dtypes=native.FLOATS)


@dataclass(frozen=True)
class Ball:
    """A tumour to be placed."""

    mask: int
    """The mask that it has to keep to."""
    diameter: float
    """mm, of the ball that is searched."""
    radii: tuple[float, ...]
    """mm, ascending: the ball that voxels are selected from has the first that holds `needed` of them, or the last."""
    needed: int
    counts: tuple[int, int, int]
    """Voxels of core, body and ring."""


@dataclass(frozen=True)
class Placed:
    """Where the tumours are: P planes, each the union over the plane's tumours, and the T bodies one by one."""

    core: BitMasks
    body: BitMasks
    ring: BitMasks
    bodies: BitMasks
    """Plane after plane, in the order of placing."""


@torch.library.custom_op(
    "rsuper::place_balls",
    mutates_args=(),
    schema="(Tensor logits, Tensor words, int[] sample, int[] channel, int[] tumour_counts, int[] mask, "
    "float[] diameters, float[] radii, int[] radius_counts, int[] needed, int[] counts, float[] spacing, "
    "float? sigma, bool keep_bodies, str activation, str impl) -> (Tensor, Tensor)",
)
def _place_balls(logits: torch.Tensor, words: torch.Tensor, *tables: Any) -> tuple[torch.Tensor, torch.Tensor]:
    function = dispatch.select("place_balls", tables[-1], logits.device, logits.dtype)
    out: tuple[torch.Tensor, torch.Tensor] = function(logits, words, *tables[:-1])
    return out


@_place_balls.register_fake
def _(
    logits: torch.Tensor,
    words: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    tumour_counts: Sequence[int],
    mask: Sequence[int],
    *tables: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    volume, keep_bodies = words.shape[1:], tables[-3]
    return words.new_empty(3, len(sample), *volume), words.new_empty(len(mask) if keep_bodies else 0, *volume)


def place_balls(
    logits: torch.Tensor,
    masks: BitMasks,
    sample: Sequence[int],
    channel: Sequence[int],
    balls: Sequence[Sequence[Ball]],
    spacing: Sequence[float] = UNIT_SPACING,
    *,
    sigma: float | None = 1.5,
    keep_bodies: bool = True,
    activation: str = "sigmoid",
    impl: str = "auto",
) -> Placed:
    """Place the tumours of P planes, each on the voxels of its mask that no earlier body of its plane took.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        masks: the allowed regions, G masks of the volume (D, H, W).
        sample, channel: the plane of each of the P planes.
        balls: per plane, its tumours in the order of placing.
        spacing: (sD, sH, sW) in mm.
        sigma: width of the Gaussian search kernel in radii; None for a flat ball. See `geometry.ball_kernel`.
        keep_bodies: give the body of each tumour, too; without, `bodies` is empty, which saves its memory.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        Core, body and ring of the planes and the body of each tumour; centres as `ball_search` and voxels as
        `ball_select` choose them. A tumour for which nothing is left has no voxels. No gradient.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or tables that do not fit, named.

    Source: Bassi et al., MICCAI 2025, Ball Loss.
    """
    check_planes(logits, sample, channel)
    check_choice("activation", activation, ("sigmoid", "identity"))
    check_shape("masks", masks, (len(masks), *logits.shape[2:]), "(G, D, H, W)")
    check_device("masks", masks.words, "logits", logits)
    if len(balls) != len(sample):
        raise ValueError(f"balls: expected a list of tumours for each of {len(sample)} planes, got {len(balls)}")
    tumours, tumour_counts = flatten(balls)
    for index, ball in enumerate(tumours):
        _check_ball(f"balls, tumour {index}", ball, len(masks))
    radii, radius_counts = flatten([ball.radii for ball in tumours])
    unions, bodies = _place_balls(
        logits.detach(),
        masks.words,
        list(sample),
        list(channel),
        tumour_counts,
        [ball.mask for ball in tumours],
        [float(ball.diameter) for ball in tumours],
        [float(radius) for radius in radii],
        radius_counts,
        [ball.needed for ball in tumours],
        [count for ball in tumours for count in ball.counts],
        list(as_spacing(spacing)),
        sigma,
        keep_bodies,
        activation,
        impl,
    )
    core, body, ring = unions
    return Placed(*(BitMasks(words, masks.width) for words in (core, body, ring, bodies)))


def _check_ball(name: str, ball: Ball, masks: int) -> None:
    if not 0 <= ball.mask < masks:
        raise ValueError(f"{name}: expected a mask from 0 to {masks - 1}, got {ball.mask}")
    if not 0 < ball.diameter < float("inf"):
        raise ValueError(f"{name}: expected a positive, finite diameter in mm, got {ball.diameter}")
    if not ball.radii or list(ball.radii) != sorted(ball.radii):
        raise ValueError(f"{name}: expected at least one radius, in ascending order, got {ball.radii}")
    if len(ball.counts) != 3 or min(ball.counts) < 0:
        raise ValueError(f"{name}: expected three counts of at least 0, got {ball.counts}")
