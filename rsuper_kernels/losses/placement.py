# SPDX-License-Identifier: Apache-2.0
"""Pseudo-masks of the Ball Loss: where the network itself sees each reported tumour. Nothing here has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

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
from rsuper_kernels.recipes import Recipe


@dataclass(frozen=True)
class Candidate:
    """A tumour to be placed: the row of its S+ among the masks, and its sizes in the recipe's terms."""

    mask: int
    tumour: Tumour
    diameter: float
    """mm; an odd number of voxels under diameters="odd"."""
    voxels: int
    """N"""
    counts: tuple[int, int, int]
    """Voxels of core, body and ring."""


@dataclass
class PlacedTumour:
    """A tumour of the report and the N voxels (bool (D, H, W)) that were found for it on one plane."""

    plane: int
    mask: int
    tumour: Tumour
    body: torch.Tensor


@dataclass
class Placement:
    """Pseudo-masks of P planes, bool (P, D, H, W), each the union over the plane's tumours."""

    core: torch.Tensor
    """Foreground."""
    body: torch.Tensor
    """N voxels a tumour; taken, for the following tumours."""
    tolerated: torch.Tensor
    """Around the foreground: neither raised nor lowered."""
    limits: list[int]
    """Per plane, a number of voxels that the core does not exceed."""
    tumours: list[PlacedTumour] = field(default_factory=list)


def candidate(mask: int, tumour: Tumour, shape: Sequence[int], spacing: Spacing, recipe: Recipe) -> Candidate:
    """Sizes of a tumour in voxels, by the rules of the recipe (public R-Super code, A.6.4, steps 1 to 4 and 9)."""
    patch = shape[0] * shape[1] * shape[2]
    diameter, volume = tumour.largest_diameter, tumour.expected_volume / voxel_volume(spacing)
    if recipe.diameters == "odd":
        diameter = odd_diameter(3 if diameter <= 1 else diameter)
        volume = 9 if volume <= 1 else volume
    voxels = max(int(np.round(volume)), 1)
    if recipe.voxel_count == "ball":
        voxels = max(voxels, ball_voxels(diameter, spacing) - 1)
    return Candidate(mask, tumour, diameter, voxels, selection_counts(voxels, recipe.volume_margin, patch))


def selection_counts(voxels: int, margin: float, patch: int) -> tuple[int, int, int]:
    """Voxels of core, body and ring for a tumour of N voxels in a patch; up to 100 voxels the core is not shrunk."""
    body = min(patch - 1, voxels) if patch > 1 else 1
    core = max(int(body * (1 - min(0.5, margin))), min(100, voxels))
    ring = min(patch - 1, int(voxels * (1 + margin))) if patch > 1 else 1
    return min(core, patch), body, max(ring, body)


def place_tumours(
    probability: torch.Tensor,
    masks: torch.Tensor,
    candidates: Sequence[Sequence[Candidate]],
    open_ended: torch.Tensor,
    spacing: Spacing,
    recipe: Recipe,
    impl: str = "auto",
) -> Placement:
    """Place the tumours of P planes, from large to small, each on voxels that no larger one took.

    Args:
        probability: (P, D, H, W) float32 or float64.
        masks: S+ of the finding groups, bool (G, D, H, W).
        candidates: per plane, its tumours in the order of placing.
        open_ended: (P, D, H, W) bool, where more tumour than described may be: tolerated.
        spacing: mm.

    Source: Bassi et al., MICCAI 2025, Ball Loss.
    """
    core, body, ring = (torch.zeros_like(probability, dtype=torch.bool) for _ in range(3))
    patch = probability.shape[1:].numel()
    # filling a ball dilates the selection beyond its count
    limits = [
        patch if recipe.placement == "patch" else min(sum(c.counts[0] for c in plane), patch) for plane in candidates
    ]
    placement = Placement(core, body, ring, limits)
    for rank in range(max((len(plane) for plane in candidates), default=0)):
        planes = [p for p, plane in enumerate(candidates) if len(plane) > rank]
        # a slice is a view, a list of planes a copy
        rows = slice(None) if len(planes) == len(candidates) else planes
        chosen = [candidates[p][rank] for p in planes]
        available = masks[[c.mask for c in chosen]] & ~body[rows]
        selected = _place(probability[rows], available, chosen, spacing, recipe, impl)
        _, new_core, new_body, new_ring = selected.unbind(1)
        core[rows] |= new_core
        body[rows] |= new_body
        ring[rows] |= new_ring
        for p, c, found in zip(planes, chosen, new_body, strict=True):
            placement.tumours.append(PlacedTumour(p, c.mask, c.tumour, found))
    around = margin_element(recipe.tolerated_margin, spacing, recipe)
    placement.tolerated = (dilate(ring, around, impl=impl) | open_ended) & ~core
    return placement


def _place(
    probability: torch.Tensor,
    available: torch.Tensor,
    chosen: Sequence[Candidate],
    spacing: Spacing,
    recipe: Recipe,
    impl: str,
) -> torch.Tensor:
    """Ball, core, body and ring, bool (N, 4, D, H, W), of one tumour on each of N planes."""
    shape = probability.shape[1:]
    centre, _ = ball_search(
        probability, available, [c.diameter for c in chosen], spacing, sigma=recipe.sigma, impl=impl
    )
    if recipe.diameters == "odd":
        radii = [odd_growth_radii(int(c.diameter), recipe.diameter_margin, shape) for c in chosen]
    else:
        radii = [growth_radii(c.diameter, recipe.diameter_margin, shape, spacing) for c in chosen]
    anywhere = recipe.placement == "patch"
    selected = ball_select(
        torch.where(available, probability, 0) if anywhere else probability,
        torch.ones_like(available) if anywhere else available,
        centre,
        radii,
        [c.voxels for c in chosen],
        [c.counts for c in chosen],
        spacing,
        outside_competes=anywhere,
        impl=impl,
    )
    return fill_ball(selected, [c.voxels for c in chosen], impl=impl) if anywhere else selected


def fill_ball(selected: torch.Tensor, voxels: Sequence[int], *, impl: str = "auto") -> torch.Tensor:
    """Dilate selections that hold less than 70 % of N inside their ball, up to six times (public R-Super code, A.6.4).

    Args:
        selected: (N, 4, D, H, W) bool: ball, core, body, ring.
        voxels: N of each plane's tumour.
    """
    needed = torch.tensor(
        [0.7 * n if n < 125_000 else 0.0 for n in voxels], dtype=torch.float64, device=selected.device
    )
    ball, grown = selected[:, :1], selected[:, 1:]
    for _ in range(6):
        short = (grown[:, 1].flatten(1).sum(1) < needed)[:, None, None, None, None]
        if short.device.type == "cpu" and not short.any():
            break
        grown = torch.where(short, dilate(grown, ball_element(3.5), impl=impl) & ball, grown)
    return torch.cat([ball, grown], dim=1)


def plane_candidates(
    findings: Findings, planes: dict[tuple[int, int], list[int]], shape: Sequence[int], spacing: Spacing, recipe: Recipe
) -> list[list[Candidate]]:
    """The tumours of each plane by descending volume; `mask` counts the groups plane after plane."""
    out, first = [], 0
    for groups in planes.values():
        found = [
            candidate(first + offset, tumour, shape, spacing, recipe)
            for offset, g in enumerate(groups)
            for tumour in findings.groups[g].tumours
        ]
        out.append(sorted(found, key=lambda c: -c.tumour.expected_volume))
        first += len(groups)
    return out
