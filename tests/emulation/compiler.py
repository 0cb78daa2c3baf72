# SPDX-License-Identifier: Apache-2.0
"""Compiles for GPUs that are not here: Triton kernels in a process without TRITON_INTERPRET, CUDA C++ by nvcc.

No driver and no GPU is needed. Triton keeps what it compiled in its own cache, and nvcc's output is kept beside it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rsuper_kernels import gpu

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Pointer:
    """A tensor as far as the compiler looks at it."""

    dtype: torch.dtype
    aligned: bool
    """Its address is a multiple of 16."""

    def data_ptr(self) -> int:
        return 0 if self.aligned else self.dtype.itemsize

    def ptr_range(self) -> int:
        """Bytes that AMD's compiler may assume: more than its 32-bit offsets reach, which is the general case."""
        return 1 << 32


@dataclass(frozen=True)
class Compiled:
    """A kernel of Triton for one target."""

    name: str
    text: str
    """PTX, or AMD's assembly."""
    binary: bytes
    shared: int
    warps: int
    parameters: tuple[str, ...]
    """The parameters that the machine code has, in order; compile-time constants are not among them."""


class CompileError(RuntimeError):
    """The compiler refused a kernel; the message is its own."""


class _Worker:
    """The process that compiles Triton kernels. Requests and answers are pickles, each with its length before it."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment.setdefault("TRITON_CACHE_DIR", str(cache_folder() / "triton"))
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.emulation.compile_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )
        atexit.register(self.stop)

    def ask(self, request: dict[str, Any]) -> Any:
        send(self._process.stdin, request)
        answer = receive(self._process.stdout)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise CompileError(f"the compiling process ended with {self._process.wait()}")
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def send(stream: Any, message: Any) -> None:
    """Write a pickle and its length."""
    body = pickle.dumps(message)
    stream.write(struct.pack("<Q", len(body)) + body)
    stream.flush()


def receive(stream: Any) -> Any:
    """Read a pickle; None where the other side has ended."""
    head = stream.read(8)
    return pickle.loads(stream.read(struct.unpack("<Q", head)[0])) if len(head) == 8 else None


@functools.cache
def _worker() -> _Worker:
    return _Worker()


def require(name: str) -> None:
    """Raise ImportError, with the reason, where "triton" or "nvcc" is missing."""
    if name == "nvcc":
        nvcc()
    elif importlib.util.find_spec("triton") is None:
        raise ImportError("Triton kernels cannot be compiled: triton is not installed (pip install triton)")


def compile_triton(
    kernel: str, arguments: Mapping[str, Any], warps: int = 4, target: str | int = 90, binary: bool = False
) -> Compiled:
    """Compile a kernel "module:function" for a launch with these arguments, as Triton's JIT would.

    arguments: of all parameters, by name: a tensor or `Pointer`, a number, None, or the value of a constexpr.
    target: 80, 90, 100, ... of NVIDIA, or "gfx942", ... of AMD.
    binary: whether the machine code is needed, too, which takes an assembler longer than the rest.
    """
    require("triton")
    described = {name: _described(value) for name, value in arguments.items()}
    return _compile_triton(kernel, tuple(described.items()), warps, target, binary)


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Pointer(value.dtype, value.data_ptr() % 16 == 0)
    return getattr(value, "value", value)  # of a tl.constexpr


@functools.lru_cache(maxsize=1024)
def _compile_triton(
    kernel: str, arguments: tuple[tuple[str, Any], ...], warps: int, target: str | int, binary: bool
) -> Compiled:
    fields = _worker().ask(
        {"kernel": kernel, "arguments": dict(arguments), "warps": warps, "target": target, "binary": binary}
    )
    return Compiled(**fields)


def nvcc() -> str:
    """The path of nvcc; ImportError where it is missing."""
    found = shutil.which(os.environ.get("NVCC", "nvcc"))
    if found is None:
        raise ImportError("kernels in CUDA C++ cannot be compiled: nvcc is not on the PATH")
    return found


@functools.cache
def _nvcc_version() -> str:
    return subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True).stdout


@functools.lru_cache(maxsize=256)
def compile_cuda(path: Path, target: int = 90, output: str = "ptx", verbose: bool = False) -> tuple[bytes, str]:
    """Compile a source of CUDA C++ with the options of the package; (output, what the assembler said).

    output: "ptx" or "cubin".
    """
    options = [*gpu.COMPILE_OPTIONS, f"-I{gpu.sources() / 'include'}", f"--{output}", f"-arch=sm_{target}"]
    options.append("--ftz=true")  # CuPy adds it
    if verbose:
        options.append("-Xptxas=-v")
    key = hashlib.sha256(repr((_nvcc_version(), options)).encode())
    for file in (path, *sorted((gpu.sources() / "include").rglob("*.h"))):
        key.update(file.read_bytes())
    kept = cache_folder() / f"{path.stem}-{key.hexdigest()[:32]}.{output}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            made = Path(folder) / kept.name
            run = subprocess.run([nvcc(), *options, str(path), "-o", str(made)], capture_output=True, text=True)
            if run.returncode:
                raise CompileError(f"nvcc, {path.name}, sm_{target}:\n{run.stderr}")
            log = Path(folder) / "log"
            log.write_text(run.stderr)
            log.replace(kept.with_suffix(f".{output}.log"))
            made.replace(kept)
    return kept.read_bytes(), kept.with_suffix(f".{output}.log").read_text()


@functools.cache
def cache_folder() -> Path:
    """Where compiled kernels are kept between processes of this user."""
    folder = Path(tempfile.gettempdir()) / f"rsuper-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ImportError(f"{folder} belongs to another user")
    return folder
