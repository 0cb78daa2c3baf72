# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native
from rsuper_kernels.ops.loss_sums.op import output_count
from rsuper_kernels.tables import planes_of, split


def loss_sums(
    logits: torch.Tensor, tensors: Sequence[torch.Tensor], kinds: Sequence[int], counts: Sequence[int], *tables: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of all terms, flat, and no state; see reference.py."""
    logits, tensors = native.readable(logits), [native.readable(tensor) for tensor in tensors]
    terms = _terms(logits, tensors, kinds, counts, *tables)
    return native.sums(logits, terms, output_count(kinds, counts)), logits.new_empty(0, dtype=torch.float64)


def loss_sums_backward(
    grad: torch.Tensor, logits: torch.Tensor, state: torch.Tensor, tensors: Sequence[torch.Tensor], *tables: Any
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits, tensors = native.readable(logits), [native.readable(tensor) for tensor in tensors]
    return native.sums_backward(grad, logits, _terms(logits, tensors, *tables))


def _terms(
    logits: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[int],
    counts: Sequence[int],
    sample: Sequence[int],
    channel: Sequence[int],
    options: Sequence[float],
    activation: str,
) -> list[Any]:
    shape, sigmoid = tuple(logits.shape[2:]), activation == "sigmoid"
    terms = []
    for t, (kind, samples, channels) in enumerate(
        zip(kinds, split(sample, counts), split(channel, counts), strict=True)
    ):
        first, second, extra = tensors[3 * t : 3 * t + 3]
        planes = planes_of(logits, samples, channels)
        if kind == 0:
            term = native.module().region_term(
                shape, native.bits(first), planes, list(range(len(planes))), sigmoid, True
            )
        elif kind == 1:
            given = native.address(extra) if extra.numel() else (0, 0)
            stride = extra.shape[1] if extra.numel() else 0
            term = native.module().bce_dice_term(
                shape, native.bits(first), native.bits(second), given, stride, planes, sigmoid
            )
        else:
            low, high, eps = options[3 * t : 3 * t + 3]
            term = native.module().attenuation_term(
                shape,
                native.address(extra),
                native.bits(first),
                native.bits(second),
                planes,
                samples,
                (low, high),
                eps,
                sigmoid,
                0,
            )
        terms.append(term)
    return terms
