# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the ball search."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.checks import check_device, check_full_precision, check_ndim, check_shape
from rsuper_kernels.geometry import UNIT_SPACING, as_spacing

dispatch.register("ball_search", "reference", dispatch.Backend("rsuper_kernels.ops.ball_search.reference:ball_search"))
dispatch.register_native("ball_search", "ball_search", dtypes=(torch.float32,))
dispatch.register_gpu("ball_search", "ball_search", "triton", dtypes=(torch.float32,))


@torch.library.custom_op(
    "rsuper::ball_search",
    mutates_args=(),
    schema="(Tensor probability, Tensor available, float[] diameters, float[] spacing, float? sigma, str impl) "
    "-> (Tensor, Tensor)",
)
def _ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    function = dispatch.select("ball_search", impl, probability.device, probability.dtype)
    out: tuple[torch.Tensor, torch.Tensor] = function(probability, available, diameters, spacing, sigma)
    return out


@_ball_search.register_fake
def _(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float],
    sigma: float | None,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    count = probability.shape[0]
    return probability.new_empty(count, dtype=torch.int64), probability.new_empty(count)


def ball_search(
    probability: torch.Tensor,
    available: torch.Tensor,
    diameters: Sequence[float],
    spacing: Sequence[float] = UNIT_SPACING,
    *,
    sigma: float | None = 1.5,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find, in each plane, the ball of a given diameter that holds the most probability.

    Tumours of a plane are placed one after another: what `ball_select` gave to one is not available to the next.

    Args:
        probability: (N, D, H, W) in [0, 1], float32 or float64.
        available: (N, D, H, W) bool, where probability counts: inside the region and not yet assigned.
        diameters: N diameters in mm, on the host.
        spacing: (sD, sH, sW) in mm.
        sigma: width of the Gaussian kernel in radii; None for a flat ball. See `geometry.ball_kernel`.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        centre: (N,) int64 linear index into (D, H, W); of scores within 1e-6 of the best the lowest index; -1 where
            nothing is available. With all probabilities 0, the first voxel of the available voxels' bounding box.
        score: (N,) weighted mean probability in the ball, as if everything outside `available` were 0.
        Neither has a gradient.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices, diameters or spacing that do not fit, named.

    Source: Bassi et al., MICCAI 2025, Ball Loss; kernel as in the public code.
    """
    check_full_precision("probability", probability)
    check_ndim("probability", probability, "(N, D, H, W)")
    check_shape("available", available, tuple(probability.shape), "(N, D, H, W)")
    check_device("available", available, "probability", probability)
    if len(diameters) != probability.shape[0]:
        raise ValueError(f"diameters: expected one for each of {probability.shape[0]} planes, got {len(diameters)}")
    for index, diameter in enumerate(diameters):
        if not 0 < diameter < float("inf"):
            raise ValueError(f"diameters[{index}]: expected a positive, finite length in mm, got {diameter}")
    return _ball_search(
        probability.detach(), available.bool(), [float(d) for d in diameters], list(as_spacing(spacing)), sigma, impl
    )
