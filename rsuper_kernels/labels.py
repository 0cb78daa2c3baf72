# SPDX-License-Identifier: Apache-2.0
"""Regions of a label map."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def label_mask(labels: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    """Where an integer label map holds one of `ids`, bool of the same shape; ids that do not occur match nothing."""
    held = torch.iinfo(labels.dtype)
    inside = torch.zeros_like(labels, dtype=torch.bool)
    # a region is a few labels: comparing with each is many times faster than torch.isin
    for label_id in ids:
        # torch would wrap an id that the dtype cannot hold: 300 would match 44 in a uint8 map
        if held.min <= label_id <= held.max:
            inside |= labels == label_id
    return inside
