# SPDX-License-Identifier: Apache-2.0
"""The compiled module: whether it is there, and how tensors are handed to it. Importing this file works without it."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

# As in csrc/include/rsuper/chunks.h.
_TYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.uint8: 3,
    torch.bool: 3,
    torch.int16: 4,
    torch.int32: 5,
    torch.int64: 6,
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def module() -> ModuleType:
    """The compiled module; raises ImportError where `available()` says so."""
    return importlib.import_module("rsuper_kernels._C")


def available() -> tuple[bool, str]:
    """Whether compiled kernels can run here, and what they run on or why they cannot."""
    reason = _why_not()
    if reason:
        return False, reason
    return True, f"compiled module {'with' if module().openmp() else 'without'} OpenMP"


@functools.cache  # the reason only: a cached exception would keep its traceback, and with it tensors, alive
def _why_not() -> str:
    try:
        module()
    except ModuleNotFoundError:
        return "the compiled module was not built (it needs a C++ compiler and the Python headers at install time)"
    except ImportError as error:
        return f"the compiled module does not load: {error}"
    return ""


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy in a dtype that the compiled module reads."""
    if tensor.dtype == torch.int8:
        tensor = tensor.to(torch.int16)
    elif tensor.dtype not in _TYPES:
        tensor = tensor.to(torch.float32)
    return tensor.contiguous()


def address(tensor: torch.Tensor | None) -> tuple[int, int]:
    """Address and type of a `readable` tensor; (0, 0) for None. The caller keeps the tensor alive."""
    return (0, 0) if tensor is None else (tensor.data_ptr(), _TYPES[tensor.dtype])


def threads() -> int:
    """As many threads as torch uses."""
    return torch.get_num_threads()
