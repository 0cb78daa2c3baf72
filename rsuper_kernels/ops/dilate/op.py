# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the dilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_ndim
from rsuper_kernels.geometry import Element
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks

dispatch.register("dilate", "reference", dispatch.Backend("rsuper_kernels.ops.dilate.reference:dilate"))
dispatch.register_native("dilate", "dilate")
for _impl in ("cuda", "triton"):
    dispatch.register_gpu("dilate", "dilate", _impl)


@torch.library.custom_op(
    "rsuper::dilate",
    mutates_args=(),
    schema="(Tensor words, int width, Tensor runs, int[] passes, int[] beside, int[] beside_counts, str impl) "
    "-> Tensor",
)
def _dilate(words: torch.Tensor, *inputs: Any) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("dilate", inputs[-1], words.device)(words, *inputs[:-1])
    return out


@_dilate.register_fake
def _(words: torch.Tensor, *inputs: Any) -> torch.Tensor:
    return torch.empty_like(words, memory_format=torch.contiguous_format)


Beside = Sequence[Sequence[int] | None]


@overload
def dilate(mask: torch.Tensor, element: Element, *, beside: Beside | None = ..., impl: str = ...) -> torch.Tensor: ...
@overload
def dilate(mask: BitMasks, element: Element, *, beside: Beside | None = ..., impl: str = ...) -> BitMasks: ...


def dilate(
    mask: torch.Tensor | BitMasks, element: Element, *, beside: Beside | None = None, impl: str = "auto"
) -> torch.Tensor | BitMasks:
    """Dilate binary masks by a structuring element; voxels outside the array count as empty.

    Args:
        mask: (..., D, H, W), any dtype, every value other than 0 is foreground; or bit masks.
        element: from `geometry.ball_element(radius, spacing)` (mm) or `geometry.cascade_element(kernel_size)` (voxels).
        beside: per mask, the other masks whose voxels it does not grow into, by number; None: it does not grow at all.
        impl: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        A bool tensor of the same shape, or bit masks of bit masks. No gradient. An empty mask stays empty.

    Raises:
        ValueError: fewer than three axes, or `beside` does not fit the masks.
        BackendError: an `impl` that cannot run here.
    """
    if isinstance(mask, BitMasks):
        others, counts = _flat(beside, len(mask))
        words = _dilate(mask.words.contiguous(), mask.width, element.runs, list(element.passes), others, counts, impl)
        return BitMasks(words, mask.width)
    if mask.ndim < 3:
        check_ndim("mask", mask, "(D, H, W)")
    planes = mask.reshape(mask.shape[:-3].numel(), *mask.shape[-3:])
    return unpack_masks(dilate(pack_masks(planes), element, beside=beside, impl=impl)).reshape(mask.shape)


def _flat(beside: Beside | None, masks: int) -> tuple[list[int], list[int]]:
    """The masks beside each one, and how many those are: -1 for a mask that does not grow."""
    if beside is None:
        return [], []
    others = [other for members in beside for other in members or ()]
    if len(beside) != masks or any(not 0 <= other < masks for other in others):
        raise ValueError(f"beside: expected masks from 0 to {masks - 1} for each of {masks}, got {beside}")
    return others, [-1 if members is None else len(members) for members in beside]
