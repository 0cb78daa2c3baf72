# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves a call: chosen per call, by tensor, with a reason for every refusal.

`impl="auto"` takes the fastest backend that can serve the tensor and falls back to "reference"; a backend that is asked
for by name and cannot run raises `BackendError` with the reason. On a GPU, "triton" is Triton and torch alone, while
"cuda" has kernels in CUDA C++ besides.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from rsuper_kernels import gpu

logger = logging.getLogger(__name__)

# In the order in which "auto" tries them.
IMPLEMENTATIONS = ("cuda", "triton", "cpu", "reference")

_registry: dict[str, dict[str, Backend]] = {}


class BackendError(RuntimeError):
    """The implementation that was asked for cannot serve this call; the message says why."""


@dataclass(frozen=True)
class Backend:
    """Where an op's implementation lives ("package.module:function") and on which device types it runs."""

    target: str
    devices: tuple[str, ...] | None = None
    """None: any device."""
    dtypes: tuple[torch.dtype, ...] | None = None
    """Of the op's first tensor; None: any dtype."""
    probe: str | None = None
    """ "package.module:function" that returns (available, reason); None: always available."""

    def refusal(self, device: torch.device, dtype: torch.dtype | None = None, emulated: bool = False) -> str | None:
        """Why this backend cannot serve tensors on `device` of `dtype` (None: any), or None if it can.

        emulated: an emulator runs its kernels on `device`.
        """
        if self.devices is not None and device.type not in self.devices and not emulated:
            return f"it runs on {' or '.join(self.devices)} tensors, and the tensor is on {device}"
        if self.dtypes is not None and dtype is not None and dtype not in self.dtypes:
            return f"it takes {', '.join(map(str, self.dtypes))}, and the tensor is {dtype}"
        if self.probe is not None:
            available, reason = load(self.probe)()
            if not available:
                return str(reason)
        return None


@cache
def load(target: str) -> Callable[..., Any]:
    """Import "package.module:function" at its first use."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def register(op: str, impl: str, backend: Backend) -> None:
    """Make a backend known for an op."""
    _registry.setdefault(op, {})[impl] = backend


def ops() -> list[str]:
    """The names of all registered ops, in alphabetical order."""
    return sorted(_registry)


def backend(op: str, impl: str) -> Backend | None:
    """What is registered for `op` as `impl`, whether it runs on this machine or not."""
    return _registry[op].get(impl)


def register_native(room: str, op: str, *, dtypes: tuple[torch.dtype, ...] | None = None) -> None:
    """Make ops/<room>/native.py:<op> known as the "cpu" backend of an op."""
    target = f"rsuper_kernels.ops.{room}.native:{op}"
    register(op, "cpu", Backend(target, ("cpu",), dtypes, "rsuper_kernels.native:available"))


def register_gpu(room: str, op: str, impl: str, *, dtypes: tuple[torch.dtype, ...] | None = None) -> None:
    """Make ops/<room>/triton_kernel.py:<op> known as the "triton" backend of an op, or .../cuda.py:<op> as "cuda"."""
    file = {"triton": "triton_kernel", "cuda": "cuda"}[impl]
    probe = f"rsuper_kernels.gpu:{impl}_available"
    register(op, impl, Backend(f"rsuper_kernels.ops.{room}.{file}:{op}", ("cuda",), dtypes, probe))


def register_torch(room: str, op: str) -> None:
    """Make the reference known as the "triton" backend of an op that Triton is the wrong tool for."""
    target, probe = f"rsuper_kernels.ops.{room}.reference:{op}", "rsuper_kernels.gpu:triton_available"
    register(op, "triton", Backend(target, ("cuda",), None, probe))


def refusal(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> str | None:
    """Why `impl` cannot serve `op` on `device` (and `dtype`, if given), or None if it can."""
    found = backend(op, impl)
    if found is None:
        return f"{op} has no {impl} implementation yet"
    return found.refusal(device, dtype, gpu.stands_in(impl, device))


@cache
def _log_once(message: str) -> None:
    logger.debug(message)


def serving(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    """The name of the implementation that `select` gives: for "cuda", that in Triton of an op that has none in C++."""
    if impl == "cuda" and backend(op, "cuda") is None and backend(op, "triton") is not None:
        return "triton"
    if impl != "auto":
        return impl
    for name in IMPLEMENTATIONS:
        # emulators serve those who ask for them
        reason = "it is emulated" if gpu.only_by_name(name, device) else refusal(op, name, device, dtype)
        if reason is None:
            return name
        _log_once(f"{op}: {name} not used: {reason}")
    raise BackendError(f"{op}: no implementation serves {device} tensors")


def select(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The function that serves `op` on `device`, for a first tensor of `dtype` (None: any).

    Raises:
        ValueError: an unknown `impl`.
        BackendError: an `impl` asked for by name that cannot run here.
    """
    check_impl(impl)
    name = serving(op, impl, device, dtype)
    reason = refusal(op, name, device, dtype)
    if reason is not None:
        raise BackendError(f'{op}: impl="{impl}" cannot run: {reason}')
    return load(_registry[op][name].target)


def check_impl(impl: str) -> None:
    """Raise ValueError unless `impl` is one of the implementations or "auto"."""
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl: expected one of {', '.join(('auto', *IMPLEMENTATIONS))}, got {impl!r}")
