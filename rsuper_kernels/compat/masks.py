# SPDX-License-Identifier: Apache-2.0
"""Balls and dilations in voxels of 1 mm, as the public code uses them (public R-Super code, A.2, A.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rsuper_kernels import native
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_shape
from rsuper_kernels.geometry import ball_element, cascade_element, ceil_odd
from rsuper_kernels.ops.dilate import dilate


def create_ball_kernel(diameter: float, gaussian: bool = False, gaussian_std: float = 1.5) -> torch.Tensor:
    """Make the ball of `diameter` voxels (rounded up to odd), with an edge 20 % longer than the ball.

    Args:
        diameter: voxels, positive.
        gaussian: weights exp(-r^2 / (2 (gaussian_std * diameter / 2)^2)) inside the ball with sum 1, instead of ones.
        gaussian_std: width of the Gaussian in radii.

    Returns:
        (k, k, k) float32 on the CPU, k odd.

    Raises:
        ValueError: a diameter that is not positive and finite.
    """
    if not 0 < diameter < math.inf:
        raise ValueError(f"diameter: expected a positive, finite number of voxels, got {diameter}")
    odd = ceil_odd(diameter)
    reach = ceil_odd(1.2 * odd) // 2
    squares = torch.arange(-reach, reach + 1, dtype=torch.float32) ** 2
    squared = squares[:, None, None] + squares[:, None] + squares
    inside = squared <= (odd / 2) ** 2
    if not gaussian:
        return inside.float()
    weights = torch.exp(-squared / (2 * (gaussian_std * odd / 2) ** 2)) * inside
    return weights / weights.sum()


def ball_convolution(x: torch.Tensor, diameter: float, gaussian: bool, gaussian_std: float) -> torch.Tensor:
    """Convolve x (..., H, W, D) with the ball of `create_ball_kernel`, zero outside the array.

    Returns:
        Same shape and dtype; computed by FFT, in float64 inside. Gradient to `x`.

    Raises:
        ValueError: fewer than three axes, or a diameter that is not positive and finite.
    """
    if x.ndim < 3:
        raise ValueError(f"x: expected (..., H, W, D), got shape {tuple(x.shape)}")
    kernel = create_ball_kernel(diameter, gaussian, gaussian_std).to(x.device, torch.float64)
    reach = kernel.shape[0] // 2
    size = [edge + 2 * reach for edge in x.shape[-3:]]
    spectrum = torch.fft.rfftn(x.double(), s=size, dim=(-3, -2, -1)) * torch.fft.rfftn(kernel, s=size)
    full = torch.fft.irfftn(spectrum, s=size, dim=(-3, -2, -1))
    return full[..., reach:-reach, reach:-reach, reach:-reach].to(x.dtype)


def insert_ball(
    out_spatial: torch.Tensor | Sequence[int], best_center: Sequence[int], diameter: float, margin: float
) -> torch.Tensor:
    """Draw a ball of `diameter * (1 + margin)` voxels, rounded up to odd, clipped at the border of the array.

    Args:
        out_spatial: the shape (H, W, D), or a tensor whose last three axes, device and floating dtype are taken.
        best_center: three indices.
        diameter: voxels.
        margin: share added to the diameter.

    Returns:
        (H, W, D) of 0 and 1, float32 for a shape. No gradient.

    Raises:
        ValueError: a shape or a centre without three numbers.
    """
    like = out_spatial if isinstance(out_spatial, torch.Tensor) else torch.empty(0)
    shape = tuple(like.shape[-3:]) if isinstance(out_spatial, torch.Tensor) else tuple(out_spatial)
    if len(shape) != 3 or len(best_center) != 3:
        raise ValueError(f"best_center: expected three indices into three axes, got {best_center} for {shape}")
    limit = (ceil_odd(diameter * (1 + margin)) / 2) ** 2
    squares = [(torch.arange(size, device=like.device) - at) ** 2 for size, at in zip(shape, best_center, strict=True)]
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= limit
    return inside.to(_mask_dtype(like))


def dilate_volume(volume: torch.Tensor, kernel_size: int, full_pass_radius: int = 3) -> torch.Tensor:
    """Dilate masks by passes of small voxel balls that add up to `kernel_size` (quirk Q1: 31 is five passes of ball 7).

    Args:
        volume: (..., H, W, D), any dtype; positive values are foreground.
        kernel_size: voxels, at least 1; even sizes are raised by one, 1 only makes the mask binary.
        full_pass_radius: radius of a full pass in voxels.

    Returns:
        Same shape, 0 and 1, in the dtype of a floating-point `volume`, else float32. No gradient.

    Raises:
        ValueError: fewer than three axes, or sizes below 1.
    """
    if kernel_size < 1 or full_pass_radius < 1:
        raise ValueError(
            f"kernel_size, full_pass_radius: expected at least 1, got {kernel_size} and {full_pass_radius}"
        )
    return dilated(volume, kernel_size, full_pass_radius).to(_mask_dtype(volume))


def dilated(volume: torch.Tensor, kernel_size: int, full_pass_radius: int = 3) -> torch.Tensor:
    """`dilate_volume` as a bool mask; a size of 0 leaves the mask as it is."""
    mask = volume if volume.dtype == torch.bool else volume > 0
    if kernel_size <= 1:
        return mask
    return dilate(mask, cascade_element(ceil_odd(kernel_size), full_pass_radius))


def dilated_bits(masks: BitMasks, kernel_size: int) -> BitMasks:
    """`dilated` of bit masks."""
    return masks if kernel_size <= 1 else dilate(masks, cascade_element(ceil_odd(kernel_size)))


def dilate_volume_conv(volume: torch.Tensor, kernel_size: float) -> torch.Tensor:
    """Dilate masks (..., H, W, D) by one ball of `kernel_size` voxels, rounded up to odd; returns 0 and 1, no gradient.

    Raises:
        ValueError: fewer than three axes, or a size that is not positive and finite.
    """
    if not 0 < kernel_size < math.inf:
        raise ValueError(f"kernel_size: expected a positive, finite number of voxels, got {kernel_size}")
    return dilate(volume > 0, ball_element(ceil_odd(kernel_size) / 2)).to(_mask_dtype(volume))


def dilate_volume_maxpool(volume: torch.Tensor, kernel_size: float) -> torch.Tensor:
    """Dilate masks (..., H, W, D) by the cube of int(kernel_size / sqrt(2)) voxels, raised to odd; no gradient."""
    edge = int(kernel_size / math.sqrt(2))
    edge += 1 - edge % 2
    planes = (volume.detach() > 0).float().reshape(-1, 1, *volume.shape[-3:])
    return F.max_pool3d(planes, edge, stride=1, padding=edge // 2).reshape(volume.shape).to(_mask_dtype(volume))


def get_known_voxels(
    y: torch.Tensor,
    unk_voxels: torch.Tensor,
    dilation: int = 5,
    sanity: bool = True,
    classes: Sequence[str] | None = None,
) -> torch.Tensor:
    """Find the voxels whose label can be trusted: those the unknown voxels do not reach by `dilation`.

    Args:
        y: labels (B, C, H, W, D), for shape and dtype.
        unk_voxels: same shape, 1 where the label is unknown.
        dilation: size of the dilation of the unknown voxels, see `dilate_volume`; 0 for none.
        sanity, classes: accepted and ignored; nothing is written to disk.

    Returns:
        (B, C, H, W, D) of 0 and 1, in the dtype of a floating-point `y`, else float32. No gradient.

    Raises:
        ValueError: another shape, or (looked at on the CPU only) values other than 0 and 1.
    """
    check_shape("unk_voxels", unk_voxels, tuple(y.shape), "(B, C, H, W, D)")
    check_binary("unk_voxels", unk_voxels)
    return (~dilated(unk_voxels, dilation)).to(_mask_dtype(y))


def check_binary(name: str, mask: torch.Tensor) -> None:
    """Raise ValueError if a mask on the CPU holds anything but 0 and 1; masks on other devices are not read."""
    if mask.device.type != "cpu" or mask.dtype == torch.bool or native.holds_binary(mask):
        return
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        where = wrong.nonzero()[0].tolist()
        raise ValueError(f"{name}: expected 0 and 1 only, got {mask[tuple(where)].item()} at {where}")


def _mask_dtype(like: torch.Tensor) -> torch.dtype:
    return like.dtype if like.is_floating_point() else torch.float32
