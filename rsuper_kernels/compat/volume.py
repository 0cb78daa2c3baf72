# SPDX-License-Identifier: Apache-2.0
"""Volume loss of the public code (public R-Super code, A.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim, check_shape
from rsuper_kernels.compat.channels import ClassNames, LesionPlanes, merged_weights, read_class_names
from rsuper_kernels.compat.masks import dilated_bits
from rsuper_kernels.ops.curves import volume_curve
from rsuper_kernels.ops.loss_sums import RegionSums, loss_sums


def volume_loss_basic(
    out: torch.Tensor,
    chosen_segment_mask: torch.Tensor,
    tumor_volumes: torch.Tensor,
    labels: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    classes: ClassNames | None = None,
    dilation_segment: int = 31,
    dilation_unk: int = 7,
    tolerance: float = 0.1,
    loss_function: str = "deprecated",
    n: str = "huber",
    sigmoid: bool = True,
    class_weights: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Compare the predicted tumour volume in the dilated segment with the reported one, in voxels of 1 mm.

    Args:
        out: logits (B, C, H, W, D), any float dtype; probabilities with sigmoid=False. The only input with a gradient.
        chosen_segment_mask, labels: (B, C, H, W, D), 0 and 1. A lesion channel with labels takes no part.
        tumor_volumes: (B, T) in mm3, 0 for padding; their sum is the target of every lesion channel with a chosen
            segment.
        classes: C class names, or the path of a .yaml or .txt list of them. There is no default file.
        dilation_segment: size of the dilation of the segment, see `dilate_volume`.
        tolerance: relative error of the volume that costs nothing.
        class_weights: None, (B, C) or (B, C, 1, 1, 1).
        unk_voxels, dilation_unk, loss_function, n: accepted and ignored; they do not enter the public result (Q4).

    Returns:
        {"dice_volume_loss": scalar}, the mean over B and lesion channels, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes that do not fit, no chosen segment, or (looked at on the CPU only) negative or NaN volumes.

    Source: Bassi et al., MICCAI 2025; public R-Super code, A.5.
    """
    names = read_class_names(classes)
    check_float("out", out)
    check_ndim("out", out, "(B, C, H, W, D)")
    if chosen_segment_mask is None:
        raise ValueError("chosen_segment_mask: expected (B, C, H, W, D), got None")
    for name, mask in (("chosen_segment_mask", chosen_segment_mask), ("labels", labels)):
        check_shape(name, mask, tuple(out.shape), "(B, C, H, W, D)")
    check_shape("tumor_volumes", tumor_volumes, (out.shape[0], *tumor_volumes.shape[1:]), "(B, T)")
    planes = LesionPlanes.of(names)
    batch = volume_batch(planes, planes.pack(chosen_segment_mask), planes.pack(labels), dilation_segment)
    logits, channels = planes.logits(out)
    (sums,) = loss_sums(logits, [volume_term(batch, channels)], activation="sigmoid" if sigmoid else "identity")
    return volume_from_sums(sums, batch, tumor_volumes, names, tolerance, class_weights)


@dataclass(frozen=True)
class VolumeBatch:
    """What all heads share: a mask for each of the B * C' planes of lesion types."""

    region: BitMasks
    """The dilated segment."""
    counted: BitMasks
    """The same, but for planes with labels, which take no part."""
    lesions: int
    """C'"""


def volume_batch(planes: LesionPlanes, segment: BitMasks, labels: BitMasks, dilation: int) -> VolumeBatch:
    """Merged segments and labels, B * C' masks each -> what the volume loss sums over."""
    region = dilated_bits(segment, dilation)
    unlabelled = region.words * ~labels.any()[:, None, None, None]
    return VolumeBatch(region, BitMasks(unlabelled, region.width), len(planes))


def volume_term(batch: VolumeBatch, channels: Sequence[int]) -> RegionSums:
    """What the volume loss needs of the logits, whose `channels` hold the lesion types."""
    samples = len(batch.region) // batch.lesions
    sample = [b for b in range(samples) for _ in range(batch.lesions)]
    return RegionSums(batch.counted, sample, list(channels) * samples)


def volume_from_sums(
    sums: torch.Tensor,
    batch: VolumeBatch,
    tumor_volumes: torch.Tensor,
    classes: Sequence[str],
    tolerance: float,
    class_weights: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """The volume loss, given the sums (B * C', 2) of its `volume_term`."""
    predicted = sums[:, 0].view(-1, batch.lesions)
    reported = tumor_volumes.to(predicted).flatten(1).sum(1, keepdim=True) * batch.region.any().view_as(predicted)
    losses = dice_based_volume_loss(predicted, reported, tolerance=tolerance)
    if class_weights is not None:
        losses = losses * merged_weights(class_weights, classes).to(losses)
    return {"dice_volume_loss": losses.mean()}


def dice_based_volume_loss(
    x: torch.Tensor, y: torch.Tensor, tolerance: float = 0.1, E: float = 500, cross_entropy: bool = False
) -> torch.Tensor:
    """Compare predicted with reported volumes, elementwise; zero within the tolerance.

    Args:
        x: predicted volumes (B, C) in voxels, or probabilities (B, C, H, W, D), which are summed. Takes the gradient.
        y: reported volumes (B, C) in voxels.
        tolerance: relative error that costs nothing; none below 100 voxels.
        E: voxels added to the denominators.
        cross_entropy: return -log(1 - loss + 1e-5).

    Returns:
        (B, C) in [0, 1], float32 (float64 for float64 x).

    Raises:
        ValueError: shapes that do not fit, or (looked at on the CPU only) negative or NaN volumes.
    """
    check_float("x", x)
    dtype = accumulation_dtype(x)
    predicted = x.to(dtype).flatten(2).sum(2) if x.ndim > 2 else x.to(dtype)
    check_shape("y", y, tuple(predicted.shape), "(B, C)")
    reported = y.to(dtype)
    for name, volumes in (("x", predicted), ("y", reported)):
        if volumes.device.type == "cpu" and not (volumes.detach() >= 0).all():
            where = (~(volumes.detach() >= 0)).nonzero()[0].tolist()
            raise ValueError(f"{name}: expected volumes of at least 0, got {volumes[tuple(where)].item()} at {where}")
    losses = volume_curve(predicted, reported, tolerance, E)
    return -torch.log(1 - losses + 1e-5) if cross_entropy else losses
