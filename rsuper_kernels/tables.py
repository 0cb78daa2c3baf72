# SPDX-License-Identifier: Apache-2.0
"""Lists of lists in op schemas, which hold flat lists only: the values one after another, and how many each list has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def flatten(lists: Sequence[Sequence[T]]) -> tuple[list[T], list[int]]:
    """Values and counts of some lists."""
    return [value for values in lists for value in values], [len(values) for values in lists]


def split(values: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """The lists again."""
    ends = list(itertools.accumulate(counts))
    return [list(values[end - count : end]) for end, count in zip(ends, counts, strict=True)]
