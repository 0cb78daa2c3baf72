# SPDX-License-Identifier: Apache-2.0
"""Argument checks that name the argument, what was expected and what came. All but `check_finite` read shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rsuper_kernels.bits import BitMasks


def check_float(name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless `tensor` is a floating-point tensor."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name}: expected a floating-point tensor (float16, bfloat16, float32, float64), got {tensor.dtype}"
        )


def check_full_precision(name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless `tensor` is float32 or float64."""
    check_float(name, tensor)
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {tensor.dtype}")


def check_integer(name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless `tensor` is an integer tensor."""
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer tensor, got {tensor.dtype}")


def check_ndim(name: str, tensor: torch.Tensor, layout: str) -> None:
    """Raise ValueError unless `tensor` has the axes of `layout`, such as "(B, C, D, H, W)"."""
    if tensor.ndim != layout.count(",") + 1:
        raise ValueError(f"{name}: expected {layout}, got shape {tuple(tensor.shape)}")


def check_shape(name: str, tensor: torch.Tensor | BitMasks, shape: Sequence[int], layout: str) -> None:
    """Raise ValueError unless `tensor` has exactly this shape."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name}: expected {layout} = {tuple(shape)}, got shape {tuple(tensor.shape)}")


def check_device(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected on the device of {other_name} ({other.device}), got {tensor.device}")


def check_planes(logits: torch.Tensor, sample: Sequence[int], channel: Sequence[int]) -> None:
    """Raise ValueError unless (sample[g], channel[g]) all name a plane of logits (B, C, D, H, W)."""
    check_float("logits", logits)
    check_ndim("logits", logits, "(B, C, D, H, W)")
    if len(sample) != len(channel):
        raise ValueError(f"sample, channel: expected equally many, got {len(sample)} and {len(channel)}")
    for name, values, size in (("sample", sample, logits.shape[0]), ("channel", channel, logits.shape[1])):
        for index, value in enumerate(values):
            if not 0 <= value < size:
                raise ValueError(
                    f"{name}[{index}]: expected 0 to {size - 1} for logits {tuple(logits.shape)}, got {value}"
                )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_finite(name: str, tensor: torch.Tensor, channel_name: Callable[[int], str] = "channel {}".format) -> None:
    """Raise ValueError naming the first plane of `tensor` (B, C, ...) that is not finite. Waits for the device."""
    bad = (~torch.isfinite(tensor)).flatten(2).any(2).nonzero().tolist()
    if bad:
        sample, channel = bad[0]
        others = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{name}: NaN or infinity in sample {sample}, {channel_name(channel)}{others}")


def accumulation_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype sums are taken in: float32, or float64 for float64 input."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
