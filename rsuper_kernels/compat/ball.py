# SPDX-License-Identifier: Apache-2.0
"""ball_loss of the public code (public R-Super code, A.6), with its quirks Q8, Q9, Q14 and Q19."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim, check_shape
from rsuper_kernels.compat.channels import get_lesion_channels, merged_weights, only_active_channels
from rsuper_kernels.compat.isolate import BallRule, isolate, tumour_size
from rsuper_kernels.compat.masks import dilated
from rsuper_kernels.compat.segmentation import rank_decay
from rsuper_kernels.losses.segmentation import adaptive_dice
from rsuper_kernels.ops.ball_select import rank_weights
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice


@dataclass(frozen=True)
class _Batch:
    """Merged inputs of a ball loss: logits and dilated segments (B, C', H, W, D), and what each sample reports."""

    logits: torch.Tensor
    region: torch.Tensor
    names: list[str]
    channel: list[int | None]
    """Per sample, the merged channel with a chosen segment."""
    tumours: list[list[tuple[float, float]]]
    """Per sample, (diameter, volume) by descending volume."""
    activation: str

    @property
    def positive(self) -> list[tuple[int, int]]:
        """The planes (sample, channel) with tumours."""
        return [(b, c) for b, c in enumerate(self.channel) if c is not None and self.tumours[b]]

    def plane_name(self, plane: tuple[int, int]) -> str:
        return f"sample {plane[0]}, {self.names[plane[1]]}"

    def probability(self, planes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Detached probabilities (P, H, W, D) of some planes."""
        chosen = self.logits.detach()[[b for b, _ in planes], [c for _, c in planes]]
        chosen = chosen.to(accumulation_dtype(chosen))
        return chosen.sigmoid() if self.activation == "sigmoid" else chosen


def _merge(
    out: torch.Tensor,
    chosen_segment_mask: torch.Tensor,
    tumor_volumes: torch.Tensor,
    tumor_diameters: torch.Tensor,
    classes: Sequence[str],
    subseg_dilation: int,
    sigmoid: bool,
) -> _Batch:
    check_float("out", out)
    check_ndim("out", out, "(B, C, H, W, D)")
    check_shape("chosen_segment_mask", chosen_segment_mask, tuple(out.shape), "(B, C, H, W, D)")
    logits, names = get_lesion_channels(out, classes, return_class_names=True)
    segment = get_lesion_channels(chosen_segment_mask, classes) > 0
    tumours = read_tumours(tumor_volumes, tumor_diameters, out.shape[0])
    channel = only_active_channels(segment, names)
    region = dilated(segment, subseg_dilation)
    return _Batch(logits, region, names, channel, tumours, "sigmoid" if sigmoid else "identity")


def read_tumours(
    tumor_volumes: torch.Tensor, tumor_diameters: torch.Tensor, batch: int
) -> list[list[tuple[float, float]]]:
    """Per sample, the (largest diameter, volume) of its tumours by descending volume, zero padding left out.

    Args:
        tumor_volumes: (B, T) in voxels. tumor_diameters: (B, T, 3) in voxels. Both are copied to the host.

    Raises:
        ValueError: other shapes, negative or NaN entries, a volume without a diameter or the reverse.
    """
    check_ndim("tumor_volumes", tumor_volumes, "(B, T)")
    check_shape("tumor_volumes", tumor_volumes, (batch, tumor_volumes.shape[1]), "(B, T)")
    check_shape("tumor_diameters", tumor_diameters, (*tumor_volumes.shape, 3), "(B, T, 3)")
    samples = []
    for b, (volumes, diameters) in enumerate(zip(tumor_volumes.tolist(), tumor_diameters.tolist(), strict=True)):
        found = []
        for t, (volume, edges) in enumerate(zip(volumes, diameters, strict=True)):
            if not (volume >= 0 and sum(edges) >= 0 and (volume > 0) == (sum(edges) > 0)):
                raise ValueError(
                    f"tumor_volumes, tumor_diameters: expected both positive, or both 0 for padding, for tumour {t} of "
                    f"sample {b}, got {volume} mm3 and {edges} mm"
                )
            if volume > 0:
                # the public code's stand-ins for tumours of at most one voxel
                found.append((3.0 if max(edges) <= 1 else max(edges), 9.0 if volume <= 1 else volume))
        samples.append(sorted(found, key=lambda tumour: -tumour[1]))
    return samples


def _placements(batch: _Batch, rule: BallRule) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Place the first tumour of each positive plane, then the second: rows of `batch.positive`, and their masks."""
    planes = batch.positive
    if not planes:
        return
    probability = batch.probability(planes)
    available = batch.region[[b for b, _ in planes], [c for _, c in planes]]
    for rank in range(max(len(batch.tumours[b]) for b, _ in planes)):
        rows = [row for row, (b, _) in enumerate(planes) if len(batch.tumours[b]) > rank]
        names = [f"tumour {rank} (by volume) of {batch.plane_name(planes[row])}" for row in rows]
        sizes = [
            tumour_size(*batch.tumours[planes[row][0]][rank], probability[0].numel(), rule, name)
            for row, name in zip(rows, names, strict=True)
        ]
        masks = isolate(probability[rows], available[rows], sizes, rule, names)
        available[rows] &= ~masks[:, 0]
        yield rows, masks


def ball_pseudo_masks(
    out: torch.Tensor,
    chosen_segment_mask: torch.Tensor,
    tumor_volumes: torch.Tensor,
    tumor_diameters: torch.Tensor,
    classes: Sequence[str],
    diameter_margin: float = 0.2,
    volume_margin: float = 0.2,
    gaussian: bool = True,
    gaussian_std: float = 1.5,
    subseg_dilation: int = 31,
    sigmoid: bool = True,
) -> list[list[torch.Tensor]]:
    """Give the pseudo-masks that `ball_loss` makes of its inputs.

    Returns:
        Per sample, a list with a bool (3, H, W, D), mid, small and big, for each tumour, in the order of placing, by
        descending volume; empty without tumours. No gradient.

    Raises:
        ValueError: as `ball_loss`. The public code has no such function; its masks stay inside its ball_loss.
    """
    batch = _merge(out, chosen_segment_mask, tumor_volumes, tumor_diameters, classes, subseg_dilation, sigmoid)
    found: list[list[torch.Tensor]] = [[] for _ in batch.channel]
    for rows, masks in _placements(batch, BallRule(diameter_margin, volume_margin, gaussian, gaussian_std)):
        for row, mask in zip(rows, masks, strict=True):
            found[batch.positive[row][0]].append(mask)
    return found


def ball_loss(
    out: torch.Tensor,
    labels: torch.Tensor,
    unk_voxels: torch.Tensor,
    chosen_segment_mask: torch.Tensor,
    tumor_volumes: torch.Tensor,
    tumor_diameters: torch.Tensor,
    classes: Sequence[str],
    apply_dice_loss: bool,
    diameter_margin: float = 0.2,
    volume_margin: float = 0.2,
    gaussian: bool = True,
    gaussian_std: float = 1.5,
    gwrp: bool = True,
    gwrp_concentration: float = 0.5,
    dilation_for_background: int = 7,
    subseg_dilation: int = 31,
    input_tensor: torch.Tensor | None = None,
    unk_dilation: int = 1,
    sigmoid: bool = True,
    standard_ce: bool = False,
    class_weights: torch.Tensor | None = None,
    single_class: bool = False,
    use_small_pseudo_mask: bool = True,
) -> dict[str, torch.Tensor]:
    """Place each reported tumour at its most probable ball and train on it, everything in voxels of 1 mm.

    Args:
        out: logits (B, C, H, W, D), any float dtype; probabilities with sigmoid=False. The only input with a gradient.
        labels, unk_voxels, chosen_segment_mask: (B, C, H, W, D) of 0 and 1; at most one lesion type of a sample may be
            chosen.
        tumor_volumes: (B, T) in mm3, 0 for padding. tumor_diameters: (B, T, 3) in mm.
        classes: C class names; lesion types are merged, see `get_lesion_channels`.
        apply_dice_loss: add the Dice part, else it is 0.
        gwrp, gwrp_concentration, standard_ce: rank weights of the foreground; standard_ce=True or gwrp=False weighs all
            alike.
        dilation_for_background: size of the dilation of the tolerated border.
        class_weights: None, (B, C) or (B, C, 1, 1, 1).
        input_tensor: accepted and ignored.
        single_class: not supported, as in the public code, where it fails.

    Returns:
        {"ball_loss_bce", "ball_loss_dice"}: scalars, float32 (float64 for float64 logits), means over the samples. A
        sample without tumours, or without a chosen segment, has target 0 in every lesion channel.

    Raises:
        ValueError: shapes that do not fit, two chosen lesion types in a sample, a volume without a diameter or the
            reverse, and (looked at on the CPU only) tumours that do not fit the patch; the sample is named.
        NotImplementedError: single_class=True.

    Source: Bassi et al., MICCAI 2025; public R-Super code, A.6.
    """
    if single_class:
        raise NotImplementedError("single_class=True: not supported, its branches fail in the public code as well")
    for name, mask in (("labels", labels), ("unk_voxels", unk_voxels)):
        check_shape(name, mask, tuple(out.shape), "(B, C, H, W, D)")
    batch = _merge(out, chosen_segment_mask, tumor_volumes, tumor_diameters, classes, subseg_dilation, sigmoid)
    known = ~dilated(get_lesion_channels(unk_voxels, classes), unk_dilation)
    penalised = (known & (get_lesion_channels(labels, classes) < 1)) | batch.region

    rule = BallRule(diameter_margin, volume_margin, gaussian, gaussian_std)
    foreground, border = _targets(batch, rule, use_small_pseudo_mask, dilation_for_background)
    planes = batch.positive
    negative = _negative_planes(batch)
    if planes:
        penalised[[b for b, _ in planes], [c for _, c in planes]] &= ~border
    concentration = gwrp_concentration if gwrp and not standard_ce else None
    weights = _voxel_weights(batch, foreground, concentration)

    sample, channel = [b for b, _ in planes + negative], [c for _, c in planes + negative]
    padding = (0, 0) * 3 + (0, len(negative))
    sums = masked_bce_dice(
        batch.logits,
        F.pad(foreground, padding),
        penalised[sample, channel],
        None if weights is None else F.pad(weights, padding, value=1),
        sample=sample,
        channel=channel,
        activation=batch.activation,
    )
    # a positive sample is the mean over its one plane, a negative one over all lesion channels (Q14)
    batch_size, lesions = batch.logits.shape[:2]
    share = sums.new_tensor([1.0] * len(planes) + [1 / lesions] * len(negative)) / batch_size
    if class_weights is not None:
        share = share * merged_weights(class_weights, classes)[sample, channel].to(share)
    bce = (sums[:, 0] + sums[:, 1]) / batch.logits[0, 0].numel()
    dice = adaptive_dice(*sums[:, 2:5].unbind(1), dim=None, empty="one")
    return {
        "ball_loss_bce": (bce * share).sum(),
        "ball_loss_dice": (dice * share).sum() if apply_dice_loss else share.new_zeros(()),
    }


@torch.no_grad()
def _targets(
    batch: _Batch, rule: BallRule, use_small: bool, dilation_for_background: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Foreground and tolerated border of the positive planes, bool (P, H, W, D)."""
    shape = (len(batch.positive), *batch.logits.shape[2:])
    foreground = torch.zeros(shape, dtype=torch.bool, device=batch.logits.device)
    tolerated = foreground.clone()
    for rows, masks in _placements(batch, rule):
        foreground[rows] |= masks[:, 1 if use_small else 0]
        tolerated[rows] |= masks[:, 2]
    return foreground, dilated(tolerated, dilation_for_background) & ~foreground


def _negative_planes(batch: _Batch) -> list[tuple[int, int]]:
    """Every lesion channel of the samples without tumours."""
    positive = {b for b, _ in batch.positive}
    return [(b, c) for b in range(len(batch.channel)) if b not in positive for c in range(batch.logits.shape[1])]


@torch.no_grad()
def _voxel_weights(batch: _Batch, foreground: torch.Tensor, concentration: float | None) -> torch.Tensor | None:
    """Weights (P, H, W, D) of the cross-entropy: rank weights with mean 1 on the foreground, 1 elsewhere."""
    if concentration is None or not batch.positive:
        return None
    probability = batch.probability(batch.positive)
    if probability.device.type == "cpu":
        for plane, inside in zip(batch.positive, foreground, strict=True):
            if not inside.any():
                raise ValueError(
                    f"{batch.plane_name(plane)}: expected at least one foreground voxel to weigh, got none"
                )
        return torch.stack([_cpu_weights(*plane, concentration) for plane in zip(probability, foreground, strict=True)])
    limits = [foreground[0].numel()] * len(foreground)
    return torch.where(foreground, rank_weights(probability, foreground, limits, concentration=concentration), 1)


def _cpu_weights(probability: torch.Tensor, foreground: torch.Tensor, concentration: float) -> torch.Tensor:
    """Weights (H, W, D) whose ties rank as the public code's sort of the whole patch leaves them."""
    count = int(foreground.sum())
    # the public key: 1 is added so that a foreground voxel with probability 0 ranks before the background
    key = probability * foreground + foreground
    values = key[foreground]
    if values.unique().numel() < count:
        values = key.flatten()
    weights = rank_decay(values, values.new_tensor(count), concentration, hard_cutoff=True) * count
    out = torch.ones_like(probability)
    out[foreground] = weights if len(weights) == count else weights.view_as(out)[foreground]
    return out
