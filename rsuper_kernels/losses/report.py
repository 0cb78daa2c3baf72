# SPDX-License-Identifier: Apache-2.0
"""The whole training loss: segmentation where labels are known, report losses where reports speak, over all heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsuper_kernels.checks import check_device, check_shape
from rsuper_kernels.findings import Findings
from rsuper_kernels.losses.attenuation import (
    grouped_attenuation_loss,
    placed_attenuation_loss,
    telling_groups,
)
from rsuper_kernels.losses.ball import BallTargets, ball_planes, ball_targets, ball_terms
from rsuper_kernels.losses.regions import ReportRegions, check_inputs, reported_known
from rsuper_kernels.losses.segmentation import known_voxels, segmentation_loss
from rsuper_kernels.losses.volume import grouped_volume_loss
from rsuper_kernels.recipes import Recipe, get_recipe


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
            where = ReportRegions.of(outputs[0], findings, regions, spacing, self.recipe, self.impl)
            labelled = None if unknown is None else known_voxels(unknown, impl=self.impl)
            known = None if labels is None else self._segmentation_known(outputs[0], findings, where, labelled)
        parts: dict[str, list[torch.Tensor]] = {}
        targets = None
        for index, (logits, weight) in enumerate(zip(outputs, weights, strict=True)):
            if labels is not None and self.segmentation_weight > 0:
                term = segmentation_loss(logits, labels, known, recipe=self.recipe, impl=self.impl)
                parts.setdefault("segmentation", []).append(weight * self.segmentation_weight * term)
            if self.report_weight > 0:
                if index == 0:
                    targets = ball_targets(logits, findings, where, self.recipe, known=labelled, impl=self.impl)
                    bce, dice = ball_terms(logits, findings, targets, self.recipe, self.impl)
                    parts["ball_bce"] = [weight * self.report_weight * self.ball_bce_weight * bce]
                    parts["ball_dice"] = [weight * self.report_weight * self.ball_dice_weight * dice]
                if index > 0 or (len(outputs) == 1 and self.recipe.single_head == "both"):
                    term = self._volume(logits, findings, where)
                    parts.setdefault("volume", []).append(weight * self.report_weight * self.volume_weight * term)
        if self.attenuation_weight > 0:
            term = self._attenuation(outputs[0], ct, findings, where, targets)
            parts["attenuation"] = [self.attenuation_weight * term]
        losses = {name: torch.stack(terms).sum() for name, terms in parts.items()}
        total = torch.stack(list(losses.values())).sum() if losses else outputs[0].new_zeros((), dtype=torch.float32)
        return {"total": total, **losses}

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

    def _segmentation_known(
        self, logits: torch.Tensor, findings: Findings, where: ReportRegions, labelled: torch.Tensor | None
    ) -> torch.Tensor:
        """Voxels of each plane whose label the segmentation term may trust, bool (B, C, D, H, W)."""
        known = torch.ones(logits.shape, dtype=torch.bool, device=logits.device)
        planes = findings.planes()
        for sample in range(logits.shape[0]):
            for channel in findings.lesion_channels or ():
                if findings.status(sample, channel) == "unknown":
                    known[sample, channel] = False
        for (sample, channel), groups in planes.items():
            masks, dilated = where.rows(groups)
            known[sample, channel] = reported_known(findings, groups, masks)
            positive = [row for row, g in enumerate(groups) if not findings.groups[g].negative]
            if self.recipe.rim == "unknown":
                known[sample, channel] &= ~dilated[positive].any(0)
            else:
                known[sample, channel] &= known_voxels(masks[positive].any(0), impl=self.impl)
        return known if labelled is None else known & labelled

    def _volume(self, logits: torch.Tensor, findings: Findings, where: ReportRegions) -> torch.Tensor:
        groups = [g for indices in findings.planes().values() for g in indices]
        if self.recipe.negatives == "ignore":
            groups = [g for g in groups if not findings.groups[g].negative]
        _, dilated = where.rows(groups)
        return grouped_volume_loss(logits, findings, groups, dilated, where.spacing, self.recipe, self.impl)

    def _attenuation(
        self,
        logits: torch.Tensor,
        ct: torch.Tensor | None,
        findings: Findings,
        where: ReportRegions,
        targets: BallTargets | None,
    ) -> torch.Tensor:
        members = [findings.groups[g] for indices in findings.planes().values() for g in indices]
        told = any(t.attenuation in ("hypo", "iso", "hyper") for group in members for t in group.tumours)
        if not told:
            return logits.new_zeros((), dtype=torch.float32)
        if ct is None:
            raise ValueError("ct: the reports give attenuations; pass the CT in HU, or set attenuation_weight=0")
        if self.recipe.attenuation_scope == "tumour" and targets is not None:
            masks, _ = where.rows([g for groups in ball_planes(findings, self.recipe).values() for g in groups])
            return placed_attenuation_loss(logits, ct, targets, masks, self.recipe, self.impl)
        groups = telling_groups(findings)
        masks, dilated = where.rows(groups)
        return grouped_attenuation_loss(logits, ct, findings, groups, masks, dilated, self.recipe, self.impl)
