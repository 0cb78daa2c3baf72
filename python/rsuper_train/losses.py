# SPDX-License-Identifier: Apache-2.0
"""The loss of a batch: the mean of its samples' losses, each by `ReportSupervisedLoss`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rsuper_kernels import ReportSupervisedLoss
from rsuper_train.config import Loss
from rsuper_train.samples import Batch

PARTS = ("segmentation", "volume", "ball_bce", "ball_dice", "attenuation")
LOSSES = ("total", *PARTS)


def build_criterion(loss: Loss) -> ReportSupervisedLoss:
    """The losses of a configuration."""
    return ReportSupervisedLoss(
        loss.build_recipe(),
        head_weights=loss.heads,
        segmentation_weight=loss.segmentation,
        report_weight=loss.report,
        volume_weight=loss.volume,
        ball_bce_weight=loss.ball_bce,
        ball_dice_weight=loss.ball_dice,
        attenuation_weight=loss.attenuation,
    )


def sample_losses(
    criterion: ReportSupervisedLoss, heads: Sequence[torch.Tensor], batch: Batch, index: int
) -> dict[str, torch.Tensor]:
    """The losses of one sample of a batch, by the names of `LOSSES`; those that do not apply are left out.

    The segmentation term speaks on report crops, too: outside of what is reported or unknown, there is no tumour.

    Args:
        heads: logits (1, C, D, H, W) of that sample, final head first.
    """
    one, findings = slice(index, index + 1), batch.findings[index]
    return criterion(
        heads,
        findings,
        batch.regions[one],
        batch.spacing[index],
        ct=batch.ct[one],
        labels=batch.labels[one],
        unknown=None if batch.unknown is None else batch.unknown[one],
    )


def losses_and_gradients(
    criterion: ReportSupervisedLoss, heads: Sequence[torch.Tensor], batch: Batch, count: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Losses of each sample, and the gradient of their sum / count at each head; nothing flows into the network.

    The gradient of a loss that is not finite is NaN, so that it cannot go unnoticed on other ranks.

    Args:
        heads: logits (B, C, D, H, W), final head first.
        count: samples that the step takes the mean over, on this rank.

    Returns:
        (B, 6) in the order of `LOSSES`, 0 for those that do not apply; and a tensor for each head, float32.
    """
    gradients = [torch.zeros_like(logits, dtype=torch.float32) for logits in heads]
    rows = []
    for index in range(len(batch)):
        leaves = [logits.detach()[index : index + 1].float().requires_grad_() for logits in heads]
        losses = sample_losses(criterion, leaves, batch, index)
        total = losses["total"]
        if total.requires_grad:  # there may be nothing to learn from a crop
            total.backward()
        share = torch.where(total.detach().isfinite(), 1 / count, math.nan)
        for gradient, leaf in zip(gradients, leaves, strict=True):
            if leaf.grad is not None:
                torch.mul(leaf.grad[0], share, out=gradient[index])
        rows.append(torch.stack([losses[name].detach() if name in losses else total.new_zeros(()) for name in LOSSES]))
    return torch.stack(rows).detach(), gradients
