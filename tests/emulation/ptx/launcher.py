# SPDX-License-Identifier: Apache-2.0
"""A GPU, as far as `rsuper_kernels.gpu` is concerned, that runs emitted PTX on tensors in the CPU's memory."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsuper_kernels import gpu
from tests.emulation import compiler
from tests.emulation.ptx.machine import Kernel, Launch, Machine, PtxError
from tests.emulation.ptx.memory import Global, span
from tests.emulation.ptx.parser import parse
from tests.emulation.ptx.races import GlobalWatch

# Lanes that run at once: as many as make numpy's own overhead small.
_LANES = 4096


@functools.lru_cache(maxsize=512)
def kernel_of(text: str, entry: str | None = None) -> Kernel:
    """The kernel in a module of PTX."""
    return Kernel(parse(text, entry))


def run(
    kernel: Kernel,
    grid: tuple[int, ...],
    threads: int,
    arguments: Sequence[Any],
    shared: int = 0,
    *,
    seed: int | None = None,
    races: bool = True,
) -> None:
    """Run a kernel over a grid.

    arguments: tensors, and numbers as the kernel's own parameters have them: by their sizes.
    shared: bytes of dynamic shared memory of a block.
    seed: draws the order of blocks and of atomics; None: from the first to the last.
    races: whether accesses that nothing orders are an error.
    """
    x, y, z = (*grid, 1, 1)[:3]
    constants = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in kernel.decoder.constants.values()]
    memory = Global([span(argument) for argument in arguments if isinstance(argument, torch.Tensor)] + constants)
    width = -(-threads // 32) * 32
    random = None if seed is None else np.random.default_rng(seed)
    launch = Launch(
        kernel=kernel,
        grid=(x, y, z),
        threads=threads,
        parameters=_packed(kernel, arguments),
        memory=memory,
        shared_bytes=shared,
        random=random,
        watch=GlobalWatch(memory, kernel.grain, width) if races else None,
    )
    blocks = np.arange(x * y * z) if random is None else random.permutation(x * y * z)
    at_once = max(_LANES // width, 1)
    with np.errstate(all="ignore"):
        for begin in range(0, len(blocks), at_once):
            Machine(launch, blocks[begin : begin + at_once]).run()


def _packed(kernel: Kernel, arguments: Sequence[Any]) -> bytes:
    parameters = kernel.program.parameters
    if len(arguments) > len(parameters):
        raise PtxError(f"{kernel.program.name} takes {len(parameters)} arguments, and not {len(arguments)}")
    packed = bytearray(kernel.decoder.parameter_bytes)
    for (name, size), argument in zip(parameters, arguments, strict=False):
        if isinstance(argument, torch.Tensor):
            raw = struct.pack("<Q", argument.data_ptr())
        elif isinstance(argument, float):
            raw = struct.pack("<d" if size == 8 else "<f", argument)
        else:
            raw = (int(argument) % (1 << 8 * size)).to_bytes(size, "little")
        if len(raw) != size:
            raise PtxError(f"{name} has {size} bytes, and its argument {len(raw)}")
        at = kernel.decoder.parameters[name]
        packed[at : at + size] = raw
    return bytes(packed)  # Triton's scratch memory, which comes last, stays null


class Ptx:
    """Runs the PTX that Triton and nvcc emit for a GPU of `target`.

    seed, races: see `run`.

    Raises:
        ImportError: a compiler of `compilers` is not on this machine.
    """

    compilers: tuple[str, ...] = ("triton",)

    def __init__(self, target: int = 90, *, seed: int | None = None, races: bool = True) -> None:
        for name in self.compilers:
            compiler.require(name)
        self._target, self._seed, self._races = target, seed, races

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        """See `rsuper_kernels.gpu.Launcher.triton`."""
        function = kernel
        while not hasattr(function, "__code__"):
            function = function.fn  # of the decorator that interprets, too
        compiled = compiler.compile_triton(
            f"{function.__module__}:{function.__qualname__}", arguments, warps, self._target
        )
        values = [arguments[name] for name in compiled.parameters]
        self._run(compiled.text, compiled.name, grid, 32 * compiled.warps, values, compiled.shared)

    def cuda(
        self,
        source: str,
        kernel: str,
        grid: tuple[int, ...],
        threads: int,
        arguments: Sequence[gpu.Argument],
        shared: int,
    ) -> None:
        """See `rsuper_kernels.gpu.Launcher.cuda`."""
        self.source(gpu.sources() / "cuda" / f"{source}.cu", kernel, grid, threads, arguments, shared)

    def source(
        self,
        path: Path,
        kernel: str,
        grid: tuple[int, ...],
        threads: int,
        arguments: Sequence[gpu.Argument],
        shared: int = 0,
    ) -> None:
        """Run a kernel of a source of CUDA C++ anywhere."""
        text, _ = compiler.compile_cuda(path, self._target)
        self._run(text.decode(), kernel, grid, threads, arguments, shared)

    def _run(
        self, text: str, entry: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Any], shared: int
    ) -> None:
        kernel = kernel_of(text, entry)
        run(kernel, grid, threads, arguments, shared, seed=self._seed, races=self._races)


class NvccPtx(Ptx):
    """The same where nvcc is what has to be there."""

    compilers = ("nvcc",)
