# SPDX-License-Identifier: Apache-2.0
"""The losses as training steps on `Inputs`: forward, and backward with a gradient that is there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.gpu.inputs import Inputs
from rsuper_kernels import ReportSupervisedLoss, ball_loss, volume_loss

Loss = Callable[[Inputs, str], tuple[torch.Tensor, ...]]


def volume(given: Inputs, impl: str = "auto") -> tuple[torch.Tensor, ...]:
    return (volume_loss(given.heads[0], given.findings, given.label_map, given.spacing, impl=impl),)


def ball(given: Inputs, impl: str = "auto") -> tuple[torch.Tensor, ...]:
    """Cross-entropy and Dice."""
    return ball_loss(given.heads[0], given.findings, given.label_map, given.spacing, impl=impl)


def total(given: Inputs, impl: str = "auto") -> tuple[torch.Tensor, ...]:
    """Segmentation, volume, ball and attenuation."""
    criterion = ReportSupervisedLoss(impl=impl)
    losses = criterion(given.heads, given.findings, given.label_map, given.spacing, ct=given.ct, labels=given.labels)
    return (losses["total"],)


class Step:
    """What one training step pays for a loss."""

    def __init__(self, loss: Loss, given: Inputs, impl: str = "auto") -> None:
        self.loss, self.given, self.impl = loss, given, impl
        self._one = torch.ones((), device=given.heads[0].device)

    def __call__(self) -> tuple[torch.Tensor, ...]:
        """The loss or its parts; gradients are in the heads."""
        losses = self.forward()
        self.backward(losses)
        return losses

    def forward(self) -> tuple[torch.Tensor, ...]:
        for logits in self.given.heads:
            logits.grad = None
        return self.loss(self.given, self.impl)

    def backward(self, losses: tuple[torch.Tensor, ...]) -> None:
        torch.autograd.backward(losses, [self._one] * len(losses))

    @property
    def nbytes(self) -> int:
        """Of all logits."""
        return sum(logits.nbytes for logits in self.given.heads)
