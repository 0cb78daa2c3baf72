# SPDX-License-Identifier: Apache-2.0
"""Registration and public functions of masks as bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks, words_per_row
from rsuper_kernels.checks import check_integer, check_ndim
from rsuper_kernels.tables import flatten

for _op in ("pack_labels", "pack_masks", "unpack_masks"):
    dispatch.register(_op, "reference", dispatch.Backend(f"rsuper_kernels.ops.pack_bits.reference:{_op}"))
    dispatch.register_native("pack_bits", _op)
    dispatch.register_gpu("pack_bits", _op, "triton")


@torch.library.custom_op(
    "rsuper::pack_masks", mutates_args=(), schema="(Tensor masks, int[] planes, int[] counts, str impl) -> Tensor"
)
def _pack_masks(masks: torch.Tensor, planes: Sequence[int], counts: Sequence[int], impl: str) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("pack_masks", impl, masks.device, masks.dtype)(masks, planes, counts)
    return out


@_pack_masks.register_fake
def _(masks: torch.Tensor, planes: Sequence[int], counts: Sequence[int], impl: str) -> torch.Tensor:
    return _empty_words(masks, len(counts))


@torch.library.custom_op(
    "rsuper::pack_labels",
    mutates_args=(),
    schema="(Tensor labels, int[] sample, int[] ids, int[] counts, str impl) -> Tensor",
)
def _pack_labels(
    labels: torch.Tensor, sample: Sequence[int], ids: Sequence[int], counts: Sequence[int], impl: str
) -> torch.Tensor:
    function = dispatch.select("pack_labels", impl, labels.device, labels.dtype)
    out: torch.Tensor = function(labels, sample, ids, counts)
    return out


@_pack_labels.register_fake
def _(labels: torch.Tensor, sample: Sequence[int], *rest: object) -> torch.Tensor:
    return _empty_words(labels, len(sample))


@torch.library.custom_op(
    "rsuper::unpack_masks", mutates_args=(), schema="(Tensor words, int width, str impl) -> Tensor"
)
def _unpack_masks(words: torch.Tensor, width: int, impl: str) -> torch.Tensor:
    out: torch.Tensor = dispatch.select("unpack_masks", impl, words.device, words.dtype)(words, width)
    return out


@_unpack_masks.register_fake
def _(words: torch.Tensor, width: int, impl: str) -> torch.Tensor:
    return words.new_empty(*words.shape[:-1], width, dtype=torch.bool)


def _empty_words(volumes: torch.Tensor, count: int) -> torch.Tensor:
    *volume, width = volumes.shape[1:]
    return volumes.new_empty(count, *volume, words_per_row(width), dtype=torch.int64)


def pack_masks(masks: torch.Tensor, groups: Sequence[Sequence[int]] | None = None, *, impl: str = "auto") -> BitMasks:
    """Pack masks into bits, or unions of them.

    Args:
        masks: (N, D, H, W), any dtype; every value other than 0 is inside.
        groups: per mask of the result, the planes of `masks` whose union it is, none for an empty mask; None: each
            plane by itself.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        G masks as bits, N of them without groups. No gradient.

    Raises:
        ValueError: other axes, or a plane that does not exist.
    """
    check_ndim("masks", masks, "(N, D, H, W)")
    planes, counts = flatten([[plane] for plane in range(len(masks))] if groups is None else groups)
    if planes and not 0 <= min(planes) <= max(planes) < len(masks):
        raise ValueError(f"groups: expected planes from 0 to {len(masks) - 1}, got {planes}")
    words = _pack_masks(masks.detach(), planes, counts, impl)
    return BitMasks(words, masks.shape[-1])


def pack_labels(
    labels: torch.Tensor, sample: Sequence[int], ids: Sequence[Sequence[int]], *, impl: str = "auto"
) -> BitMasks:
    """Mark, for each group, where a label map holds one of the group's ids.

    Args:
        labels: integer label map (B, D, H, W).
        sample: the sample of each of G groups.
        ids: per group, the label ids whose union it is. Ids that do not occur give an empty mask.
        impl: "auto", "reference", "cpu" or "triton".

    Returns:
        G masks as bits.

    Raises:
        TypeError, ValueError: a label map or tables that do not fit, named.
    """
    check_integer("labels", labels)
    check_ndim("labels", labels, "(B, D, H, W)")
    if len(ids) != len(sample):
        raise ValueError(f"ids: expected one list of label ids for each of {len(sample)} groups, got {len(ids)}")
    if any(not 0 <= b < len(labels) for b in sample):
        raise ValueError(f"sample: expected 0 to {len(labels) - 1}, got {list(sample)}")
    return BitMasks(_pack_labels(labels, list(sample), *flatten(ids), impl), labels.shape[-1])


def unpack_masks(masks: BitMasks, *, impl: str = "auto") -> torch.Tensor:
    """The masks as a bool tensor (N, D, H, W)."""
    return _unpack_masks(masks.words, masks.width, impl)
