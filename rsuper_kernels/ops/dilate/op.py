# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the dilation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.checks import check_ndim
from rsuper_kernels.geometry import Element

dispatch.register("dilate", "reference", dispatch.Backend("rsuper_kernels.ops.dilate.reference:dilate"))
dispatch.register_native("dilate", "dilate")


@torch.library.custom_op(
    "rsuper::dilate", mutates_args=(), schema="(Tensor mask, Tensor runs, int[] passes, str impl) -> Tensor"
)
def _dilate(mask: torch.Tensor, runs: torch.Tensor, passes: Sequence[int], impl: str) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("dilate", impl, mask.device, mask.dtype)(mask, runs, passes)
    return out


@_dilate.register_fake
def _(mask: torch.Tensor, runs: torch.Tensor, passes: Sequence[int], impl: str) -> torch.Tensor:
    return torch.empty_like(mask, memory_format=torch.contiguous_format)


def dilate(mask: torch.Tensor, element: Element, *, impl: str = "auto") -> torch.Tensor:
    """Dilate binary masks by a structuring element; voxels outside the array count as empty.

    Args:
        mask: (..., D, H, W), any dtype; every value other than 0 is foreground.
        element: from `geometry.ball_element(radius, spacing)` (mm) or `geometry.cascade_element(kernel_size)` (voxels).
        impl: "auto", "reference" or "cpu".

    Returns:
        A bool tensor of the same shape. No gradient. An empty mask stays empty.

    Raises:
        ValueError: fewer than three axes.
        BackendError: an `impl` that cannot run here.
    """
    if mask.ndim < 3:
        check_ndim("mask", mask, "(D, H, W)")
    binary = mask if mask.dtype == torch.bool else mask != 0
    planes = binary.reshape(mask.shape[:-3].numel(), *mask.shape[-3:]).contiguous()
    return _dilate(planes, element.runs, list(element.passes), impl).reshape(mask.shape)
