# SPDX-License-Identifier: Apache-2.0
"""Kernels in CUDA C++, compiled by the host's compiler with shim.h in place of CUDA and run on tensors on the CPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rsuper_kernels import gpu
from rsuper_kernels.gpu import Argument
from tests.emulation.compiler import cache_folder

_HEADER = Path(__file__).with_name("shim.h")
_FLAGS = (
    *("-std=c++17", "-O1", "-fPIC"),
    "-ffp-contract=off",  # as gpu.COMPILE_OPTIONS
    "-U_FORTIFY_SOURCE",  # jumps from stack to stack look like errors to it
    *("-Wall", "-Werror", "-Wno-unused", "-Wno-unknown-pragmas"),
)
_GUARD = 1 << 24  # bytes; also an index of the wrong row ends in it
_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(')
_DYNAMIC = re.compile(r"extern __shared__ ([\w ]+?) (\w+)\[\];")


class Shim:
    """Runs blocks and threads in an order that changes from launch to launch, the same in every run of a process."""

    def __init__(self, folder: Path | None = None) -> None:
        if sys.platform != "linux":
            raise ImportError("the emulator of CUDA C++ needs Linux")
        if shutil.which("g++") is None:
            raise ImportError("the emulator of CUDA C++ needs g++")
        self._folder = folder
        self._seeds = itertools.count(1)

    _listener: Path | None = None
    """A C++ source, linked to the kernels, that their accesses to memory are announced to, as to ThreadSanitizer."""

    def _prepare(self, library: ctypes.CDLL, copies: dict[int, int]) -> None:
        """Called before a launch with the addresses of all storages, and of the copies that the kernel works on."""

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        """See `gpu.Launcher.cuda`. Raises RuntimeError for what a GPU might not forgive."""
        folder = self._folder or gpu.sources() / "cuda"
        path = folder / f"{source}.cu"
        library = _library(path, path.read_text(), self._listener)
        function = getattr(library, f"launch_{kernel}")
        function.restype = ctypes.c_char_p
        seed = next(self._seeds)
        guarded: dict[int, _Guarded] = {}
        words = [_word(argument, guarded) for argument in arguments]
        self._prepare(library, {original: copy.address for original, copy in guarded.items()})
        error = function(
            (ctypes.c_int64 * 3)(*grid, *[1] * (3 - len(grid))),
            ctypes.c_int64(threads),
            ctypes.c_int64(shared),
            ctypes.c_int64(seed),
            (ctypes.c_uint64 * len(words))(*words),
            ctypes.c_int64(len(words)),
        )
        intact = [copy.close() for copy in guarded.values()]
        if error:
            raise RuntimeError(f"{kernel}: {error.decode()}; seed {seed}")
        if not all(intact):
            raise RuntimeError(f"{kernel}: a write behind the end of an array; seed {seed}")


def _word(argument: Argument, guarded: dict[int, _Guarded]) -> int:
    """The eight bytes that a kernel receives; tensors of one storage share its guarded copy."""
    if not isinstance(argument, torch.Tensor):
        return struct.unpack("<Q", struct.pack("<d" if isinstance(argument, float) else "<q", argument))[0]
    storage = argument.untyped_storage()
    if storage.nbytes() == 0:
        return 0
    start = storage.data_ptr()
    if start not in guarded:
        guarded[start] = _Guarded(start, storage.nbytes())
    return guarded[start].address + argument.data_ptr() - start


class _Guarded:
    """A copy of some memory between two stretches that nobody may touch; it ends at the second one, to 16 bytes."""

    def __init__(self, original: int, size: int) -> None:
        self._original, self._size = original, size
        self._slack = bytes([0xA5] * (-size % 16))
        length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, length + 2 * _GUARD)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.address = start + _GUARD + length - size - len(self._slack)
        ctypes.memmove(self.address, original, size)
        ctypes.memmove(self.address + size, self._slack, len(self._slack))
        for guard in (start, start + _GUARD + length):
            _libc().mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(_GUARD), 0)

    def close(self) -> bool:
        """Copy back; False where bytes behind the end have changed."""
        ctypes.memmove(self._original, self.address, self._size)
        return ctypes.string_at(self.address + self._size, len(self._slack)) == self._slack


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)


@functools.cache
def _library(path: Path, code: str, listener: Path | None = None) -> ctypes.CDLL:
    """A source as a library with a function launch_<kernel> for each kernel; compiled once for each of its contents."""
    kernels = _KERNEL.findall(code)
    code = _DYNAMIC.sub(r"\1* \2 = static_cast<\1*>(shim::dynamic_memory());", code)
    launchers = [
        f'extern "C" SHIM_EXPORT const char* launch_{kernel}(const std::int64_t* grid, std::int64_t threads, '
        "std::int64_t shared, std::int64_t seed, const std::uint64_t* arguments, std::int64_t count) "
        f"{{ return shim::launch({kernel}, grid, threads, shared, seed, arguments, count); }}"
        for kernel in kernels
    ]
    text = "\n".join([f'#include "{_HEADER}"', f'#line 1 "{path}"', code, *launchers, ""])
    headers = sorted((gpu.sources() / "include" / "rsuper").glob("*.h"))
    listened = [] if listener is None else [listener]
    contents = [text, *_FLAGS, *(file.read_text() for file in (_HEADER, *headers, *listened))]
    name = hashlib.sha256("\0".join(contents).encode()).hexdigest()[:24]
    library = cache_folder() / f"{path.stem}-{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as work:
            (Path(work) / "source.cpp").write_text(text)
            include = f"-I{gpu.sources() / 'include'}"
            # hidden: each library has a machine of its own
            own = ["-c", "-fvisibility=hidden", *(["-fsanitize=thread"] if listened else [])]
            command = ["g++", *_FLAGS, *own, include, f"-I{path.parent}", "-o", f"{work}/source.o"]
            subprocess.run([*command, f"{work}/source.cpp"], check=True)
            command = ["g++", *_FLAGS, "-shared", f"{work}/source.o", *listened, "-o", f"{work}/out.so"]
            subprocess.run(command, check=True)
            os.replace(f"{work}/out.so", library)  # whole, also for those who compile it at the same time
    return ctypes.CDLL(str(library))
