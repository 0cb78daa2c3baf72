# SPDX-License-Identifier: Apache-2.0
"""How kernels reach a GPU. Importing this file needs neither Triton nor CuPy nor a GPU.

Every launch goes through one launcher, in the order of torch's current stream and without waiting for the device.
The tests replace the launcher by emulators (`stand_in`), which run the same calls on tensors of another device.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

Argument = torch.Tensor | int | float


Kernel = TypeVar("Kernel")


class Launcher(Protocol):
    """Runs kernels: a GPU, or an emulator of one."""

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        """Run a kernel of `triton.jit`; `arguments` holds all its parameters by name, constexprs among them."""

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        """Run an `extern "C"` kernel of csrc/cuda/<source>.cu.

        A tensor arrives as a pointer to its first element, an int as int64_t, a float as double; `shared` bytes are the
        dynamic shared memory of a block.
        """


@dataclass(frozen=True)
class _StandIn:
    launcher: Launcher
    device: str
    impls: tuple[str, ...]
    auto: bool


_stand_ins: list[_StandIn] = []


@contextlib.contextmanager
def stand_in(
    launcher: Launcher, impls: Sequence[str] = ("cuda", "triton"), device: str = "cpu", auto: bool = False
) -> Iterator[None]:
    """Within the context, `impls` also serve tensors on `device`, whose kernels `launcher` runs.

    auto: "auto" takes them, too, as on a GPU; without, they have to be asked for by name.
    """
    _stand_ins.append(_StandIn(launcher, device, tuple(impls), auto))
    try:
        yield
    finally:
        _stand_ins.pop()


def _emulators(impl: str, device: torch.device | None = None) -> list[_StandIn]:
    """Those that serve `impl`, on `device` or on any."""
    return [one for one in _stand_ins if impl in one.impls and (device is None or one.device == device.type)]


def stands_in(impl: str, device: torch.device) -> bool:
    """Whether an emulator serves `impl` on `device`."""
    return bool(_emulators(impl, device))


def only_by_name(impl: str, device: torch.device) -> bool:
    """Whether an emulator serves `impl` on `device`, and only those who ask for it by name."""
    return any(not one.auto for one in _emulators(impl, device))


def triton_available() -> tuple[bool, str]:
    """Whether Triton kernels can run here, and on what or why not."""
    if _emulators("triton"):
        return True, "an emulator"
    return _on_gpu(_missing("triton", "pip install triton"), "Triton")


def cuda_available() -> tuple[bool, str]:
    """Whether kernels in CUDA C++ can run here, and on what or why not."""
    if _emulators("cuda"):
        return True, "an emulator"
    reason = _missing("cupy", 'pip install "rsuper-kernels[gpu]"')
    if not reason and torch.version.hip:
        reason = "kernels in CUDA C++ need an NVIDIA GPU"
    return _on_gpu(reason, "CuPy")


def _on_gpu(reason: str, by: str) -> tuple[bool, str]:
    if not reason and not torch.cuda.is_available():
        reason = "torch finds no GPU"
    return (False, reason) if reason else (True, f"{by} {_module(by.lower()).__version__}")


@functools.cache  # the reason only: a cached exception would keep its traceback, and with it tensors, alive
def _missing(module: str, remedy: str) -> str:
    try:
        _module(module)
    except ModuleNotFoundError:
        return f"{module} is not installed ({remedy})"
    except ImportError as error:
        return f"{module} does not load: {error}"
    return ""


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


_register_limits: dict[str, Callable[[Mapping[str, Any]], int]] = {}


def registers(most: int | Callable[[Mapping[str, Any]], int]) -> Callable[[Kernel], Kernel]:
    """Decorates a kernel of `triton.jit` whose threads get at most so many registers on an NVIDIA GPU.

    With a limit of its own, which may depend on the arguments, ptxas does not move numbers to memory in order to fit
    one more block.
    """

    def limited(kernel: Kernel) -> Kernel:
        _register_limits[_name(kernel)] = most if callable(most) else lambda _: most
        return kernel

    return limited


def compile_options(kernel: Any, arguments: Mapping[str, Any], warps: int, amd: bool) -> dict[str, int]:
    """What Triton is told about a kernel beside its arguments."""
    most = _register_limits.get(_name(kernel))
    return {"num_warps": warps} if most is None or amd else {"num_warps": warps, "maxnreg": most(arguments)}


def _name(kernel: Any) -> str:
    return f"{kernel.fn.__module__}:{kernel.fn.__name__}"


def launch_triton(kernel: Any, grid: tuple[int, ...], warps: int = 4, **arguments: Any) -> None:
    """Run a Triton kernel over `grid`; nothing where the grid is empty. See `Launcher.triton`."""
    if 0 not in grid:
        _launcher().triton(kernel, grid, arguments, warps)


def launch_cuda(
    source: str, kernel: str, grid: tuple[int, ...], threads: int, *arguments: Argument, shared: int = 0
) -> None:
    """Run a kernel of csrc/cuda/<source>.cu over `grid`; nothing where it is empty. See `Launcher.cuda`."""
    if 0 not in grid:
        _launcher().cuda(source, kernel, grid, threads, arguments, shared)


def _launcher() -> Launcher:
    return _stand_ins[-1].launcher if _stand_ins else _Device()


class _Device:
    """The GPU that the arguments are on, and torch's current stream there."""

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        with torch.cuda.device(_device_of(arguments.values())):
            amd = torch.version.hip is not None
            kernel[grid](**arguments, **compile_options(kernel, arguments, warps, amd))

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        device = _device_of(arguments)
        cupy = _module("cupy")
        with torch.cuda.device(device), cupy.cuda.Device(device.index):
            function = _compiled(source, device.index).get_function(kernel)
            with _cupy_stream(cupy, torch.cuda.current_stream(device).cuda_stream, device.index):
                function(grid, (threads,), tuple(as_scalar(argument) for argument in arguments), shared_mem=shared)


@dataclass(frozen=True)
class _Stream:
    """A stream of torch as CuPy 14 takes it; before torch 2.9 its own streams do not say it."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def _cupy_stream(cupy: Any, address: int, device: int) -> Any:
    """CuPy's view of a stream, current within its context."""
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Stream(address))
    return cupy.cuda.ExternalStream(address, device)


def as_scalar(argument: Argument) -> Any:
    """What a kernel in CUDA C++ receives: an address, an int64_t or a double."""
    if isinstance(argument, torch.Tensor):
        return np.uintp(argument.data_ptr())
    return np.float64(argument) if isinstance(argument, float) else np.int64(argument)


def _device_of(arguments: Any) -> torch.device:
    device: torch.device = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
    return device


# Without contraction: which voxels a ball holds is decided in double, by the same roundings as on the CPU. CuPy adds
# --ftz=true, by which subnormal floats count as 0; NVRTC of CUDA 12 refuses it twice. CMakeLists.txt has all three.
COMPILE_OPTIONS = ("--std=c++17", "--fmad=false")


def sources() -> Path:
    """The folder csrc, in a checkout or in an installed package."""
    here = Path(__file__).resolve().parent
    return next(folder for folder in (here / "csrc", here.parent / "csrc") if folder.is_dir())


@functools.cache
def digest(source: str) -> str:
    """What tells kernels of these sources from those of others; CMakeLists.txt makes the same."""
    files = [sources() / "cuda" / f"{source}.cu", *sorted((sources() / "include" / "rsuper").glob("*.h"))]
    each = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256(each.encode()).hexdigest()[:16]


def built(source: str) -> Path | None:
    """The kernels of a source if they were compiled when the package was (RSUPER_CUDA=1), and from the same text."""
    path = Path(__file__).resolve().parent / "kernels" / f"{source}-{digest(source)}.fatbin"
    return path if path.is_file() else None


# Of what is built: machine code for this and later ones, and what drivers translate for those after them.
_BUILT_FOR = (8, 0)


@functools.cache
def _compiled(source: str, device: int) -> Any:
    """A source as CuPy's module on a device; NVRTC compiles it once for each kind of device, CuPy keeps it on disk."""
    raw_module = _module("cupy").RawModule
    path = built(source)
    if path is not None and torch.cuda.get_device_capability(device) >= _BUILT_FOR:
        return raw_module(path=str(path))
    code = (sources() / "cuda" / f"{source}.cu").read_text()
    # the name makes CuPy compile anew when a header has changed, which it does not look at
    options = (*COMPILE_OPTIONS, f"-I{sources() / 'include'}", f"-DRSUPER_DIGEST={digest(source)}")
    return raw_module(code=code, options=options)


@dataclass(frozen=True)
class _Upload:
    """A table on its way to a device."""

    table: torch.Tensor
    stream: Any
    """Whose turn the copy waits for; None on the CPU."""
    done: Any


@functools.lru_cache(maxsize=512)
def _uploaded(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> _Upload:
    table = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return _Upload(table.to(device), None, None)
    if torch.cuda.is_current_stream_capturing():
        # the copy would wait for the graph, and this table is for every later call
        raise RuntimeError("a CUDA graph is captured for findings that no call before had: warm up with them first")
    stream = torch.cuda.current_stream(device)
    # from pinned memory the copy does not wait; torch keeps that memory until the copy is done
    return _Upload(table.pin_memory().to(device, non_blocking=True), stream, stream.record_event())


_captured: list[torch.Tensor] = []


def table(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers that the host knows, on a device; equal tables are shared, so do not write to one.

    The host does not wait. While a CUDA graph is captured, tables of an earlier call with equal numbers are used, and
    kept for good: warm up with the same findings first.

    Raises:
        RuntimeError: a CUDA graph is captured, and no call before had these numbers.
    """
    upload = _uploaded(tuple(values), dtype, device)
    if upload.stream is None:
        return upload.table
    stream = torch.cuda.current_stream(device)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(upload.table)
    elif stream != upload.stream:
        stream.wait_event(upload.done)
        upload.table.record_stream(stream)
    return upload.table


@functools.lru_cache(maxsize=64)
def _counters_of(device: torch.device, stream: int) -> torch.Tensor:
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)


# More planes and groups than any batch has.
COUNTERS = 1 << 16


def counters(device: torch.device) -> torch.Tensor:
    """Int32 zeros (COUNTERS,) for kernels whose programs count how many of them are done.

    They belong to the current stream, where kernels follow each other, and each kernel leaves zeros behind.
    """
    if device.type != "cuda":
        return _counters_of(device, 0)
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(COUNTERS, dtype=torch.int32, device=device)
    return _counters_of(device, torch.cuda.current_stream(device).cuda_stream)
