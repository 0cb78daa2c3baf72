# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the region sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.checks import (
    accumulation_dtype,
    check_choice,
    check_device,
    check_integer,
    check_planes,
    check_shape,
)

for _op in ("region_sums", "region_sums_backward"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.region_sums.reference:{_op}"))
    dispatch.register_native("region_sums", _op, dtypes=native.FLOATS)
    dispatch.register_gpu("region_sums", _op, "triton", dtypes=native.FLOATS)

_TABLES = "int[] sample, int[] channel, int[] ids, int[] id_counts, str activation, str impl"


@torch.library.custom_op(
    "rsuper::region_sums", mutates_args=(), schema=f"(Tensor logits, Tensor regions, {_TABLES}) -> Tensor"
)
def _region_sums(logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("region_sums", tables[-1], logits.device, logits.dtype)(
        logits, regions, *tables[:-1]
    )
    return out


@_region_sums.register_fake
def _(logits: torch.Tensor, regions: torch.Tensor, sample: Sequence[int], *tables: Any) -> torch.Tensor:
    return logits.new_empty(len(sample), dtype=accumulation_dtype(logits))


@torch.library.custom_op(
    "rsuper::region_sums_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor logits, Tensor regions, {_TABLES}) -> Tensor",
)
def _region_sums_backward(
    grad: torch.Tensor, logits: torch.Tensor, regions: torch.Tensor, *tables: Any
) -> torch.Tensor:
    function = dispatch.select("region_sums_backward", tables[-1], logits.device, logits.dtype)
    out: torch.Tensor = function(grad, logits, regions, *tables[:-1])
    return out


@_region_sums_backward.register_fake
def _(grad: torch.Tensor, logits: torch.Tensor, regions: torch.Tensor, *tables: Any) -> torch.Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    logits, regions, *tables = inputs
    ctx.save_for_backward(logits, regions)
    ctx.tables = tables


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    if ctx.needs_input_grad[1]:
        raise NotImplementedError("region_sums: gradients reach logits only; detach regions")
    logits, regions = ctx.saved_tensors
    grad_logits = _region_sums_backward(grad, logits, regions, *ctx.tables)
    return (grad_logits, None) + (None,) * len(ctx.tables)


_region_sums.register_autograd(_backward, setup_context=_setup_context)


def region_sums(
    logits: torch.Tensor,
    regions: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[Sequence[int]] | None = None,
    *,
    activation: str = "sigmoid",
    impl: str = "auto",
) -> torch.Tensor:
    """Sum the probabilities of plane (sample[g], channel[g]) over the region of group g, for every group at once.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        regions: masks (G, D, H, W) of any dtype, used as weights; or, with `ids`, an integer label map (B, D, H, W).
        sample, channel: the plane of each of the G groups. A plane may serve many groups.
        ids: per group, the label ids whose union is its region. Ids that do not occur give an empty region.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference" or "cpu".

    Returns:
        (G,) sums in voxels, float32 (float64 for float64 logits); 0 for an empty region. Gradient to `logits` only,
        in its dtype.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or plane indices that do not fit, named.
        NotImplementedError: in backward, if regions require a gradient.
    """
    check_planes(logits, sample, channel)
    check_choice("activation", activation, ("sigmoid", "identity"))
    check_device("regions", regions, "logits", logits)
    volume = tuple(logits.shape[2:])
    if ids is None:
        check_shape("regions", regions, (len(sample), *volume), "masks (G, D, H, W)")
        flat_ids, id_counts = [], []
    else:
        check_integer("regions", regions)
        check_shape("regions", regions, (logits.shape[0], *volume), "a label map (B, D, H, W)")
        if len(ids) != len(sample):
            raise ValueError(f"ids: expected one list of label ids for each of {len(sample)} groups, got {len(ids)}")
        flat_ids = [int(region_id) for group in ids for region_id in group]
        id_counts = [len(group) for group in ids]
    return _region_sums(logits, regions, list(sample), list(channel), flat_ids, id_counts, activation, impl)
