# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native


def attenuation_stats(
    ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, *tables: Any
) -> torch.Tensor:
    """Statistics (G, 2, 3); see reference.py."""
    tensors = [native.readable(x) for x in (ct, logits, tumour, organ)]
    out = torch.empty(len(tables[0]), 2, 3, dtype=torch.float32)
    native.module().attenuation_stats(*_arguments(tensors, logits, *tables), out.data_ptr(), native.threads())
    return out


def attenuation_stats_backward(
    grad: torch.Tensor, ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, *tables: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the logits and of a floating-point organ mask (zeros for another); see reference.py."""
    tensors = [native.readable(x) for x in (ct, logits, tumour, organ)]
    grad = grad.float().contiguous()
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    soft = organ.is_floating_point()
    grad_organ = torch.empty_like(tensors[3]) if soft else torch.zeros(organ.shape)
    native.module().attenuation_stats_backward(
        *_arguments(tensors, logits, *tables),
        grad.data_ptr(),
        logits.shape[0] * logits.shape[1],
        grad_logits.data_ptr(),
        grad_organ.data_ptr() if soft else 0,
        native.threads(),
    )
    return grad_logits, grad_organ.to(organ.dtype) if soft else grad_organ


def _arguments(
    tensors: Sequence[torch.Tensor],
    logits: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> tuple[Any, ...]:
    planes = [b * logits.shape[1] + c for b, c in zip(sample, channel, strict=True)]
    addresses = [native.address(tensor) for tensor in tensors]
    return *addresses, logits.shape[2:].numel(), planes, list(sample), eps, activation == "sigmoid"
