# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native
from rsuper_kernels.ops.pack_bits.native import pack_labels
from rsuper_kernels.tables import planes_of


def region_sums(logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    """Sums (G,) of the probabilities inside each group's region; see reference.py."""
    logits, masks = native.readable(logits), _masks(regions, *tables)
    return native.sums(logits, [_term(logits, masks, *tables)], len(tables[0]))


def region_sums_backward(grad: torch.Tensor, logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits, masks = native.readable(logits), _masks(regions, *tables)
    return native.sums_backward(grad, logits, [_term(logits, masks, *tables)])


def _masks(
    regions: torch.Tensor, sample: Sequence[int], channel: Sequence[int], ids: Sequence[int], *tables: Any
) -> torch.Tensor:
    """Masks of the groups: words of bits of a label map, else the regions themselves."""
    id_counts = tables[0]
    return pack_labels(regions, sample, ids, id_counts) if id_counts else native.readable(regions)


def _term(
    logits: torch.Tensor,
    masks: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[int],
    id_counts: Sequence[int],
    activation: str,
) -> Any:
    return native.module().region_term(
        tuple(logits.shape[2:]),
        native.bits(masks) if id_counts else native.address(masks),
        planes_of(logits, sample, channel),
        list(range(len(sample))),
        activation == "sigmoid",
        False,
    )
