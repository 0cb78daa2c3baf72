# SPDX-License-Identifier: Apache-2.0
"""Attenuation Loss: the CT under the prediction must be darker or brighter than the organ, as the report says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rsuper_kernels import gpu
from rsuper_kernels.checks import check_choice, check_device, check_shape
from rsuper_kernels.findings import FindingGroup, Findings
from rsuper_kernels.losses.ball import BallTargets
from rsuper_kernels.losses.regions import ReportRegions, check_inputs
from rsuper_kernels.ops.combine import MINUS, OR, Step, combine
from rsuper_kernels.ops.loss_sums import AttenuationStats, loss_sums
from rsuper_kernels.recipes import Recipe, get_recipe
from rsuper_kernels.tables import take

# Order of the classifier's logits.
CLASSES = ("hypo", "hyper", "mixed")
FEATURES = 8
# Voxels added to the weights that means are divided by.
EPS = 1e-5


def contrast_hinge(stats: torch.Tensor, attenuations: Sequence[str], recipe: Recipe) -> torch.Tensor:
    """Hinge on the contrast between tumour and organ, in units of the organ's sd.

        hypo:  max(0, mean_t - mean_o + delta) / sd_o        hyper: max(0, mean_o - mean_t + delta) / sd_o
        iso:   max(0, |mean_t - mean_o| - iso_band) / sd_o   mixed, unknown: 0

    Args:
        stats: (G, 2, 3) from `attenuation_stats`: [tumour, organ] x [weight, mean, sd].
        attenuations: the reported attenuation of each of the G tumours or groups.
        recipe: gives delta (`attenuation_delta`, HU; 0 asks for the sign alone, as the public rule) and `iso_band`.

    Returns:
        (G,) losses; sd_o is a constant, at least 1 HU. They fade out where tumour or organ weighs next to nothing and
        so has no mean. Gradient to `stats`.
    """
    difference = stats[:, 0, 1] - stats[:, 1, 1]
    scale = stats[:, 1, 2].detach().clamp(min=1)
    signs = [{"hypo": 1.0, "hyper": -1.0}.get(a, 0.0) for a in attenuations]
    sign, iso = (
        gpu.table(row, stats.dtype, stats.device) for row in (signs, [float(a == "iso") for a in attenuations])
    )
    signed = (sign * difference + recipe.attenuation_delta).clamp(min=0) * sign.abs()
    weight = stats[:, :, 0].detach().amin(1)
    measured = weight / (weight + EPS)
    return (signed + (difference.abs() - recipe.iso_band).clamp(min=0) * iso) * measured / scale


def group_attenuation(group: FindingGroup) -> str:
    """What a group's tumours look like together: their common attenuation, "mixed" if they differ, or "unknown"."""
    values = {tumour.attenuation for tumour in group.tumours}
    if not values or "unknown" in values or not group.count_known:
        return "unknown"
    return values.pop() if len(values) == 1 else "mixed"


def telling_groups(findings: Findings) -> list[int]:
    """The groups whose tumours together are hypo, iso or hyper, but for those on annotated planes."""
    groups = [g for indices in findings.planes().values() for g in indices]
    return [g for g in sorted(groups) if group_attenuation(findings.groups[g]) in ("hypo", "iso", "hyper")]


def attenuation_loss(
    logits: torch.Tensor,
    ct: torch.Tensor,
    findings: Findings,
    regions: torch.Tensor | None,
    spacing: Sequence[float],
    *,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    check: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Compare the CT under the prediction with the reported attenuation, one group at a time.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        ct: (B, 1, D, H, W) or (B, D, H, W) in HU.
        findings, regions, spacing: as in `volume_loss`.
        recipe, impl, check, options: as in `volume_loss`; attenuation_delta, iso_band and window (HU) are options.

    Returns:
        A scalar, float32 (float64 for float64 logits), the mean over the groups whose attenuation is hypo, iso or hyper
        and whose region is in the patch; 0 without any. Gradient to `logits`.

    Raises:
        TypeError, ValueError: inputs that do not fit; the argument and the group are named.

    Source: poster and slides of Bassi et al., MICCAI 2025; sign rule of the public successor code.
    """
    check_inputs(logits, findings, finite=check)
    rules = get_recipe(recipe, **options)
    groups = telling_groups(findings)
    where = ReportRegions.of(logits, findings, regions, spacing, rules, impl)
    term, attenuations = group_term(ct_volumes(ct, logits), findings, groups, where, rules)
    (stats,) = loss_sums(logits, [term], impl=impl)
    return attenuation_from_sums(stats, term, attenuations, rules)


def group_term(
    ct: torch.Tensor, findings: Findings, groups: Sequence[int], where: ReportRegions, recipe: Recipe
) -> tuple[AttenuationStats, list[str]]:
    """What the attenuation loss of whole groups needs: statistics of tumours in S+ and of the rest of S; and what is
    reported of them."""
    members = [findings.groups[g] for g in groups]
    masks, dilated = where.rows(groups)
    planes = ([m.sample for m in members], [int(m.channel) for m in members])
    term = AttenuationStats(ct, dilated, masks, *planes, recipe.window, EPS)
    return term, [group_attenuation(member) for member in members]


def placed_term(
    ct: torch.Tensor, targets: BallTargets, where: ReportRegions, recipe: Recipe, impl: str = "auto"
) -> tuple[AttenuationStats, list[str]]:
    """The same of the placed tumours: their own voxels, and their region without tumours."""
    placement = targets.placement
    told = ("hypo", "iso", "hyper")
    rows = [row for row, t in enumerate(placement.tumours) if t.tumour.attenuation in told]
    placed = [placement.tumours[row] for row in rows]
    planes = ([targets.sample[t.plane] for t in placed], [targets.channel[t.plane] for t in placed])
    # the organ of a tumour is its region without the other tumours
    of_body, of_bodies, made = itertools.accumulate(map(len, (where.masks, placement.body, placement.bodies)))
    others: list[list[Step]] = [
        [(OR, of_body + t.plane), (MINUS, of_bodies + row)] for row, t in zip(rows, placed, strict=True)
    ]
    organs: list[list[Step]] = [[(OR, t.group), (MINUS, made + i)] for i, t in enumerate(placed)]
    masks = combine([where.masks, placement.body, placement.bodies], others + organs, impl=impl)
    term = AttenuationStats(ct, placement.bodies[rows], masks[len(placed) :], *planes, recipe.window, EPS)
    return term, [t.tumour.attenuation for t in placed]


def attenuation_from_sums(
    stats: torch.Tensor, term: AttenuationStats, attenuations: Sequence[str], recipe: Recipe
) -> torch.Tensor:
    """The attenuation loss, given the statistics of its term: the mean over what is in the patch."""
    losses = contrast_hinge(stats, attenuations, recipe)
    present = term.tumour.any() & term.organ.any()
    return (losses * present).sum() / present.sum().clamp(min=1)


def ct_volumes(ct: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The CT as (B, D, H, W), without gradient."""
    if ct.ndim == 5:
        check_shape("ct", ct, (logits.shape[0], 1, *logits.shape[2:]), "(B, 1, D, H, W)")
        ct = ct[:, 0]
    check_shape("ct", ct, (logits.shape[0], *logits.shape[2:]), "(B, D, H, W)")
    check_device("ct", ct, "logits", logits)
    return ct.detach()


def attenuation_features(stats: torch.Tensor, voxels: int) -> torch.Tensor:
    """The public code's eight features (G, 8) of `attenuation_stats`; `voxels` is the size of the patch.

    Organ mean and sd, tumour mean and sd, their differences, and the volume fractions of organ and tumour.
    """
    tumour, organ = stats[:, 0], stats[:, 1]
    contrast = tumour[:, 1:] - organ[:, 1:]
    fractions = torch.stack([organ[:, 0], tumour[:, 0]], dim=1) / voxels
    return torch.cat([organ[:, 1:], tumour[:, 1:], contrast, fractions], dim=1)


class AttenuationClassifier(nn.Module):
    """Small head that reads hypo, hyper or mixed off the CT statistics, trained where masks are, frozen for reports.

    On mask samples call `loss(features, attenuations)`: the head learns. On report samples call it with `frozen=True`:
    the head's parameters are constants of that call, so the segmenter cannot bend it; only the features take gradient.

    Args:
        hidden: width of the hidden layer.
        hu_scale: HU by which means and sds are divided.
    """

    def __init__(self, hidden: int = 128, hu_scale: float = 100.0) -> None:
        super().__init__()
        self.hu_scale = hu_scale
        self.head = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, len(CLASSES)))

    def forward(self, features: torch.Tensor, *, frozen: bool = False) -> torch.Tensor:
        """Logits (G, 3) over `CLASSES` of features (G, 8) from `attenuation_features`, in HU."""
        check_shape("features", features, (features.shape[0], FEATURES), "(G, 8)")
        scaled = torch.cat([features[:, :6] / self.hu_scale, features[:, 6:]], dim=1)
        if not frozen:
            logits: torch.Tensor = self.head(scaled)
            return logits
        constants = {name: value.detach() for name, value in self.head.named_parameters()}
        return torch.func.functional_call(self.head, constants, (scaled,))

    def loss(self, features: torch.Tensor, attenuations: Sequence[str], *, frozen: bool = False) -> torch.Tensor:
        """Mean cross-entropy over the groups reported hypo, hyper or mixed; 0 if there is none."""
        if len(attenuations) != len(features):
            raise ValueError(
                f"attenuations: expected one for each of {len(features)} rows of features, got {len(attenuations)}"
            )
        for attenuation in attenuations:
            check_choice("attenuation", attenuation, (*CLASSES, "iso", "unknown"))
        rows = [row for row, attenuation in enumerate(attenuations) if attenuation in CLASSES]
        target = gpu.table([CLASSES.index(attenuations[row]) for row in rows], torch.int64, features.device)
        return F.cross_entropy(self(take(features, rows), frozen=frozen), target, reduction="sum") / max(len(rows), 1)


class AttenuationLoss(nn.Module):
    """`attenuation_loss` as a module: `AttenuationLoss(iso_band=5.0)(logits, ct, findings, regions, spacing)`."""

    def __init__(
        self, recipe: str | Recipe = "paper", *, impl: str = "auto", check: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.recipe = get_recipe(recipe, **options)
        self.impl, self.check = impl, check

    def forward(
        self,
        logits: torch.Tensor,
        ct: torch.Tensor,
        findings: Findings,
        regions: torch.Tensor | None,
        spacing: Sequence[float],
    ) -> torch.Tensor:
        return attenuation_loss(
            logits, ct, findings, regions, spacing, recipe=self.recipe, impl=self.impl, check=self.check
        )

    def extra_repr(self) -> str:
        return f"{self.recipe}, impl={self.impl!r}"
