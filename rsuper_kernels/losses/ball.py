# SPDX-License-Identifier: Apache-2.0
"""Ball Loss: raise the most probable voxels of each reported tumour's best ball, lower the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsuper_kernels.checks import accumulation_dtype, check_device, check_shape
from rsuper_kernels.findings import Findings
from rsuper_kernels.losses.placement import Placement, place_tumours, plane_candidates
from rsuper_kernels.losses.regions import ReportRegions, check_inputs, reported_known
from rsuper_kernels.losses.segmentation import adaptive_dice, mean_dice
from rsuper_kernels.ops.ball_select import rank_weights
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.recipes import Recipe, get_recipe


@dataclass
class BallTargets:
    """The planes that take the ball loss, and what is foreground, background and neither on them."""

    sample: list[int]
    channel: list[int]
    probability: torch.Tensor
    """(P, D, H, W), detached."""
    placement: Placement
    penalised: torch.Tensor
    """(P, D, H, W) bool: foreground and background."""


def ball_loss(
    logits: torch.Tensor,
    findings: Findings,
    regions: torch.Tensor | None,
    spacing: Sequence[float],
    *,
    known: torch.Tensor | None = None,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    check: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place each reported tumour where the network sees it best, and train on that as on a mask.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        findings: the batch's findings.
        regions: integer label map (B, D, H, W), masks (B, C, D, H, W), or None if no group names a region.
        spacing: (sD, sH, sW) in mm.
        known: (B, C, D, H, W) bool or None, voxels whose label is known; outside S+ only these are background.
        recipe: "paper", "rsuper" or a Recipe.
        impl: backend of the ops.
        check: raise on NaN or infinite logits, naming sample and channel; waits for the device.
        options: options of the recipe to change, such as voxel_count="ball".

    Returns:
        Cross-entropy and Dice, two scalars, float32 (float64 for float64 logits), 0 without findings. A plane whose
        region is not in the patch is all background. Gradient to `logits`; the pseudo-masks are constants.

    Raises:
        TypeError, ValueError: inputs that do not fit; the argument and the group are named.

    Source: Bassi et al., MICCAI 2025, Ball Loss.
    """
    check_inputs(logits, findings, finite=check)
    rules = get_recipe(recipe, **options)
    targets = pseudo_masks(logits, findings, regions, spacing, known=known, recipe=rules, impl=impl)
    return ball_terms(logits, findings, targets, rules, impl)


def pseudo_masks(
    logits: torch.Tensor,
    findings: Findings,
    regions: torch.Tensor | None,
    spacing: Sequence[float],
    *,
    known: torch.Tensor | None = None,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    **options: Any,
) -> BallTargets:
    """Find what the Ball Loss would train on: where each reported tumour is placed, and what is background.

    Args, errors: as `ball_loss`, which calls this.

    Returns:
        The targets of every plane that takes the ball loss; `targets.placement.tumours` lists each tumour with its
        voxels. No gradient.
    """
    check_inputs(logits, findings)
    rules = get_recipe(recipe, **options)
    where = ReportRegions.of(logits, findings, regions, spacing, rules, impl)
    return ball_targets(logits, findings, where, rules, known=known, impl=impl)


def ball_planes(findings: Findings, recipe: Recipe) -> dict[tuple[int, int], list[int]]:
    """The planes (sample, channel) that take the ball loss, with their groups."""
    planes = findings.planes()
    if recipe.ball_mean == "planes":
        return planes
    positive = {plane for plane in planes if findings.status(*plane) == "reported"}
    samples = {sample for sample, _ in positive}
    return {plane: groups for plane, groups in planes.items() if plane in positive or plane[0] not in samples}


@torch.no_grad()
def ball_targets(
    logits: torch.Tensor,
    findings: Findings,
    where: ReportRegions,
    recipe: Recipe,
    *,
    known: torch.Tensor | None = None,
    impl: str = "auto",
) -> BallTargets:
    """Pseudo-masks of the planes that take the ball loss; see `pseudo_masks`."""
    planes = ball_planes(findings, recipe)
    masks, dilated = where.rows([g for groups in planes.values() for g in groups])
    sample, channel = [b for b, _ in planes], [c for _, c in planes]
    shape = tuple(logits.shape[2:])
    probability = logits.detach()[sample, channel].to(accumulation_dtype(logits)).sigmoid()
    allowed = torch.zeros_like(probability, dtype=torch.bool)
    settled, open_ended = allowed.clone(), allowed.clone()
    first = 0
    for p, groups in enumerate(planes.values()):
        rows = range(first, first + len(groups))
        first += len(groups)
        for row, g in zip(rows, groups, strict=True):
            if not findings.groups[g].negative:
                allowed[p] |= dilated[row]
            if findings.groups[g].open_ended:
                open_ended[p] |= dilated[row]
        settled[p] = reported_known(findings, groups, masks[rows.start : rows.stop])
    if known is not None:
        check_shape("known", known, tuple(logits.shape), "(B, C, D, H, W)")
        check_device("known", known, "logits", logits)
        settled &= known[sample, channel].bool()
    candidates = plane_candidates(findings, planes, shape, where.spacing, recipe)
    placement = place_tumours(probability, dilated, candidates, open_ended, where.spacing, recipe, impl)
    penalised = (settled | allowed) & ~placement.tolerated
    return BallTargets(sample, channel, probability, placement, penalised)


def ball_terms(
    logits: torch.Tensor, findings: Findings, targets: BallTargets, recipe: Recipe, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice against the targets, averaged as the recipe says."""
    bce, dice, voxels = plane_terms(logits, targets, recipe, impl)
    if recipe.ball_mean == "planes":
        return bce.sum() / max(len(bce), 1), mean_dice(dice, voxels, recipe.empty_dice)
    shares = [1 / (targets.sample.count(sample) * findings.batch_size) for sample in targets.sample]
    weights = bce.new_tensor(shares)
    return (bce * weights).sum(), (dice * weights).sum()


def plane_terms(
    logits: torch.Tensor, targets: BallTargets, recipe: Recipe, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy, Dice and the number of foreground voxels of each plane, (P,) each."""
    foreground = targets.placement.core
    weights = None
    if recipe.rank_concentration is not None:
        ranks = rank_weights(
            targets.probability,
            foreground,
            targets.placement.limits,
            concentration=recipe.rank_concentration,
            impl=impl,
        )
        weights = torch.where(foreground, ranks, 1)
    sums = masked_bce_dice(
        logits, foreground, targets.penalised, weights, sample=targets.sample, channel=targets.channel, impl=impl
    )
    positive_bce, negative_bce, tp, fp, fn, known = sums.unbind(1)
    voxels = (tp + fn).detach().round()
    if recipe.bce_mean == "own":
        bce = positive_bce / voxels.clamp(min=1) + negative_bce / (known.detach() - voxels).clamp(min=1)
    else:
        bce = (positive_bce + negative_bce) / logits[0, 0].numel()
    return bce, adaptive_dice(tp, fp, fn, dim=None, empty=recipe.empty_dice), voxels


class BallLoss(nn.Module):
    """`ball_loss` as a module, cross-entropy and Dice added: `BallLoss()(logits, findings, regions, spacing)`.

    Args:
        bce_weight, dice_weight: weights of the two parts.
        recipe, impl, check, options: as in `ball_loss`.
    """

    def __init__(
        self,
        recipe: str | Recipe = "paper",
        *,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        impl: str = "auto",
        check: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.recipe = get_recipe(recipe, **options)
        self.bce_weight, self.dice_weight = bce_weight, dice_weight
        self.impl, self.check = impl, check

    def forward(
        self,
        logits: torch.Tensor,
        findings: Findings,
        regions: torch.Tensor | None,
        spacing: Sequence[float],
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        bce, dice = ball_loss(
            logits, findings, regions, spacing, known=known, recipe=self.recipe, impl=self.impl, check=self.check
        )
        return self.bce_weight * bce + self.dice_weight * dice

    def extra_repr(self) -> str:
        return f"{self.recipe}, bce_weight={self.bce_weight}, dice_weight={self.dice_weight}, impl={self.impl!r}"
