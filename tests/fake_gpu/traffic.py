# SPDX-License-Identifier: Apache-2.0
"""Which bytes our kernels move: the distinct 32-byte sectors of each array that a launch loads and stores.

What a launch touches again is served by a cache, and what it loads after it has stored it is not loaded from memory.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from rsuper_kernels.gpu import Argument
from tests.emulation.launchers import Interpreter, Pair
from tests.emulation.shim import Shim

SECTOR = 32


class Traffic:
    """Sectors of the arrays of one launch."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        storages = {storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}
        self.starts = np.array(sorted(start for start, size in storages.items() if size), dtype=np.uint64)
        self.sizes = np.array([storages[int(start)] for start in self.starts], dtype=np.uint64)
        self.loaded, self.stored = (
            [np.zeros(-(-int(size) // SECTOR), dtype=np.uint8) for size in self.sizes] for _ in range(2)
        )

    def touch(self, addresses: np.ndarray, store: bool) -> None:
        """Note elements that are accessed, by their addresses."""
        places = np.searchsorted(self.starts, addresses, side="right") - 1
        if (addresses - self.starts[places] >= self.sizes[places]).any():
            raise IndexError("a kernel touches memory outside of its arguments")
        for place in np.unique(places):
            sectors = (addresses[places == place] - self.starts[place]) // np.uint64(SECTOR)
            if store:
                self.stored[place][sectors] = 1
            else:
                self.loaded[place][sectors] |= 1 - self.stored[place][sectors]

    def nbytes(self) -> tuple[int, int]:
        """Read and written."""
        read, written = (sum(int(one.sum()) for one in sectors) for sectors in (self.loaded, self.stored))
        return SECTOR * read, SECTOR * written


class _ListeningShim(Shim):
    _listener = Path(__file__).with_name("traffic.cpp")
    traffic: Traffic

    def cuda(self, *launch: Any) -> None:
        try:
            super().cuda(*launch)
        finally:
            # the arrays of sectors do not outlive the launch
            self._library.traffic_clear()

    def _prepare(self, library: ctypes.CDLL, copies: dict[int, int]) -> None:
        self._library = library
        arrays = zip(self.traffic.starts, self.traffic.sizes, self.traffic.loaded, self.traffic.stored, strict=True)
        for start, size, loaded, stored in arrays:
            pointers = (ctypes.c_void_p(sectors.ctypes.data) for sectors in (loaded, stored))
            library.traffic_watch(ctypes.c_uint64(copies[int(start)]), ctypes.c_uint64(int(size)), *pointers)


class Metered(Pair):
    """The fast emulators, and what their last launch moved."""

    def __init__(self) -> None:
        super().__init__(Interpreter(), _ListeningShim())
        self._last = Traffic([])

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        self._last = Traffic([value for value in arguments.values() if isinstance(value, torch.Tensor)])
        with _listening(self._last):
            super().triton(kernel, grid, arguments, warps)

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        self._last = self._cuda.traffic = Traffic([a for a in arguments if isinstance(a, torch.Tensor)])
        super().cuda(source, kernel, grid, threads, arguments, shared)

    def traffic(self) -> tuple[int, int]:
        """Bytes that the last launch read and wrote."""
        return self._last.nbytes()


@contextlib.contextmanager
def _listening(traffic: Traffic) -> Iterator[None]:
    """Note what Triton's interpreter loads and stores."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    load, store, update, swap = (
        getattr(Builder, name)
        for name in ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")
    )

    def note(pointers: Any, mask: Any, *stores: bool) -> None:
        addresses = (
            pointers.data
            if mask is None
            else pointers.data[np.broadcast_to(mask.data.astype(bool), pointers.data.shape)]
        )
        for one in stores:
            traffic.touch(np.ravel(addresses).astype(np.uint64), one)

    def masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask, False)
        return load(self, pointers, mask, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask, True)
        return store(self, pointers, value, mask, *rest)

    def atomic_update(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask, False, True)
        return update(self, op, pointers, value, mask, *rest)

    def atomic_swap(self: Any, pointers: Any, *rest: Any) -> Any:
        note(pointers, None, False, True)
        return swap(self, pointers, *rest)

    methods = {
        "create_masked_load": masked_load,
        "create_masked_store": masked_store,
        "create_atomic_rmw": atomic_update,
        "create_atomic_cas": atomic_swap,
    }
    with mock.patch.multiple(Builder, **methods):
        yield
