# SPDX-License-Identifier: Apache-2.0
"""Pseudo-masks of the Ball Loss: where the network itself sees each reported tumour. Nothing here has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsuper_kernels import gpu
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import accumulation_dtype
from rsuper_kernels.findings import Findings, Tumour
from rsuper_kernels.geometry import (
    Spacing,
    ball_element,
    ball_voxels,
    growth_radii,
    odd_diameter,
    odd_growth_radii,
    voxel_volume,
)
from rsuper_kernels.losses.regions import margin_element
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_select import ball_select
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks
from rsuper_kernels.ops.place_balls import Ball, Placed, place_balls
from rsuper_kernels.recipes import Recipe
from rsuper_kernels.tables import take, take_planes


@dataclass(frozen=True)
class Candidate:
    """A tumour to be placed: its group, whose S+ it has to keep to, and its sizes in the recipe's terms."""

    group: int
    tumour: Tumour
    diameter: float
    """mm; an odd number of voxels under diameters="odd"."""
    voxels: int
    """N"""
    counts: tuple[int, int, int]
    """Voxels of core, body and ring."""


@dataclass(frozen=True)
class PlacedTumour:
    """A tumour of a group that was placed on a plane; its N voxels are the row of its rank in `bodies`."""

    plane: int
    group: int
    tumour: Tumour


@dataclass
class Placement:
    """Pseudo-masks of P planes, each the union over the plane's tumours."""

    core: BitMasks
    """Foreground."""
    body: BitMasks
    """N voxels a tumour; taken, for the following tumours."""
    around: BitMasks
    """The ring and the voxels near it."""
    limits: list[int]
    """Per plane, a number of voxels that the core does not exceed."""
    tumours: list[PlacedTumour]
    """Plane after plane, in the order of placing."""
    bodies: BitMasks
    """The voxels of each of `tumours`; empty if they were not asked for."""


def candidate(group: int, tumour: Tumour, shape: Sequence[int], spacing: Spacing, recipe: Recipe) -> Candidate:
    """Sizes of a tumour in voxels, by the rules of the recipe (public R-Super code, A.6.4, steps 1 to 4 and 9)."""
    patch = shape[0] * shape[1] * shape[2]
    diameter, volume = tumour.largest_diameter, tumour.expected_volume / voxel_volume(spacing)
    if recipe.diameters == "odd":
        diameter = odd_diameter(3 if diameter <= 1 else diameter)
        volume = 9 if volume <= 1 else volume
    voxels = max(int(np.round(volume)), 1)
    if recipe.voxel_count == "ball":
        voxels = max(voxels, ball_voxels(diameter, spacing) - 1)
    return Candidate(group, tumour, diameter, voxels, selection_counts(voxels, recipe.volume_margin, patch))


def selection_counts(voxels: int, margin: float, patch: int) -> tuple[int, int, int]:
    """Voxels of core, body and ring for a tumour of N voxels in a patch; up to 100 voxels the core is not shrunk."""
    body = min(patch - 1, voxels) if patch > 1 else 1
    core = max(int(body * (1 - min(0.5, margin))), min(100, voxels))
    ring = min(patch - 1, int(voxels * (1 + margin))) if patch > 1 else 1
    return min(core, patch), body, max(ring, body)


def place_tumours(
    logits: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    masks: BitMasks,
    candidates: Sequence[Sequence[Candidate]],
    spacing: Spacing,
    recipe: Recipe,
    keep_bodies: bool,
    impl: str = "auto",
) -> Placement:
    """Place the tumours of P planes, from large to small, each on voxels that no larger one took.

    Args:
        logits: (B, C, D, H, W).
        sample, channel: the P planes.
        masks: S+ of all finding groups.
        candidates: per plane, its tumours in the order of placing.
        spacing: mm.
        keep_bodies: whether the voxels of each tumour are needed apart.

    Source: Bassi et al., MICCAI 2025, Ball Loss.
    """
    arguments = (logits, sample, channel, masks, candidates, spacing, recipe)
    if recipe.placement == "patch":
        placed = _place_anywhere(*arguments, impl)
    else:
        placed = _place_in_regions(*arguments, keep_bodies, impl)
    patch = logits[0, 0].numel()
    # filling a ball dilates the selection beyond its count
    limits = [
        patch if recipe.placement == "patch" else min(sum(c.counts[0] for c in plane), patch) for plane in candidates
    ]
    around = dilate(placed.ring, margin_element(recipe.tolerated_margin, spacing, recipe), impl=impl)
    tumours = [PlacedTumour(p, c.group, c.tumour) for p, plane in enumerate(candidates) for c in plane]
    return Placement(placed.core, placed.body, around, limits, tumours, placed.bodies)


def _place_in_regions(
    logits: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    masks: BitMasks,
    candidates: Sequence[Sequence[Candidate]],
    spacing: Spacing,
    recipe: Recipe,
    keep_bodies: bool,
    impl: str,
) -> Placed:
    """Each tumour on unassigned voxels of its S+."""
    shape = logits.shape[2:]
    balls = [
        [Ball(c.group, c.diameter, tuple(_radii(c, shape, spacing, recipe)), c.voxels, c.counts) for c in plane]
        for plane in candidates
    ]
    return place_balls(
        logits, masks, sample, channel, balls, spacing, sigma=recipe.sigma, keep_bodies=keep_bodies, impl=impl
    )


def _place_anywhere(
    logits: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    masks: BitMasks,
    candidates: Sequence[Sequence[Candidate]],
    spacing: Spacing,
    recipe: Recipe,
    impl: str,
) -> Placed:
    """The public code's placement, whose balls are filled with voxels of probability 0 from anywhere (Q7)."""
    probability = take_planes(logits, sample, channel).to(accumulation_dtype(logits)).sigmoid()
    core, body, ring = (torch.zeros_like(probability, dtype=torch.bool) for _ in range(3))
    allowed, bodies = unpack_masks(masks, impl=impl), {}
    for rank in range(max((len(plane) for plane in candidates), default=0)):
        planes = [p for p, plane in enumerate(candidates) if len(plane) > rank]
        chosen = [candidates[p][rank] for p in planes]
        available = take(allowed, [c.group for c in chosen]) & ~take(body, planes)
        selected = _fill_patch(take(probability, planes), available, chosen, spacing, recipe, impl)
        for p, new in zip(planes, selected, strict=True):
            for union, mask in zip((core, body, ring), new[1:], strict=True):
                union[p] |= mask
        bodies.update({(p, rank): new for p, new in zip(planes, selected[:, 2], strict=True)})
    taken = [bodies[p, rank] for p, plane in enumerate(candidates) for rank in range(len(plane))]
    packed = (pack_masks(mask, impl=impl) for mask in (core, body, ring, torch.stack(taken) if taken else allowed[:0]))
    return Placed(*packed)


def _fill_patch(
    probability: torch.Tensor,
    available: torch.Tensor,
    chosen: Sequence[Candidate],
    spacing: Spacing,
    recipe: Recipe,
    impl: str,
) -> torch.Tensor:
    """Ball, core, body and ring, bool (N, 4, D, H, W), of one tumour on each of N planes."""
    centre, _ = ball_search(
        probability, available, [c.diameter for c in chosen], spacing, sigma=recipe.sigma, impl=impl
    )
    selected = ball_select(
        torch.where(available, probability, 0),
        torch.ones_like(available),
        centre,
        [_radii(c, probability.shape[1:], spacing, recipe) for c in chosen],
        [c.voxels for c in chosen],
        [c.counts for c in chosen],
        spacing,
        outside_competes=True,
        impl=impl,
    )
    return fill_ball(selected, [c.voxels for c in chosen], impl=impl)


def _radii(c: Candidate, shape: Sequence[int], spacing: Spacing, recipe: Recipe) -> list[float]:
    if recipe.diameters == "odd":
        return odd_growth_radii(int(c.diameter), recipe.diameter_margin, shape)
    return growth_radii(c.diameter, recipe.diameter_margin, shape, spacing)


def fill_ball(selected: torch.Tensor, voxels: Sequence[int], *, impl: str = "auto") -> torch.Tensor:
    """Dilate selections that hold less than 70 % of N inside their ball, up to six times (public R-Super code, A.6.4).

    Args:
        selected: (N, 4, D, H, W) bool: ball, core, body, ring.
        voxels: N of each plane's tumour.
    """
    needed = gpu.table([0.7 * n if n < 125_000 else 0.0 for n in voxels], torch.float64, selected.device)
    ball, grown = selected[:, :1], selected[:, 1:]
    for _ in range(6):
        short = (grown[:, 1].flatten(1).count_nonzero(1) < needed)[:, None, None, None, None]
        if short.device.type == "cpu" and not short.any():
            break
        grown = torch.where(short, dilate(grown, ball_element(3.5), impl=impl) & ball, grown)
    return torch.cat([ball, grown], dim=1)


def plane_candidates(
    findings: Findings, planes: dict[tuple[int, int], list[int]], shape: Sequence[int], spacing: Spacing, recipe: Recipe
) -> list[list[Candidate]]:
    """The tumours of each plane by descending volume."""
    found = [
        [candidate(g, tumour, shape, spacing, recipe) for g in groups for tumour in findings.groups[g].tumours]
        for groups in planes.values()
    ]
    return [sorted(plane, key=lambda c: -c.tumour.expected_volume) for plane in found]
