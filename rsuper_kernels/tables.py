# SPDX-License-Identifier: Apache-2.0
"""Tables of op schemas, which hold flat lists only: a list of lists is its values and the length of each list."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def flatten(lists: Sequence[Sequence[T]]) -> tuple[list[T], list[int]]:
    """Values and counts of some lists."""
    return [value for values in lists for value in values], [len(values) for values in lists]


def split(values: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """The lists again."""
    ends = list(itertools.accumulate(counts))
    return [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def take(tensor: torch.Tensor, rows: Iterable[int]) -> torch.Tensor:
    """Rows of a tensor that the host names; indexing with a list would wait for the device to take it."""
    chosen = [tensor[row] for row in rows]
    return torch.stack(chosen) if chosen else tensor[:0]


def planes_of(logits: torch.Tensor, sample: Sequence[int], channel: Sequence[int]) -> list[int]:
    """Rows of logits (B, C, ...) taken as (B * C, ...)."""
    return [b * logits.shape[1] + c for b, c in zip(sample, channel, strict=True)]


def take_planes(logits: torch.Tensor, sample: Sequence[int], channel: Sequence[int]) -> torch.Tensor:
    """Planes (P, ...) of logits (B, C, ...)."""
    return take(logits.flatten(0, 1), planes_of(logits, sample, channel))


def every_plane(logits: torch.Tensor) -> tuple[list[int], list[int]]:
    """Sample and channel of every plane of logits (B, C, ...), channels fastest."""
    batch, channels = logits.shape[:2]
    return [b for b in range(batch) for _ in range(channels)], list(range(channels)) * batch


def groups_of_planes(of_group: Sequence[int], planes: Sequence[int]) -> list[int]:
    """A table for kernels: some planes; where in the table the groups of each begin, and end; the groups, in order."""
    groups: dict[int, list[int]] = {plane: [] for plane in planes}
    for group, plane in enumerate(of_group):
        groups[plane].append(group)
    begins = itertools.accumulate((len(some) for some in groups.values()), initial=2 * len(planes) + 1)
    return [*planes, *begins, *itertools.chain(*groups.values())]
