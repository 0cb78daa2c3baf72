# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the joint sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rsuper_kernels import dispatch, native
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import (
    accumulation_dtype,
    check_choice,
    check_device,
    check_full_precision,
    check_planes,
    check_shape,
)

for _op in ("loss_sums", "loss_sums_backward"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.loss_sums.reference:{_op}"))
    dispatch.register_native("loss_sums", _op, dtypes=native.FLOATS)
    dispatch.register_gpu("loss_sums", _op, "triton", dtypes=native.FLOATS)


@dataclass(frozen=True)
class RegionSums:
    """Probability inside each region and voxels of it, (G, 2); see ops/region_sums. Gradient through the probability.

    Args:
        regions: G bit masks.
        sample, channel: the plane of logits of each group.
    """

    regions: BitMasks
    sample: Sequence[int]
    channel: Sequence[int]

    outputs: ClassVar[tuple[int, ...]] = (2,)

    @property
    def masks(self) -> list[BitMasks]:
        return [self.regions]


@dataclass(frozen=True)
class BceDice:
    """Masked cross-entropy and Dice sums, (G, 6); see ops/masked_bce_dice.

    Args:
        targets, known: G bit masks each.
        sample, channel: the plane of logits of each group.
        weights: (G, N), float32 or float64, or None: weights of the cross-entropy of each group's target voxels by
            rising linear index, N at least their number; other voxels weigh 1.
    """

    targets: BitMasks
    known: BitMasks
    sample: Sequence[int]
    channel: Sequence[int]
    weights: torch.Tensor | None = None

    outputs: ClassVar[tuple[int, ...]] = (6,)

    @property
    def masks(self) -> list[BitMasks]:
        return [self.targets, self.known]


@dataclass(frozen=True)
class AttenuationStats:
    """Soft statistics of the CT in tumour and organ, (G, 2, 3); see ops/attenuation_stats.

    Args:
        ct: (B, D, H, W), any float or integer dtype, HU.
        tumour, organ: G bit masks each.
        sample, channel: the plane of logits of each group.
        window: HU to which the CT is clipped.
        eps: voxels, added to the weights that means are divided by.
    """

    ct: torch.Tensor
    tumour: BitMasks
    organ: BitMasks
    sample: Sequence[int]
    channel: Sequence[int]
    window: tuple[float, float] = (float("-inf"), float("inf"))
    eps: float = 1e-5

    outputs: ClassVar[tuple[int, ...]] = (2, 3)

    @property
    def masks(self) -> list[BitMasks]:
        return [self.tumour, self.organ]


Term = RegionSums | BceDice | AttenuationStats
KINDS = (RegionSums, BceDice, AttenuationStats)

# kinds and counts: of each term; tensors and options: three for each term, empty or 0 where it needs fewer
_TABLES = (
    "Tensor[] tensors, int[] kinds, int[] counts, int[] sample, int[] channel, float[] options, "
    "str activation, str impl"
)


@torch.library.custom_op("rsuper::loss_sums", mutates_args=(), schema=f"(Tensor logits, {_TABLES}) -> (Tensor, Tensor)")
def _loss_sums(logits: torch.Tensor, *tables: Any) -> tuple[torch.Tensor, torch.Tensor]:
    function = dispatch.select("loss_sums", tables[-1], logits.device, logits.dtype)
    out: tuple[torch.Tensor, torch.Tensor] = function(logits, *tables[:-1])
    return out


@_loss_sums.register_fake
def _(
    logits: torch.Tensor, tensors: Sequence[torch.Tensor], kinds: Sequence[int], counts: Sequence[int], *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = logits.new_empty(output_count(kinds, counts), dtype=accumulation_dtype(logits))
    keeps_state = dispatch.serving("loss_sums", rest[-1], logits.device, logits.dtype) == "triton"
    state = state_size(logits, tensors, kinds, counts) if keeps_state else 0
    return sums, logits.new_empty(state, dtype=torch.float64)


@torch.library.custom_op(
    "rsuper::loss_sums_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor logits, Tensor state, {_TABLES}) -> Tensor",
)
def _loss_sums_backward(grad: torch.Tensor, logits: torch.Tensor, *tables: Any) -> torch.Tensor:
    function = dispatch.select("loss_sums_backward", tables[-1], logits.device, logits.dtype)
    out: torch.Tensor = function(grad, logits, *tables[:-1])
    return out


@_loss_sums_backward.register_fake
def _(grad: torch.Tensor, logits: torch.Tensor, *tables: Any) -> torch.Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, tensors, *tables = inputs
    _, state = output
    ctx.set_materialize_grads(False)  # zeros for the state's would be a launch
    ctx.mark_non_differentiable(state)
    ctx.save_for_backward(logits, state, *tensors)
    ctx.tables = tables


def _backward(ctx: Any, grad: torch.Tensor | None, _: torch.Tensor | None) -> tuple[Any, ...]:
    if any(ctx.needs_input_grad[1]):
        raise NotImplementedError("loss_sums: gradients reach logits only; detach the weights")
    logits, state, *tensors = ctx.saved_tensors
    grad_logits = None if grad is None else _loss_sums_backward(grad, logits, state, tensors, *ctx.tables)
    # torch takes an empty list for a list of tensors, which wants a list back
    return (grad_logits, [None] * len(tensors), *([] if table == [] else None for table in ctx.tables))


_loss_sums.register_autograd(_backward, setup_context=_setup_context)


def loss_sums(
    logits: torch.Tensor, terms: Sequence[Term], *, activation: str = "sigmoid", impl: str = "auto"
) -> list[torch.Tensor]:
    """Take the sums of any number of terms in one pass over the logits.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        terms: `RegionSums`, `BceDice` and `AttenuationStats`; a plane may serve any number of groups of each.
        activation: "sigmoid" for logits, "identity" if `logits` already holds probabilities.
        impl: "auto", "reference" or "cpu".

    Returns:
        For each term a tensor as its class says, float32 (float64 for float64 logits). Gradient to `logits` only, in
        its dtype.

    Raises:
        TypeError, ValueError: shapes, dtypes, devices or plane indices that do not fit, named; on the CPU also fewer
            weights than target voxels.
        NotImplementedError: in backward, if weights require a gradient.
    """
    check_choice("activation", activation, ("sigmoid", "identity"))
    for index, term in enumerate(terms):
        _check_term(f"terms[{index}]", logits, term)
    if not terms:
        return []
    counts = [len(term.sample) for term in terms]
    out, _ = _loss_sums(
        logits,
        [tensor for term in terms for tensor in _tensors(logits, term)],
        [KINDS.index(type(term)) for term in terms],
        counts,
        [b for term in terms for b in term.sample],
        [c for term in terms for c in term.channel],
        [option for term in terms for option in _options(term)],
        activation,
        impl,
    )
    sizes = [count * _size(term.outputs) for term, count in zip(terms, counts, strict=True)]
    # the gradient of a split is a kernel that joins parts
    parts = out.split(sizes) if len(terms) > 1 else [out]
    return [part.view(-1, *term.outputs) for part, term in zip(parts, terms, strict=True)]


def output_count(kinds: Sequence[int], counts: Sequence[int]) -> int:
    """Numbers that these kinds of terms have for so many groups."""
    return sum(count * _size(KINDS[kind].outputs) for kind, count in zip(kinds, counts, strict=True))


# Words of 32 voxels between the numbers of target voxels in `state`.
STATE_WORDS = 64


def state_size(
    logits: torch.Tensor, tensors: Sequence[torch.Tensor], kinds: Sequence[int], counts: Sequence[int]
) -> int:
    """Numbers that kernels on a GPU keep for backward: the outputs in float64, then, for each group with compact
    weights, the target voxels before every STATE_WORDS words of 32 voxels."""
    words = math.prod(logits.shape[2:4]) * -(-logits.shape[4] // 32)
    weighted = [count for t, count in enumerate(counts) if kinds[t] == 1 and tensors[3 * t + 2].numel()]
    return output_count(kinds, counts) + sum(weighted) * -(-words // STATE_WORDS)


def _size(outputs: Sequence[int]) -> int:
    return torch.Size(outputs).numel()


def _check_term(name: str, logits: torch.Tensor, term: Term) -> None:
    check_planes(logits, term.sample, term.channel)
    volume = tuple(logits.shape[2:])
    for mask in term.masks:
        if mask.shape != (len(term.sample), *volume):
            raise ValueError(f"{name}: expected bit masks of {(len(term.sample), *volume)}, got {mask.shape}")
        check_device(name, mask.words, "logits", logits)
    if isinstance(term, AttenuationStats):
        check_shape(f"{name}.ct", term.ct, (logits.shape[0], *volume), "(B, D, H, W)")
        check_device(f"{name}.ct", term.ct, "logits", logits)
    if isinstance(term, BceDice) and term.weights is not None:
        check_full_precision(f"{name}.weights", term.weights)
        check_shape(f"{name}.weights", term.weights, (len(term.sample), *term.weights.shape[1:2]), "(G, N)")
        check_device(f"{name}.weights", term.weights, "logits", logits)


def _tensors(logits: torch.Tensor, term: Term) -> list[torch.Tensor]:
    """Three tensors: the bit masks' words, and the weights or the CT."""
    none = logits.new_zeros(0)
    words = [mask.words for mask in term.masks]
    if isinstance(term, RegionSums):
        return [*words, none, none]
    if isinstance(term, BceDice):
        return [*words, none if term.weights is None else term.weights]
    return [*words, term.ct.detach()]


def _options(term: Term) -> tuple[float, float, float]:
    return (*term.window, term.eps) if isinstance(term, AttenuationStats) else (0.0, 0.0, 0.0)
