# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the attenuation statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.checks import (
    accumulation_dtype,
    check_choice,
    check_device,
    check_float,
    check_planes,
    check_shape,
)

for _op in ("attenuation_stats", "attenuation_stats_backward"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.attenuation_stats.reference:{_op}"))
    dispatch.register_native("attenuation_stats", _op, dtypes=native.FLOATS)
    dispatch.register_gpu("attenuation_stats", _op, "triton", dtypes=native.FLOATS)

_INPUTS = (
    "Tensor ct, Tensor logits, Tensor tumour, Tensor organ, "
    "int[] sample, int[] channel, float eps, str activation, str impl"
)


@torch.library.custom_op("rsuper::attenuation_stats", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _attenuation_stats(ct: torch.Tensor, logits: torch.Tensor, *inputs: Any) -> torch.Tensor:
    function = dispatch.select("attenuation_stats", inputs[-1], logits.device, logits.dtype)
    out: torch.Tensor = function(ct, logits, *inputs[:-1])
    return out


@_attenuation_stats.register_fake
def _(
    ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, sample: Sequence[int], *rest: Any
) -> torch.Tensor:
    return logits.new_empty(len(sample), 2, 3, dtype=accumulation_dtype(logits))


@torch.library.custom_op(
    "rsuper::attenuation_stats_backward", mutates_args=(), schema=f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor)"
)
def _attenuation_stats_backward(
    grad: torch.Tensor, ct: torch.Tensor, logits: torch.Tensor, *inputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    function = dispatch.select("attenuation_stats_backward", inputs[-1], logits.device, logits.dtype)
    out: tuple[torch.Tensor, torch.Tensor] = function(grad, ct, logits, *inputs[:-1])
    return out


@_attenuation_stats_backward.register_fake
def _(
    grad: torch.Tensor, ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    organ_dtype = organ.dtype if organ.is_floating_point() else accumulation_dtype(logits)
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return grad_logits, torch.empty_like(organ, dtype=organ_dtype, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.tables = inputs[4:]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        raise NotImplementedError("attenuation_stats: gradients reach logits and organ only; detach ct and tumour")
    grad_logits, grad_organ = _attenuation_stats_backward(grad, *ctx.saved_tensors, *ctx.tables)
    needs_organ = ctx.needs_input_grad[3]
    return (None, grad_logits, None, grad_organ if needs_organ else None) + (None,) * len(ctx.tables)


_attenuation_stats.register_autograd(_backward, setup_context=_setup_context)


def attenuation_stats(
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    *,
    eps: float = 1e-5,
    activation: str = "sigmoid",
    impl: str = "auto",
) -> torch.Tensor:
    """Take the soft mean and sd of the CT inside each predicted tumour, and in the organ outside it.

    Args:
        ct: (B, D, H, W) float, in HU (or any unit: mean and sd come back in it).
        logits: (B, C, D, H, W), any float dtype.
        tumour: (G, D, H, W) mask where the group's tumour may be; its soft mask is probability * tumour.
        organ: (G, D, H, W) mask or soft mask of the organ; what the tumour leaves of it is the reference tissue.
        sample, channel: the plane of logits of each of the G groups.
        eps: added to the weights that means are divided by, in voxels.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference" or "cpu".

    Returns:
        (G, 2, 3): for [tumour, organ] the weight (voxels), mean and sd, float32 (float64 for float64 logits); zeros for
        an empty mask. Gradients to `logits` and, if it is floating point, to `organ`; zero through an sd of 0.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or plane indices that do not fit, named.
        NotImplementedError: in backward, if ct or tumour requires a gradient.
    """
    check_planes(logits, sample, channel)
    check_choice("activation", activation, ("sigmoid", "identity"))
    check_float("ct", ct)
    volume = tuple(logits.shape[2:])
    check_shape("ct", ct, (logits.shape[0], *volume), "(B, D, H, W)")
    for name, mask in (("tumour", tumour), ("organ", organ)):
        check_shape(name, mask, (len(sample), *volume), "(G, D, H, W)")
    for name, tensor in (("ct", ct), ("tumour", tumour), ("organ", organ)):
        check_device(name, tensor, "logits", logits)
    return _attenuation_stats(ct, logits, tumour, organ, list(sample), list(channel), eps, activation, impl)
