# SPDX-License-Identifier: Apache-2.0
"""The compiled module: whether it is there, and how tensors are handed to it. Importing this file works without it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

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
_BITS = 7
# Integers that are read as wider ones.
_WIDER = {
    torch.int8: torch.int16,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Bytes; smaller blocks come from the heap, which recycles them by itself.
_SMALLEST_RECYCLED = 1 << 16


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


def reads(dtype: torch.dtype) -> bool:
    """Whether the compiled module reads a dtype as it is."""
    return dtype in _TYPES


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy in a dtype that the compiled module reads."""
    if not reads(tensor.dtype):
        tensor = tensor.to(_WIDER.get(tensor.dtype, torch.float32))
    return tensor.contiguous()


def address(tensor: torch.Tensor | None) -> tuple[int, int]:
    """Address and type of a `readable` tensor; (0, 0) for None. The caller keeps the tensor alive."""
    return (0, 0) if tensor is None else (tensor.data_ptr(), _TYPES[tensor.dtype])


def bits(words: torch.Tensor) -> tuple[int, int]:
    """Address and type of the words of contiguous bit masks. The caller keeps the tensor alive."""
    return words.data_ptr(), _BITS


def holds_binary(tensor: torch.Tensor) -> bool:
    """Whether a tensor on the CPU is known to hold 0 and 1 only; without the compiled module nothing is known."""
    if not available()[0] or not reads(tensor.dtype) or not tensor.is_contiguous():
        return False
    return bool(module().holds_binary(address(tensor), tensor.numel(), threads()))


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An uninitialised contiguous tensor on the CPU, if it is large in memory that an earlier one of its size left.

    Fresh memory comes from the system page by page, which takes several times longer than writing to it. What is kept
    and used stays below what was in use at once and a quarter more; `module().give_back()` frees what is kept.
    """
    shape = torch.Size(shape)
    size = shape.numel() * dtype.itemsize
    if size < _SMALLEST_RECYCLED:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(module().recycled(size)).view(dtype).view(shape)


def sums(logits: torch.Tensor, terms: Sequence[Any], outputs: int) -> torch.Tensor:
    """What the terms (made by `module().region_term` and its like) amount to for readable logits (B, C, D, H, W)."""
    out = torch.empty(outputs, dtype=torch.float32)
    planes = logits.shape[0] * logits.shape[1]
    module().sums(address(logits), planes, tuple(logits.shape[2:]), list(terms), out.data_ptr(), threads())
    return out


def sums_backward(grad: torch.Tensor, logits: torch.Tensor, terms: Sequence[Any]) -> torch.Tensor:
    """The gradient of readable logits (B, C, D, H, W), in their dtype."""
    out, grad = empty(logits.shape, logits.dtype), grad.float().contiguous()
    planes, shape = logits.shape[0] * logits.shape[1], tuple(logits.shape[2:])
    module().sums_backward(address(logits), planes, shape, list(terms), grad.data_ptr(), out.data_ptr(), threads())
    return out


def threads() -> int:
    """As many threads as torch uses."""
    return torch.get_num_threads()
