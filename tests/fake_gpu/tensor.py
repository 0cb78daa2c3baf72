# SPDX-License-Identifier: Apache-2.0
"""Tensors that say they are on cuda:0 and keep their numbers in a tensor on the CPU."""

from __future__ import annotations

from typing import Any

import torch


class FakeTensor(torch.Tensor):
    """It has no memory of its own: `data_ptr` raises, so whoever reaches behind the launcher's back is found."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> FakeTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="cuda:0",
        )
        self.held = held
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of the fake device is used after the device is gone")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"FakeTensor({self.held})"

    def data_ptr(self) -> int:
        raise RuntimeError("cannot access data pointer: the memory of the fake device is out of reach")

    def tolist(self) -> Any:
        return self.cpu().tolist()


def unwrap(value: Any) -> Any:
    """What a tensor of the device holds; anything else as it is."""
    return value.held if isinstance(value, FakeTensor) else value
