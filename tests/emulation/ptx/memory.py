# SPDX-License-Identifier: Apache-2.0
"""Memory: the host's own under the tensors of a launch, and the shared and local memory that a block or lane has.

Nothing is read or written before its bounds and its alignment are checked.
"""

from __future__ import annotations

import bisect
import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

POISON = 0xFF  # NaN in every float type, -1 in every signed one


class Fault(RuntimeError):
    """An access that the device would not survive, or that would read another's data."""

    def __init__(self, reason: str, lane: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lane = lane
        """Among the lanes that made the access."""


def span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses [begin, end) that a tensor's elements lie in."""
    if tensor.numel() == 0:
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _type(width: int) -> Any:
    return np.dtype(f"u{width}") if width in (1, 2, 4, 8) else np.dtype(f"V{width}")


class _Cells:
    """Bytes as elements of every width."""

    def __init__(self, raw: np.ndarray) -> None:
        self._raw = raw
        self._views: dict[Any, np.ndarray] = {}

    def view(self, width: int) -> np.ndarray:
        if width not in self._views:
            whole = len(self._raw) // width * width
            self._views[width] = self._raw[:whole].view(_type(width))
        return self._views[width]


class Global:
    """The tensors of a launch, at their own addresses."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self.spans: list[tuple[int, int]] = []
        for begin, end in sorted(span for span in spans if span[0] < span[1]):
            if self.spans and begin < self.spans[-1][1]:
                self.spans[-1] = (self.spans[-1][0], max(end, self.spans[-1][1]))
            else:
                self.spans.append((begin, end))
        self._begins = [begin for begin, _ in self.spans]
        # One array from the first byte to the last; only checked addresses are ever looked at.
        self.base = self._begins[0] // 16 * 16 if self.spans else 0
        size = (self.spans[-1][1] if self.spans else 0) - self.base
        size = -(-size // 16) * 16
        self._cells = _Cells(
            np.frombuffer((ctypes.c_uint8 * size).from_address(self.base), np.uint8) if size else np.zeros(0, np.uint8)
        )

    def find(self, where: Any, lanes: Any, width: int) -> tuple[np.ndarray, Any]:
        """The elements of a width, and for each address the index of its own."""
        _check_alignment(where, width)
        near = max(bisect.bisect_right(self._begins, int(where[0])) - 1, 0) if self.spans else 0
        begin, end = self.spans[near] if self.spans else (0, 0)
        # an address below the span wraps around to a very large one
        if end - begin < width or not (where - np.uint64(begin) <= np.uint64(end - begin - width)).all():
            self._check(where, width)
        return self._cells.view(width), (where - np.uint64(self.base)).astype(np.int64) // width

    def _check(self, where: Any, width: int) -> None:
        inside = np.zeros(len(where), bool)
        for begin, end in self.spans:
            if end - begin >= width:
                inside |= where - np.uint64(begin) <= np.uint64(end - begin - width)
        if not inside.all():
            lane = int(np.argmin(inside))
            raise Fault(
                f"{width} bytes at {int(where[lane]):#x} are in no tensor of the launch{self._hint(int(where[lane]))}",
                lane,
            )

    def _hint(self, address: int) -> str:
        for begin, end in self.spans:
            if begin <= address < end:
                return f": the tensor ends {end - address} bytes further on"
        distances = [
            (abs(address - (end if address >= end else begin)), begin, end, address >= end) for begin, end in self.spans
        ]
        if not distances:
            return ""
        distance, begin, end, above = min(distances)
        return f": {distance} bytes {'behind the end' if above else 'before the begin'} of one of {end - begin} bytes"


class Banked:
    """Memory of which each bank (a block's shared, a lane's local memory) has its own copy."""

    def __init__(self, name: str, bank_of_lane: np.ndarray, size: int) -> None:
        self.size = size
        self._name = name
        self.pitch = -(-size // 16) * 16
        self._begin = bank_of_lane.astype(np.int64) * self.pitch
        self.bytes = (int(bank_of_lane.max()) + 1) * self.pitch
        self._cells = _Cells(np.full(self.bytes, POISON, np.uint8))

    def find(self, where: Any, lanes: Any, width: int) -> tuple[np.ndarray, Any]:
        """The elements of a width, and for each address the index of its own."""
        _check_alignment(where, width)
        fits = where <= np.uint64(self.size - width) if self.size >= width else np.zeros(len(where), bool)
        if not fits.all():
            lane = int(np.argmin(fits))
            raise Fault(f"{width} bytes at {int(where[lane]):#x} of {self.size} bytes of {self._name} memory", lane)
        begin = self._begin if lanes is None else self._begin[lanes]
        return self._cells.view(width), (where.astype(np.int64) + begin) // width


def _check_alignment(where: Any, width: int) -> None:
    if width > 1:
        off = where & np.uint64(width - 1)
        if off.any():
            lane = int(np.argmax(off != 0))
            raise Fault(f"{width} bytes at {int(where[lane]):#x}, which is no multiple of {width}", lane)
