# SPDX-License-Identifier: Apache-2.0
"""The regions that reports name, as masks: S of each finding group, S+ around it, and what is known of each plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_device, check_finite, check_float, check_integer, check_ndim, check_shape
from rsuper_kernels.findings import FindingGroup, Findings
from rsuper_kernels.geometry import UNIT_SPACING, Element, Spacing, as_spacing, ball_element, cascade_element
from rsuper_kernels.ops.combine import ALL, OR, combine
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks
from rsuper_kernels.recipes import Recipe
from rsuper_kernels.tables import planes_of


def check_inputs(logits: torch.Tensor, findings: Findings, *, finite: bool = False, name: str = "logits") -> None:
    """Raise unless logits (B, C, D, H, W) fit the findings and, if asked for, are finite."""
    check_float(name, logits)
    check_ndim(name, logits, "(B, C, D, H, W)")
    expected = (findings.batch_size, findings.channel_count)
    if tuple(logits.shape[:2]) != expected:
        raise ValueError(f"{name}: the findings are for (B, C) = {expected}, got shape {tuple(logits.shape)}")
    if finite:
        check_finite(name, logits, findings.channel_name)


def effective_spacing(spacing: Sequence[float], recipe: Recipe) -> Spacing:
    """The spacing (mm) that the recipe's lengths are measured with."""
    checked = as_spacing(spacing)
    return checked if recipe.units == "mm" else UNIT_SPACING


def margin_element(margin: float, spacing: Spacing, recipe: Recipe) -> Element:
    """Structuring element that reaches `margin` mm."""
    if recipe.dilation == "cascade":
        return cascade_element(2 * round(margin) + 1)
    return ball_element(margin, spacing)


def group_regions(
    findings: Findings, regions: torch.Tensor | None, logits: torch.Tensor, impl: str = "auto"
) -> BitMasks:
    """The regions S of all groups: from a label map, from masks, or whole patches."""
    volume, groups = tuple(logits.shape[2:]), findings.groups
    if regions is not None:
        _check_regions(regions, logits)
    for g, group in enumerate(groups):
        where = f"groups[{g}] (sample {group.sample}, {findings.channel_name(int(group.channel))})"
        _check_region(where, group, regions)
    if regions is None:
        return BitMasks.full(len(groups), volume, logits.device)
    if regions.ndim == 5:
        planes = planes_of(logits, [group.sample for group in groups], [int(group.channel) for group in groups])
        return pack_masks(regions.flatten(0, 1), [[plane] for plane in planes], impl=impl)
    masks = pack_labels(regions, [group.sample for group in groups], [group.label_ids for group in groups], impl=impl)
    if any(group.region is None for group in groups):
        outputs = [[(OR, ALL if group.region is None else g)] for g, group in enumerate(groups)]
        masks = combine([masks], outputs, impl=impl)
    return masks


def _check_regions(regions: torch.Tensor, logits: torch.Tensor) -> None:
    check_device("regions", regions, "logits", logits)
    if regions.ndim == 5:
        check_shape("regions", regions, tuple(logits.shape), "masks (B, C, D, H, W)")
    else:
        check_shape("regions", regions, (logits.shape[0], *logits.shape[2:]), "a label map (B, D, H, W)")
        check_integer("regions", regions)


def _check_region(where: str, group: FindingGroup, regions: torch.Tensor | None) -> None:
    if group.region is None:
        return
    if regions is None:
        raise ValueError(
            f"{where}: it names label ids {group.region}, but regions is None; pass a label map (B, D, H, W)"
        )
    if regions.ndim == 5:
        raise ValueError(
            f"{where}: it names label ids, but regions holds masks (B, C, D, H, W); pass a label map (B, D, H, W)"
        )


@dataclass(frozen=True)
class ReportRegions:
    """The regions of every finding group of a batch, found once for all losses and heads."""

    masks: BitMasks
    """S, one mask a group."""
    dilated: BitMasks
    """S+, one mask a group."""
    spacing: Spacing
    """mm, in the recipe's units."""

    @classmethod
    def of(
        cls,
        logits: torch.Tensor,
        findings: Findings,
        regions: torch.Tensor | None,
        spacing: Sequence[float],
        recipe: Recipe,
        impl: str,
    ) -> ReportRegions:
        """Find them; see `volume_loss` for the arguments."""
        effective = effective_spacing(spacing, recipe)
        masks = group_regions(findings, regions, logits, impl)
        if regions is None:
            return cls(masks, masks, effective)  # whole patches
        element = margin_element(recipe.region_margin, effective, recipe)
        beside = _neighbours(findings) if recipe.neighbours == "exclude" else None
        return cls(masks, dilate(masks, element, beside=beside, impl=impl), effective)

    def rows(self, groups: Sequence[int]) -> tuple[BitMasks, BitMasks]:
        """S and S+ of these groups."""
        if list(groups) == list(range(len(self.masks))):
            return self.masks, self.dilated
        return self.masks[list(groups)], self.dilated[list(groups)]


def _neighbours(findings: Findings) -> list[list[int] | None]:
    """Per group, the other groups of its plane; None for a negative, which speaks of its own region alone."""
    planes = [(group.sample, int(group.channel)) for group in findings.groups]
    return [
        None if group.negative else [h for h, plane in enumerate(planes) if h != g and plane == planes[g]]
        for g, group in enumerate(findings.groups)
    ]


def settling_rows(findings: Findings, groups: Sequence[int]) -> list[int]:
    """The groups whose S together is where one plane's reports settle what is tumour and what is not; [ALL] if that is
    everywhere.

    A report that describes tumours lists all of them, and a negative without a region covers the patch; negatives with
    a region speak of that region only.
    """
    members = [findings.groups[g] for g in groups]
    return [ALL] if any(not group.negative or group.region is None for group in members) else list(groups)
