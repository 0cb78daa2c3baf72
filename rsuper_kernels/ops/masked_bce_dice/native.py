# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native
from rsuper_kernels.tables import planes_of


def masked_bce_dice(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, weights: torch.Tensor | None, *tables: Any
) -> torch.Tensor:
    """Sums (G, 6) of the planes; see reference.py."""
    logits, *masks = _readable(logits, targets, known, weights)
    return native.sums(logits, [_term(logits, masks, *tables)], 6 * len(targets)).view(-1, 6)


def masked_bce_dice_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None,
    *tables: Any,
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits, *masks = _readable(logits, targets, known, weights)
    return native.sums_backward(grad, logits, [_term(logits, masks, *tables)])


def _readable(*tensors: torch.Tensor | None) -> list[Any]:
    return [None if tensor is None else native.readable(tensor) for tensor in tensors]


def _term(
    logits: torch.Tensor, masks: Sequence[Any], sample: Sequence[int], channel: Sequence[int], activation: str
) -> Any:
    addresses = [native.address(mask) for mask in masks]
    planes = planes_of(logits, sample, channel)
    return native.module().bce_dice_term(tuple(logits.shape[2:]), *addresses, 0, planes, activation == "sigmoid")
