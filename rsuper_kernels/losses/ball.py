# SPDX-License-Identifier: Apache-2.0
"""Ball Loss: raise the most probable voxels of each reported tumour's best ball, lower the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_device, check_shape
from rsuper_kernels.findings import Findings
from rsuper_kernels.losses.placement import PlacedTumour, Placement, place_tumours, plane_candidates
from rsuper_kernels.losses.regions import ReportRegions, check_inputs, settling_rows
from rsuper_kernels.ops.ball_select import foreground_weights
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, Step, combine
from rsuper_kernels.ops.curves import bce_dice
from rsuper_kernels.ops.loss_sums import BceDice, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks
from rsuper_kernels.recipes import Recipe, get_recipe
from rsuper_kernels.tables import planes_of


@dataclass
class BallTargets:
    """The planes that take the ball loss, and what is foreground, background and neither on them."""

    sample: list[int]
    channel: list[int]
    placement: Placement
    tolerated: BitMasks
    """Around the foreground, and wherever a plane may hold more tumour than described: neither raised nor lowered."""
    penalised: BitMasks
    """Foreground and background of each of the P planes."""


@dataclass
class PseudoMasks:
    """What the Ball Loss trains on, as bool masks (P, D, H, W) of the planes (sample, channel) that take it."""

    sample: list[int]
    channel: list[int]
    core: torch.Tensor
    """Foreground."""
    body: torch.Tensor
    """The reported volume of each tumour."""
    tolerated: torch.Tensor
    """Around the foreground: neither raised nor lowered."""
    penalised: torch.Tensor
    """Foreground and background."""
    tumours: list[PlacedTumour]
    """Each tumour of the report, with the plane that it is on."""
    bodies: torch.Tensor
    """The voxels of each of `tumours`, (T, D, H, W)."""


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
    where = ReportRegions.of(logits, findings, regions, spacing, rules, impl)
    targets = ball_targets(logits, findings, where, rules, known=_packed_known(known, logits, impl), impl=impl)
    (sums,) = loss_sums(logits, [ball_term(logits, targets, rules, impl)], impl=impl)
    return ball_from_sums(sums, findings, targets, rules, impl)


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
) -> PseudoMasks:
    """Find what the Ball Loss would train on: where each reported tumour is placed, and what is background.

    Args, errors: as `ball_loss`.

    Returns:
        The masks of every plane that takes the ball loss, and of each tumour. No gradient.
    """
    check_inputs(logits, findings)
    rules = get_recipe(recipe, **options)
    where = ReportRegions.of(logits, findings, regions, spacing, rules, impl)
    targets = ball_targets(
        logits, findings, where, rules, known=_packed_known(known, logits, impl), keep_bodies=True, impl=impl
    )
    placement = targets.placement
    return PseudoMasks(
        targets.sample,
        targets.channel,
        core=unpack_masks(placement.core, impl=impl),
        body=unpack_masks(placement.body, impl=impl),
        tolerated=unpack_masks(targets.tolerated, impl=impl),
        penalised=unpack_masks(targets.penalised, impl=impl),
        tumours=placement.tumours,
        bodies=unpack_masks(placement.bodies, impl=impl),
    )


def _packed_known(known: torch.Tensor | None, logits: torch.Tensor, impl: str) -> BitMasks | None:
    """Known voxels as bits, one mask a plane of the logits."""
    if known is None:
        return None
    check_shape("known", known, tuple(logits.shape), "(B, C, D, H, W)")
    check_device("known", known, "logits", logits)
    return pack_masks(known.flatten(0, 1), impl=impl)


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
    known: BitMasks | None = None,
    keep_bodies: bool = False,
    impl: str = "auto",
) -> BallTargets:
    """Pseudo-masks of the planes that take the ball loss; see `pseudo_masks`. `known` has a mask a plane of logits."""
    planes = ball_planes(findings, recipe)
    sample, channel = [b for b, _ in planes], [c for _, c in planes]
    candidates = plane_candidates(findings, planes, tuple(logits.shape[2:]), where.spacing, recipe)
    placement = place_tumours(
        logits.detach(), sample, channel, where.dilated, candidates, where.spacing, recipe, keep_bodies, impl
    )
    known_rows = None if known is None else planes_of(logits, sample, channel)
    tolerated, penalised = _plane_masks(findings, planes, where, placement, known, known_rows, impl)
    return BallTargets(sample, channel, placement, tolerated, penalised)


def _plane_masks(
    findings: Findings,
    planes: dict[tuple[int, int], list[int]],
    where: ReportRegions,
    placement: Placement,
    known: BitMasks | None,
    known_rows: Sequence[int] | None,
    impl: str,
) -> tuple[BitMasks, BitMasks]:
    """What is tolerated and what is penalised on each plane; the row of `known` of each plane is in `known_rows`."""
    stacks = [where.masks, where.dilated, placement.around, placement.core] + ([] if known is None else [known])
    of_s, of_plus, of_around, of_core, of_known, made = itertools.accumulate(
        [len(where.masks), len(where.dilated), len(planes), len(planes), 0 if known is None else len(known)], initial=0
    )
    tolerated: list[list[Step]] = []
    penalised: list[list[Step]] = []
    for p, groups in enumerate(planes.values()):
        open_ended = [g for g in groups if findings.groups[g].open_ended]
        positive = [g for g in groups if not findings.groups[g].negative]
        tolerated.append([(OR, of_around + p), *[(OR, of_plus + g) for g in open_ended], (MINUS, of_core + p)])
        settled = [(OR, row if row == ALL else of_s + row) for row in settling_rows(findings, groups)]
        settled += [] if known_rows is None else [(AND, of_known + known_rows[p])]
        penalised.append([*settled, *[(OR, of_plus + g) for g in positive], (MINUS, made + p)])
    masks = combine(stacks, tolerated + penalised, impl=impl)
    return masks[: len(planes)], masks[len(planes) :]


@torch.no_grad()
def ball_term(logits: torch.Tensor, targets: BallTargets, recipe: Recipe, impl: str = "auto") -> BceDice:
    """What the ball loss needs of the logits: cross-entropy and Dice sums on the targets' planes."""
    core, planes = targets.placement.core, (targets.sample, targets.channel)
    weights = None
    if recipe.rank_concentration is not None:
        weights = foreground_weights(
            logits, core, *planes, targets.placement.limits, concentration=recipe.rank_concentration, impl=impl
        )
    return BceDice(core, targets.penalised, *planes, weights)


def ball_from_sums(
    sums: torch.Tensor, findings: Findings, targets: BallTargets, recipe: Recipe, impl: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice, averaged as the recipe says, given the sums (P, 6) of the `ball_term`."""
    planes = max(len(sums), 1)
    shares = [1 / planes] * len(sums)
    if recipe.ball_mean == "samples":
        shares = [1 / (targets.sample.count(sample) * findings.batch_size) for sample in targets.sample]
    mean_of_present = recipe.ball_mean == "planes" and recipe.empty_dice == "skip"
    return bce_dice(
        sums[None],
        shares,
        [1.0] * len(sums) if mean_of_present else shares,
        voxels=0 if recipe.bce_mean == "own" else math.prod(targets.penalised.shape[1:]),
        empty=recipe.empty_dice,
        mean_of_present=mean_of_present,
        impl=impl,
    )


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
