# SPDX-License-Identifier: Apache-2.0
"""The references of region_sums, masked_bce_dice and attenuation_stats, term after term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rsuper_kernels.bits import unpack
from rsuper_kernels.checks import accumulation_dtype
from rsuper_kernels.ops.attenuation_stats import reference as attenuation
from rsuper_kernels.ops.masked_bce_dice import reference as bce_dice
from rsuper_kernels.ops.region_sums import reference as regions
from rsuper_kernels.tables import split


@dataclass
class _Term:
    """One term as the references take it."""

    kind: int
    first: torch.Tensor
    """The first two are masks (G, D, H, W); the second is empty for regions."""
    second: torch.Tensor
    extra: torch.Tensor
    """The CT, or weights (G, D, H, W), or empty."""
    sample: list[int]
    channel: list[int]
    options: list[float]

    def sums(self, x: torch.Tensor, activation: str) -> torch.Tensor:
        planes = (self.sample, self.channel)
        if self.kind == 0:
            inside = regions.region_sums(x, self.first, *planes, [], [], activation)
            return torch.stack([inside, self.first.flatten(1).sum(1).to(inside.dtype)], dim=1)
        if self.kind == 1:
            return bce_dice.masked_bce_dice(x, self.first, self.second, self._weights(), *planes, activation)
        return attenuation.attenuation_stats(
            self._clipped(x), x, self.first, self.second, *planes, self.options[2], activation
        )

    def slopes(self, grad: torch.Tensor, x: torch.Tensor, activation: str) -> torch.Tensor:
        planes = (self.sample, self.channel)
        if self.kind == 0:
            return regions.region_sums_backward(grad.view(-1, 2)[:, 0], x, self.first, *planes, [], [], activation)
        if self.kind == 1:
            return bce_dice.masked_bce_dice_backward(
                grad.view(-1, 6), x, self.first, self.second, self._weights(), *planes, activation
            )
        return attenuation.attenuation_stats_backward(
            grad.view(-1, 2, 3), self._clipped(x), x, self.first, self.second, *planes, self.options[2], activation
        )[0]

    def _clipped(self, x: torch.Tensor) -> torch.Tensor:
        # a CT of half precision would round the window
        return self.extra.to(accumulation_dtype(x)).clamp(self.options[0], self.options[1])

    def _weights(self) -> torch.Tensor | None:
        return dense_weights(self.extra, self.first) if self.extra.numel() else None


def dense_weights(compact: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weights (G, D, H, W) of compact ones (G, N): those of the target voxels by rising index, 1 elsewhere."""
    order = (targets.flatten(1).long().cumsum(1) - 1).clamp(min=0, max=compact.shape[1] - 1)
    return torch.where(targets, compact.gather(1, order).view(targets.shape), 1)


def loss_sums(logits: torch.Tensor, *tables: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of all terms, flat, one term after the other, and no state; `tables` as op.py describes them."""
    *rest, activation = tables
    sums = torch.cat([term.sums(logits, activation).flatten() for term in _terms(logits, *rest)])
    return sums, logits.new_empty(0, dtype=torch.float64)


def loss_sums_backward(grad: torch.Tensor, logits: torch.Tensor, state: torch.Tensor, *tables: Any) -> torch.Tensor:
    """Gradient of the logits, added up over the terms before it is rounded to their dtype."""
    *rest, activation = tables
    x = logits.to(accumulation_dtype(logits))
    out, start = torch.zeros(x.shape, dtype=x.dtype, device=x.device), 0
    for term in _terms(logits, *rest):
        size = (2, 6, 6)[term.kind] * len(term.sample)
        out += term.slopes(grad[start : start + size], x, activation)
        start += size
    return out.to(logits.dtype)


def _terms(
    logits: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[int],
    counts: Sequence[int],
    sample: Sequence[int],
    channel: Sequence[int],
    options: Sequence[float],
) -> Iterator[_Term]:
    samples, channels = split(sample, counts), split(channel, counts)
    for t, kind in enumerate(kinds):
        first, second, extra = tensors[3 * t : 3 * t + 3]
        inside = unpack(first, logits.shape[-1])
        other = second if kind == 0 else unpack(second, logits.shape[-1])
        yield _Term(kind, inside, other, extra, samples[t], channels[t], list(options[3 * t : 3 * t + 3]))
