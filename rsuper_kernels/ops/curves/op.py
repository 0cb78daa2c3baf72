# SPDX-License-Identifier: Apache-2.0
"""Registration and public functions of the curves: plain torch on the CPU, one launch each way on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.checks import check_choice, check_shape
from rsuper_kernels.ops.curves import reference
from rsuper_kernels.ops.curves.reference import adaptive_dice, volume_curve

__all__ = ["adaptive_dice", "bce_dice", "volume", "volume_curve"]

for _op in ("bce_dice", "volume"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.curves.reference:{_op}"))
    # a few numbers: autograd's own operations do
    dispatch.register(_op, "cpu", dispatch.Backend(f"rsuper_kernels.ops.curves.reference:{_op}", ("cpu",)))
    dispatch.register_gpu("curves", _op, "triton", dtypes=(torch.float32,))


@torch.library.custom_op(
    "rsuper::volume",
    mutates_args=(),
    schema="(Tensor sums, float[] reported, float[] least, float[] open_ended, float voxel, float most, "
    "float tolerance, float smoothing, int count, str impl) -> (Tensor, Tensor)",
)
def _volume(sums: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its slopes (1, G, 2)."""
    out: tuple[torch.Tensor, torch.Tensor] = dispatch.select("volume", inputs[-1], sums.device)(sums, *inputs[:-1])
    return out


@_volume.register_fake
def _(sums: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return sums.new_empty(()), sums.new_empty(1, *sums.shape)


@torch.library.custom_op(
    "rsuper::bce_dice",
    mutates_args=(),
    schema="(Tensor sums, float[] bce_weights, float[] dice_weights, int voxels, str empty, bool mean_of_present, "
    "str impl) -> (Tensor, Tensor, Tensor)",
)
def _bce_dice(sums: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice, and the slopes (2, B, C, 6) of both."""
    function = dispatch.select("bce_dice", inputs[-1], sums.device)
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = function(sums, *inputs[:-1])
    return out


@_bce_dice.register_fake
def _(sums: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return sums.new_empty(()), sums.new_empty(()), sums.new_empty(2, *sums.shape)


@torch.library.custom_op(
    "rsuper::curve_backward", mutates_args=(), schema="(Tensor[] grads, Tensor slopes, str impl) -> Tensor"
)
def _curve_backward(grads: Sequence[torch.Tensor], slopes: torch.Tensor, impl: str) -> torch.Tensor:
    """The gradient of the sums: the slopes of each output times its gradient, added up."""
    from rsuper_kernels.ops.curves.triton_kernel import curve_backward

    return curve_backward(grads, slopes)


@_curve_backward.register_fake
def _(grads: Sequence[torch.Tensor], slopes: torch.Tensor, impl: str) -> torch.Tensor:
    return slopes.new_empty(slopes.shape[1:])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    slopes = output[-1]
    ctx.set_materialize_grads(False)  # zeros for the slopes' would be a launch
    ctx.mark_non_differentiable(slopes)
    ctx.save_for_backward(slopes)
    ctx.impl, ctx.inputs = inputs[-1], len(inputs)


def _backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
    (slopes,) = ctx.saved_tensors
    given = [slopes.new_zeros(()) if grad is None else grad for grad in grads[:-1]]
    grad = _curve_backward(given, slopes, ctx.impl)
    # torch takes an empty list of numbers for a list of tensors, which wants a list back
    return (grad,) + (None,) * (ctx.inputs - 1)


_volume.register_autograd(_backward, setup_context=_setup_context)
_bce_dice.register_autograd(_backward, setup_context=_setup_context)


def volume(
    sums: torch.Tensor,
    reported: Sequence[float],
    least: Sequence[float],
    open_ended: Sequence[bool],
    *,
    voxel: float,
    most: float,
    tolerance: float,
    smoothing: float,
    count: int = 0,
    impl: str = "auto",
) -> torch.Tensor:
    """Average `volume_curve` over groups.

    Args:
        sums: (G, 2), probability in each region, in voxels, and voxels of the region; groups without any are left out.
        reported: volume of each group in mm3.
        least, most: mm3; an open-ended group costs only below its `least` volume and above `most`.
        open_ended: whether a group may hold more tumour than described.
        voxel: mm3 of a voxel.
        tolerance, smoothing: of `volume_curve`.
        count: what the sum over groups is divided by; 0: the groups that are not left out.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        A scalar in the dtype of `sums`, 0 without groups. Gradient to `sums`.

    Source: Bassi et al., MICCAI 2025, Volume Loss.
    """
    check_shape("sums", sums, (len(reported), 2), "(G, 2)")
    tables = ([float(x) for x in reported], [float(x) for x in least], [float(x) for x in open_ended])
    numbers = (float(voxel), float(most), float(tolerance), float(smoothing))
    if not reported or dispatch.serving("volume", impl, sums.device, sums.dtype) != "triton":
        return reference.volume(sums, *tables, *numbers, count)
    loss, _ = _volume(sums, *tables, *numbers, count, impl)
    return loss


def bce_dice(
    sums: torch.Tensor,
    bce_weights: Sequence[float],
    dice_weights: Sequence[float],
    *,
    voxels: int = 0,
    empty: str = "skip",
    mean_of_present: bool = False,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weigh and add up the cross-entropies and the adaptive Dice losses of planes.

    Args:
        sums: (B, C, 6), as `masked_bce_dice` gives them. Planes of a column share the alpha of `adaptive_dice`.
        bce_weights, dice_weights: of each of the B * C planes.
        voxels: what cross-entropies are divided by; 0: those of foreground and background each by their own voxels.
        empty: a plane without any target has the Dice loss 0 ("skip") or 1 ("one").
        mean_of_present: divide the Dice losses by the number of planes with a target.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        Cross-entropy and Dice, scalars in the dtype of `sums`, 0 without planes. Gradient to `sums`.

    Source: public R-Super code, A.4 and A.6.
    """
    check_choice("empty", empty, ("skip", "one"))
    check_shape("sums", sums, (*sums.shape[:2], 6), "(B, C, 6)")
    tables = ([float(x) for x in bce_weights], [float(x) for x in dice_weights])
    if not bce_weights or dispatch.serving("bce_dice", impl, sums.device, sums.dtype) != "triton":
        return reference.bce_dice(sums, *tables, voxels, empty, mean_of_present)
    bce, dice, _ = _bce_dice(sums, *tables, voxels, empty, mean_of_present, impl)
    return bce, dice
