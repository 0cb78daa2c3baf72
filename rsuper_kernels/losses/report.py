# SPDX-License-Identifier: Apache-2.0
"""The whole training loss: segmentation where labels are known, report losses where reports speak, over all heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_device, check_shape
from rsuper_kernels.findings import Findings
from rsuper_kernels.losses.attenuation import (
    attenuation_from_sums,
    ct_volumes,
    group_term,
    placed_term,
    telling_groups,
)
from rsuper_kernels.losses.ball import ball_from_sums, ball_targets, ball_term
from rsuper_kernels.losses.regions import ReportRegions, check_inputs, settling_rows
from rsuper_kernels.losses.segmentation import (
    UNKNOWN_ELEMENT,
    segmentation_from_sums,
    segmentation_term,
    segmentation_terms,
)
from rsuper_kernels.losses.volume import volume_from_sums, volume_groups, volume_term
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, Step, combine
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import Term, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks
from rsuper_kernels.recipes import Recipe, get_recipe


@dataclass(frozen=True)
class _Trusted:
    """Voxel labels (B, C, D, H, W), and where the segmentation term trusts them, a mask a plane."""

    labels: torch.Tensor
    known: BitMasks


@dataclass(frozen=True)
class _Batch:
    """What all heads share."""

    findings: Findings
    where: ReportRegions
    labelled: BitMasks | None
    """Where voxel labels are known, besides what the findings say, a mask a plane; None: everywhere."""
    trusted: _Trusted | None
    """None: no segmentation term."""
    ct: torch.Tensor | None
    """(B, D, H, W) in HU; None where no attenuation is weighed."""


def _tells_attenuation(findings: Findings) -> bool:
    groups = [findings.groups[g] for indices in findings.planes().values() for g in indices]
    return any(tumour.attenuation in ("hypo", "iso", "hyper") for group in groups for tumour in group.tumours)


class ReportSupervisedLoss(nn.Module):
    """Segmentation, Volume, Ball and Attenuation Loss of a network with one or more heads.

    The ball loss acts on the final head, the volume loss on the auxiliary heads (with a single head, the recipe "paper"
    applies both to it), the segmentation term on every head, the attenuation loss on the final head. With
    report_weight=0 no tumour is placed, and the attenuation loss compares whole groups.

        total = sum over heads of aux_j * (segmentation_weight * segmentation + report_weight * report)
                + attenuation_weight * attenuation
        report = ball_bce_weight * bce + ball_dice_weight * dice, or volume_weight * volume

    Args:
        recipe: "paper", "rsuper" or a Recipe.
        head_weights: aux_j per head, final head first; None: 0.5 each as published, or 1 for a single head.
        segmentation_weight, report_weight: 1 and 0.1 are the published weights of training on masks and reports.
        volume_weight, ball_bce_weight, ball_dice_weight, attenuation_weight: weights of the report losses.
        check: raise ValueError on NaN or infinite logits, naming head, sample and channel (reads the device).
        impl: backend of the ops.
        options: options of the recipe to change, such as tolerance=0.2 or attenuation_delta=10.

    Example:
        >>> criterion = ReportSupervisedLoss(attenuation_delta=10.0)
        >>> losses = criterion(logits, findings, label_map, spacing=(1.0, 0.8, 0.8), ct=ct)
        >>> losses["total"].backward()
    """

    def __init__(
        self,
        recipe: str | Recipe = "paper",
        *,
        head_weights: Sequence[float] | None = None,
        segmentation_weight: float = 1.0,
        report_weight: float = 0.1,
        volume_weight: float = 1.0,
        ball_bce_weight: float = 1.0,
        ball_dice_weight: float = 1.0,
        attenuation_weight: float = 0.01,
        check: bool = False,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self.recipe = get_recipe(recipe, **options)
        self.head_weights = None if head_weights is None else tuple(head_weights)
        self.segmentation_weight, self.report_weight = segmentation_weight, report_weight
        self.volume_weight, self.attenuation_weight = volume_weight, attenuation_weight
        self.ball_bce_weight, self.ball_dice_weight = ball_bce_weight, ball_dice_weight
        self.check = check
        self.impl = impl

    def forward(
        self,
        heads: torch.Tensor | Sequence[torch.Tensor],
        findings: Findings,
        regions: torch.Tensor | None,
        spacing: Sequence[float],
        *,
        ct: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        unknown: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute all losses of a batch.

        Args:
            heads: logits (B, C, D, H, W), or a list of them, all at full resolution, the final head first.
            findings: the batch's findings.
            regions: integer label map (B, D, H, W), masks (B, C, D, H, W), or None if no group names a region.
            spacing: (sD, sH, sW) in mm.
            ct: (B, 1, D, H, W) or (B, D, H, W) in HU; needed if a report gives an attenuation that is weighed.
            labels: (B, C, D, H, W) voxel labels, 0 where there are none; None: no segmentation term.
            unknown: (B, C, D, H, W), voxels whose label is not known, besides what the findings say; None: none.

        Returns:
            "total", and the parts, each with its weights: "segmentation" (if labels are given), "volume", "ball_bce",
            "ball_dice", "attenuation". Scalars, float32; gradient to every head.

        Raises:
            TypeError, ValueError: inputs that do not fit; the argument and the sample are named.
        """
        outputs = [heads] if isinstance(heads, torch.Tensor) else list(heads)
        weights = self._head_weights(len(outputs))
        for index, logits in enumerate(outputs):
            check_inputs(logits, findings, finite=self.check, name=f"heads[{index}]")
        named = {f"heads[{index}]": logits for index, logits in enumerate(outputs)}
        for name, tensor in {**named, "labels": labels, "unknown": unknown}.items():
            if tensor is not None:
                check_shape(name, tensor, tuple(outputs[0].shape), "(B, C, D, H, W)")
                check_device(name, tensor, "heads[0]", outputs[0])
        with torch.no_grad():
            batch = self._prepare(outputs[0], findings, regions, spacing, ct, labels, unknown)
        losses: dict[str, list[torch.Tensor]] = {}
        for index, (logits, weight) in enumerate(zip(outputs, weights, strict=True)):
            for name, loss in self._head_losses(logits, batch, first=index == 0, only=len(outputs) == 1).items():
                # the attenuation loss does not take part in the weighing of heads
                losses.setdefault(name, []).append(loss if name == "attenuation" else weight * loss)
        summed = {name: torch.stack(values).sum() for name, values in losses.items()}
        total = torch.stack(list(summed.values())).sum() if summed else outputs[0].new_zeros((), dtype=torch.float32)
        return {"total": total, **summed}

    def extra_repr(self) -> str:
        return (
            f"{self.recipe}, report_weight={self.report_weight}, attenuation_weight={self.attenuation_weight}, "
            f"impl={self.impl!r}"
        )

    def _head_weights(self, count: int) -> tuple[float, ...]:
        if count == 0:
            raise ValueError("heads: expected at least one tensor of logits, got none")
        if self.head_weights is None:
            return (1.0,) if count == 1 else (0.5,) * count
        if len(self.head_weights) != count:
            raise ValueError(f"heads: head_weights has {len(self.head_weights)} weights, and {count} heads came")
        return self.head_weights

    def _prepare(
        self,
        logits: torch.Tensor,
        findings: Findings,
        regions: torch.Tensor | None,
        spacing: Sequence[float],
        ct: torch.Tensor | None,
        labels: torch.Tensor | None,
        unknown: torch.Tensor | None,
    ) -> _Batch:
        """What all heads share."""
        where = ReportRegions.of(logits, findings, regions, spacing, self.recipe, self.impl)
        labelled = None
        if unknown is not None:
            # not trusted within two voxels of an unknown one
            around = dilate(pack_masks(unknown.flatten(0, 1), impl=self.impl), UNKNOWN_ELEMENT, impl=self.impl)
            labelled = around.complement()
        trusted = None
        if labels is not None and self.segmentation_weight > 0:
            trusted = _Trusted(labels, self._segmentation_known(logits, findings, where, labelled))
        values = None
        if self.attenuation_weight > 0 and _tells_attenuation(findings):
            if ct is None:
                raise ValueError("ct: the reports give attenuations; pass the CT in HU, or set attenuation_weight=0")
            values = ct_volumes(ct, logits)
        return _Batch(findings, where, labelled, trusted, values)

    def _head_losses(self, logits: torch.Tensor, batch: _Batch, first: bool, only: bool) -> dict[str, torch.Tensor]:
        """The losses of one head by name, each with its weight: one pass over the logits for all of them."""
        recipe, impl, findings, where = self.recipe, self.impl, batch.findings, batch.where
        reported = self.report_weight > 0
        groups = volume_groups(findings, recipe)
        terms: dict[str, Term] = {}
        targets = None
        if batch.trusted is not None and not batch.trusted.labels.is_floating_point():
            terms["segmentation"] = segmentation_term(logits, batch.trusted.labels, batch.trusted.known, impl)
        if reported and first:
            by_tumour = batch.ct is not None and recipe.attenuation_scope == "tumour"
            targets = ball_targets(
                logits, findings, where, recipe, known=batch.labelled, keep_bodies=by_tumour, impl=impl
            )
            terms["ball"] = ball_term(logits, targets, recipe, impl)
        if reported and (not first or (only and recipe.single_head == "both")):
            terms["volume"] = volume_term(findings, groups, where)
        if first and batch.ct is not None:
            if targets is not None and recipe.attenuation_scope == "tumour":
                attenuation, attenuations = placed_term(batch.ct, targets, where, recipe, impl)
            else:
                attenuation, attenuations = group_term(batch.ct, findings, telling_groups(findings), where, recipe)
            terms["attenuation"] = attenuation
        sums = dict(zip(terms, loss_sums(logits, list(terms.values()), impl=impl), strict=True))

        losses: dict[str, torch.Tensor] = {}
        if batch.trusted is not None:
            if "segmentation" in sums:
                bce, dice = segmentation_from_sums(sums["segmentation"], logits, None, recipe, impl)
            else:  # soft labels
                known = unpack_masks(batch.trusted.known, impl=impl).view(logits.shape)
                bce, dice = segmentation_terms(logits, batch.trusted.labels, known, recipe=recipe, impl=impl)
            losses["segmentation"] = self.segmentation_weight * (bce + dice)
        if targets is not None:
            bce, dice = ball_from_sums(sums["ball"], findings, targets, recipe, impl)
            losses["ball_bce"] = self.report_weight * self.ball_bce_weight * bce
            losses["ball_dice"] = self.report_weight * self.ball_dice_weight * dice
        if "volume" in sums:
            loss = volume_from_sums(sums["volume"], findings, groups, where, recipe, impl)
            losses["volume"] = self.report_weight * self.volume_weight * loss
        if "attenuation" in sums:
            loss = attenuation_from_sums(sums["attenuation"], attenuation, attenuations, recipe)
            losses["attenuation"] = self.attenuation_weight * loss
        elif first and self.attenuation_weight > 0:
            losses["attenuation"] = logits.new_zeros((), dtype=torch.float32)
        return losses

    def _segmentation_known(
        self, logits: torch.Tensor, findings: Findings, where: ReportRegions, labelled: BitMasks | None
    ) -> BitMasks:
        """Voxels of each plane whose label the segmentation term may trust, a mask a plane."""
        batch, channels = logits.shape[:2]
        # what is doubtful around a reported region, a mask a group
        doubtful = where.dilated
        if self.recipe.rim == "background":
            doubtful = dilate(where.masks, UNKNOWN_ELEMENT, impl=self.impl)
        planes, trusted = findings.planes(), dict[tuple[int, int], list[Step]]()
        for plane, groups in planes.items():
            positive = [g for g in groups if not findings.groups[g].negative]
            settled = [(OR, row) for row in settling_rows(findings, groups)]
            trusted[plane] = settled + [(MINUS, len(where.masks) + g) for g in positive]
        stacks = [where.masks, doubtful] + ([] if labelled is None else [labelled])
        outputs: list[list[Step]] = []
        for plane in itertools.product(range(batch), range(channels)):
            unknown = findings.status(*plane) == "unknown"
            steps = trusted.get(plane, [] if unknown else [(OR, ALL)])
            outputs.append(steps + ([] if labelled is None else [(AND, 2 * len(where.masks) + len(outputs))]))
        return combine(stacks, outputs, impl=self.impl)
