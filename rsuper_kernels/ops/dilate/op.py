# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the dilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_ndim
from rsuper_kernels.geometry import Element
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks

dispatch.register("dilate", "reference", dispatch.Backend("rsuper_kernels.ops.dilate.reference:dilate"))
dispatch.register_native("dilate", "dilate")


@torch.library.custom_op(
    "rsuper::dilate", mutates_args=(), schema="(Tensor words, int width, Tensor runs, int[] passes, str impl) -> Tensor"
)
def _dilate(words: torch.Tensor, width: int, runs: torch.Tensor, passes: Sequence[int], impl: str) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("dilate", impl, words.device)(words, width, runs, passes)
    return out


@_dilate.register_fake
def _(words: torch.Tensor, width: int, runs: torch.Tensor, passes: Sequence[int], impl: str) -> torch.Tensor:
    return torch.empty_like(words, memory_format=torch.contiguous_format)


@overload
def dilate(mask: torch.Tensor, element: Element, *, impl: str = ...) -> torch.Tensor: ...
@overload
def dilate(mask: BitMasks, element: Element, *, impl: str = ...) -> BitMasks: ...


def dilate(mask: torch.Tensor | BitMasks, element: Element, *, impl: str = "auto") -> torch.Tensor | BitMasks:
    """Dilate binary masks by a structuring element; voxels outside the array count as empty.

    Args:
        mask: (..., D, H, W), any dtype, every value other than 0 is foreground; or bit masks.
        element: from `geometry.ball_element(radius, spacing)` (mm) or `geometry.cascade_element(kernel_size)` (voxels).
        impl: "auto", "reference" or "cpu".

    Returns:
        A bool tensor of the same shape, or bit masks of bit masks. No gradient. An empty mask stays empty.

    Raises:
        ValueError: fewer than three axes.
        BackendError: an `impl` that cannot run here.
    """
    if isinstance(mask, BitMasks):
        return BitMasks(
            _dilate(mask.words.contiguous(), mask.width, element.runs, list(element.passes), impl), mask.width
        )
    if mask.ndim < 3:
        check_ndim("mask", mask, "(D, H, W)")
    planes = mask.reshape(mask.shape[:-3].numel(), *mask.shape[-3:])
    return unpack_masks(dilate(pack_masks(planes), element, impl=impl)).reshape(mask.shape)
