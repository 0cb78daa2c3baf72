# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the masked cross-entropy and Dice sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.checks import accumulation_dtype, check_choice, check_device, check_planes, check_shape
from rsuper_kernels.tables import every_plane

SUMS = ("positive_bce", "negative_bce", "tp", "fp", "fn", "known")

for _op in ("masked_bce_dice", "masked_bce_dice_backward"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.masked_bce_dice.reference:{_op}"))
    dispatch.register_native("masked_bce_dice", _op, dtypes=native.FLOATS)
    dispatch.register_gpu("masked_bce_dice", _op, "triton", dtypes=native.FLOATS)

_INPUTS = (
    "Tensor logits, Tensor targets, Tensor known, Tensor? weights, "
    "int[] sample, int[] channel, str activation, str impl"
)


@torch.library.custom_op("rsuper::masked_bce_dice", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _masked_bce_dice(logits: torch.Tensor, *inputs: Any) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("masked_bce_dice", inputs[-1], logits.device, logits.dtype)(
        logits, *inputs[:-1]
    )
    return out


@_masked_bce_dice.register_fake
def _(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, weights: Any, sample: Sequence[int], *rest: Any
) -> torch.Tensor:
    return logits.new_empty(len(sample), len(SUMS), dtype=accumulation_dtype(logits))


@torch.library.custom_op(
    "rsuper::masked_bce_dice_backward", mutates_args=(), schema=f"(Tensor grad, {_INPUTS}) -> Tensor"
)
def _masked_bce_dice_backward(grad: torch.Tensor, logits: torch.Tensor, *inputs: Any) -> torch.Tensor:
    function = dispatch.select("masked_bce_dice_backward", inputs[-1], logits.device, logits.dtype)
    out: torch.Tensor = function(grad, logits, *inputs[:-1])
    return out


@_masked_bce_dice_backward.register_fake
def _(grad: torch.Tensor, logits: torch.Tensor, *inputs: Any) -> torch.Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, sample, channel, activation, impl = inputs
    ctx.save_for_backward(*tensors)
    ctx.tables = (sample, channel, activation, impl)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    if any(ctx.needs_input_grad[1:4]):
        raise NotImplementedError("masked_bce_dice: gradients reach logits only; detach targets, known and weights")
    grad_logits = _masked_bce_dice_backward(grad, *ctx.saved_tensors, *ctx.tables)
    return (grad_logits,) + (None,) * 7


_masked_bce_dice.register_autograd(_backward, setup_context=_setup_context)


def masked_bce_dice(
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    sample: Sequence[int] | None = None,
    channel: Sequence[int] | None = None,
    activation: str = "sigmoid",
    impl: str = "auto",
) -> torch.Tensor:
    """Take all the sums that masked cross-entropy and Dice losses are made of, in one call.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        targets: (G, D, H, W), or (B, C, D, H, W) without `sample` and `channel`; bool, integer or soft float in [0, 1].
        known: same shape, bool or 0 / 1: voxels whose target is known. All sums are taken over these.
        weights: same shape or None: voxel weights of the two cross-entropy sums.
        sample, channel: the plane of logits that each of the G targets belongs to; None: every plane, in order.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference" or "cpu".

    Returns:
        (G, 6) sums positive_bce, negative_bce, tp, fp, fn, known (see `SUMS`), float32 (float64 for float64 logits).
        All zero where nothing is known. Gradient to `logits` only, in its dtype.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or plane indices that do not fit, named.
        NotImplementedError: in backward, if targets, known or weights require a gradient.
    """
    masks = {"targets": targets, "known": known}
    if weights is not None:
        masks["weights"] = weights
    if sample is None and channel is None:
        sample, channel = every_plane(logits)
        for name, mask in masks.items():
            check_shape(name, mask, tuple(logits.shape), "(B, C, D, H, W)")
        masks = {name: mask.flatten(0, 1) for name, mask in masks.items()}
    elif sample is None or channel is None:
        raise ValueError("sample, channel: give both, or neither for every plane of logits")
    check_planes(logits, sample, channel)
    check_choice("activation", activation, ("sigmoid", "identity"))
    for name, mask in masks.items():
        check_shape(name, mask, (len(sample), *logits.shape[2:]), "(G, D, H, W)")
        check_device(name, mask, "logits", logits)
    return _masked_bce_dice(
        logits, masks["targets"], masks["known"], masks.get("weights"), list(sample), list(channel), activation, impl
    )
