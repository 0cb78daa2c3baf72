# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native


def masked_bce_dice(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, weights: torch.Tensor | None, *tables: Any
) -> torch.Tensor:
    """Sums (G, 6) of the planes; see reference.py."""
    tensors = [None if x is None else native.readable(x) for x in (logits, targets, known, weights)]
    out = torch.empty(len(tables[0]), 6, dtype=torch.float32)
    native.module().masked_bce_dice(*_arguments(tensors, logits, *tables), out.data_ptr(), native.threads())
    return out


def masked_bce_dice_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None,
    *tables: Any,
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    tensors = [None if x is None else native.readable(x) for x in (logits, targets, known, weights)]
    grad, out = grad.float().contiguous(), torch.empty_like(logits, memory_format=torch.contiguous_format)
    planes = logits.shape[0] * logits.shape[1]
    arguments = _arguments(tensors, logits, *tables)
    native.module().masked_bce_dice_backward(*arguments, grad.data_ptr(), planes, out.data_ptr(), native.threads())
    return out


def _arguments(
    tensors: Sequence[torch.Tensor | None],
    logits: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    activation: str,
) -> tuple[Any, ...]:
    planes = [b * logits.shape[1] + c for b, c in zip(sample, channel, strict=True)]
    addresses = [native.address(tensor) for tensor in tensors]
    return *addresses, logits.shape[2:].numel(), planes, activation == "sigmoid"
