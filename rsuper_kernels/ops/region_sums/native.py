# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native


def region_sums(logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    """Sums (G,) of the probabilities inside each group's region; see reference.py."""
    out = torch.empty(len(tables[0]), dtype=torch.float32)
    logits, regions = native.readable(logits), native.readable(regions)
    native.module().region_sums(*_arguments(logits, regions, *tables), out.data_ptr(), native.threads())
    return out


def region_sums_backward(grad: torch.Tensor, logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    grad, logits, regions = grad.float().contiguous(), native.readable(logits), native.readable(regions)
    planes = logits.shape[0] * logits.shape[1]
    native.module().region_sums_backward(
        *_arguments(logits, regions, *tables), grad.data_ptr(), planes, out.data_ptr(), native.threads()
    )
    return out


def _arguments(
    logits: torch.Tensor,
    regions: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[int],
    id_counts: Sequence[int],
    activation: str,
) -> tuple[Any, ...]:
    planes = [b * logits.shape[1] + c for b, c in zip(sample, channel, strict=True)]
    rows = list(sample) if id_counts else list(range(len(planes)))
    groups, start = [], 0
    for count in id_counts:
        groups.append(list(ids[start : start + count]))
        start += count
    voxels = logits.shape[2:].numel()
    return native.address(logits), native.address(regions), voxels, planes, rows, groups, activation == "sigmoid"
