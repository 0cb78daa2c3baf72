# SPDX-License-Identifier: Apache-2.0
"""Volume Loss: the predicted tumour volume inside a reported region must match the reported volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsuper_kernels.findings import UNKNOWN_VOLUMES, FindingGroup, Findings
from rsuper_kernels.geometry import voxel_volume
from rsuper_kernels.losses.regions import ReportRegions, check_inputs
from rsuper_kernels.ops.curves import volume, volume_curve
from rsuper_kernels.ops.loss_sums import RegionSums, loss_sums
from rsuper_kernels.recipes import Recipe, get_recipe

__all__ = [
    "VolumeLoss",
    "volume_curve",
    "volume_from_sums",
    "volume_groups",
    "volume_loss",
    "volume_term",
]


def volume_loss(
    logits: torch.Tensor,
    findings: Findings,
    regions: torch.Tensor | None,
    spacing: Sequence[float],
    *,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    check: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Compare the predicted tumour volume in each reported region with the volume that the report gives.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        findings: the batch's findings.
        regions: integer label map (B, D, H, W), masks (B, C, D, H, W), or None if no group names a region.
        spacing: (sD, sH, sW) in mm.
        recipe: "paper", "rsuper" or a Recipe.
        impl: backend of the ops.
        check: raise on NaN or infinite logits, naming sample and channel; waits for the device.
        options: options of the recipe to change, such as tolerance=0.2.

    Returns:
        A scalar, float32 (float64 for float64 logits), 0 without findings. Groups on annotated planes, and groups whose
        region is not in the patch, take no part. Tumours of unknown size or count cost nothing between the smallest and
        largest plausible volume. Gradient to `logits`.

    Raises:
        TypeError, ValueError: inputs that do not fit; the argument and the group are named.

    Source: Bassi et al., MICCAI 2025, Volume Loss.
    """
    check_inputs(logits, findings, finite=check)
    rules = get_recipe(recipe, **options)
    where = ReportRegions.of(logits, findings, regions, spacing, rules, impl)
    groups = volume_groups(findings, rules)
    (sums,) = loss_sums(logits, [volume_term(findings, groups, where)], impl=impl)
    return volume_from_sums(sums, findings, groups, where, rules, impl)


def volume_groups(findings: Findings, recipe: Recipe) -> list[int]:
    """The groups that take the volume loss, plane after plane."""
    groups = [g for indices in findings.planes().values() for g in indices]
    return [g for g in groups if recipe.negatives == "push" or not findings.groups[g].negative]


def volume_term(findings: Findings, groups: Sequence[int], where: ReportRegions) -> RegionSums:
    """What the volume loss of `groups` needs of the logits: the probability in each S+, and its voxels."""
    members = [findings.groups[g] for g in groups]
    return RegionSums(where.rows(groups)[1], [m.sample for m in members], [int(m.channel) for m in members])


def volume_from_sums(
    sums: torch.Tensor, findings: Findings, groups: Sequence[int], where: ReportRegions, recipe: Recipe, impl: str
) -> torch.Tensor:
    """The volume loss of `groups`, given the sums (G, 2) of their `volume_term`."""
    members = [findings.groups[g] for g in groups]
    count = findings.batch_size * max(len(findings.lesion_channels or ()), 1)
    return volume(
        sums,
        [member.volume for member in members],
        [_least_volume(member, recipe) for member in members],
        [member.open_ended for member in members],
        voxel=voxel_volume(where.spacing),
        most=UNKNOWN_VOLUMES[1],
        tolerance=recipe.tolerance,
        smoothing=recipe.smoothing,
        count=count if recipe.volume_mean == "channels" else 0,
        impl=impl,
    )


def _least_volume(group: FindingGroup, recipe: Recipe) -> float:
    """Volume in mm3 below which an open-ended group costs: that of the measured tumours, less the tolerance."""
    measured = sum(tumour.expected_volume for tumour in group.tumours if tumour.size_known)
    tolerated = max(measured * (1 - recipe.tolerance), min(measured, 100.0))
    return tolerated + group.volume - measured


class VolumeLoss(nn.Module):
    """`volume_loss` as a module: `VolumeLoss(recipe="paper", tolerance=0.2)(logits, findings, regions, spacing)`."""

    def __init__(
        self, recipe: str | Recipe = "paper", *, impl: str = "auto", check: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.recipe = get_recipe(recipe, **options)
        self.impl, self.check = impl, check

    def forward(
        self, logits: torch.Tensor, findings: Findings, regions: torch.Tensor | None, spacing: Sequence[float]
    ) -> torch.Tensor:
        return volume_loss(logits, findings, regions, spacing, recipe=self.recipe, impl=self.impl, check=self.check)

    def extra_repr(self) -> str:
        return f"{self.recipe}, impl={self.impl!r}"
