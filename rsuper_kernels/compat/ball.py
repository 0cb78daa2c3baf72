# SPDX-License-Identifier: Apache-2.0
"""ball_loss of the public code (public R-Super code, A.6), with its quirks Q8, Q9, Q14 and Q19."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsuper_kernels import gpu
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim, check_shape
from rsuper_kernels.compat.channels import LesionPlanes, merged_weights
from rsuper_kernels.compat.isolate import BallRule, isolate, tumour_size
from rsuper_kernels.compat.masks import dilated_bits
from rsuper_kernels.compat.segmentation import rank_decay
from rsuper_kernels.ops.ball_select import foreground_weights
from rsuper_kernels.ops.curves import adaptive_dice
from rsuper_kernels.ops.loss_sums import BceDice, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks
from rsuper_kernels.tables import take, take_planes


@dataclass(frozen=True)
class BallBatch:
    """What all heads share: a mask for each of the B * C' planes of lesion types, and what each sample reports."""

    planes: LesionPlanes
    region: BitMasks
    """The dilated segment."""
    penalised: BitMasks
    """Voxels that are not tolerated whatever is placed: known background, and the region."""
    channel: list[int | None]
    """Per sample, the lesion type with a chosen segment."""
    tumours: list[list[tuple[float, float]]]
    """Per sample, (diameter, volume) by descending volume."""

    @property
    def positive(self) -> list[tuple[int, int]]:
        """The planes (sample, lesion type) with tumours."""
        return [(b, c) for b, c in enumerate(self.channel) if c is not None and self.tumours[b]]

    @property
    def negative(self) -> list[tuple[int, int]]:
        """Every lesion type of the samples without tumours."""
        positive = {b for b, _ in self.positive}
        return [(b, c) for b in range(len(self.channel)) if b not in positive for c in range(len(self.planes))]

    def rows(self, planes: Sequence[tuple[int, int]]) -> list[int]:
        """Where these planes stand among the masks."""
        return [b * len(self.planes) + c for b, c in planes]

    def plane_name(self, plane: tuple[int, int]) -> str:
        return f"sample {plane[0]}, {self.planes.names[plane[1]]}"


@dataclass(frozen=True)
class Head:
    """One head's logits, the channel of each lesion type in them, and whether they are logits at all."""

    logits: torch.Tensor
    channels: list[int]
    activation: str = "sigmoid"

    def planes(self, planes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Detached logits (P, H, W, D) of some planes (sample, lesion type)."""
        return take_planes(self.logits.detach(), [b for b, _ in planes], [self.channels[c] for _, c in planes])

    def probability(self, planes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Detached probabilities (P, H, W, D) of some planes (sample, lesion type)."""
        chosen = self.planes(planes)
        chosen = chosen.to(accumulation_dtype(chosen))
        return chosen.sigmoid() if self.activation == "sigmoid" else chosen


def ball_batch(
    planes: LesionPlanes,
    segment: BitMasks,
    labels: BitMasks,
    unknown: BitMasks,
    tumor_volumes: torch.Tensor,
    tumor_diameters: torch.Tensor,
    subseg_dilation: int = 31,
    unk_dilation: int = 1,
) -> BallBatch:
    """Merged segments, labels and unknown voxels, B * C' masks each -> what the ball loss works with.

    Raises:
        ValueError: as `ball_loss`.
    """
    tumours = read_tumours(tumor_volumes, tumor_diameters, len(segment) // len(planes))
    channel = planes.in_use(segment)
    region = dilated_bits(segment, subseg_dilation)
    background = (dilated_bits(unknown, unk_dilation) | labels).complement()
    return BallBatch(planes, region, background | region, channel, tumours)


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


def _placements(head: Head, batch: BallBatch, rule: BallRule) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Place the first tumour of each positive plane, then the second: rows of `batch.positive`, and their masks."""
    planes = batch.positive
    if not planes:
        return
    probability = head.probability(planes)
    available = unpack_masks(batch.region[batch.rows(planes)])
    for rank in range(max(len(batch.tumours[b]) for b, _ in planes)):
        rows = [row for row, (b, _) in enumerate(planes) if len(batch.tumours[b]) > rank]
        names = [f"tumour {rank} (by volume) of {batch.plane_name(planes[row])}" for row in rows]
        sizes = [
            tumour_size(*batch.tumours[planes[row][0]][rank], probability[0].numel(), rule, name)
            for row, name in zip(rows, names, strict=True)
        ]
        masks = isolate(take(probability, rows), take(available, rows), sizes, rule, names)
        for row, mask in zip(rows, masks, strict=True):
            available[row] &= ~mask[0]
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
    _check_arrays(out, {"chosen_segment_mask": chosen_segment_mask})
    planes = LesionPlanes.of(_as_many_names(classes, out))
    segment = planes.pack(chosen_segment_mask)
    nothing = BitMasks.zeros(len(segment), segment.shape[1:], out.device)
    batch = ball_batch(planes, segment, nothing, nothing, tumor_volumes, tumor_diameters, subseg_dilation)
    head = Head(*planes.logits(out), "sigmoid" if sigmoid else "identity")
    found: list[list[torch.Tensor]] = [[] for _ in batch.channel]
    for rows, masks in _placements(head, batch, BallRule(diameter_margin, volume_margin, gaussian, gaussian_std)):
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
    masks = {"chosen_segment_mask": chosen_segment_mask, "labels": labels, "unk_voxels": unk_voxels}
    _check_arrays(out, masks)
    planes = LesionPlanes.of(_as_many_names(classes, out))
    segment, lesions, unknown = (planes.pack(mask) for mask in masks.values())
    reported = (tumor_volumes, tumor_diameters)
    batch = ball_batch(planes, segment, lesions, unknown, *reported, subseg_dilation, unk_dilation)
    head = Head(*planes.logits(out), "sigmoid" if sigmoid else "identity")
    rule = BallRule(diameter_margin, volume_margin, gaussian, gaussian_std)
    concentration = gwrp_concentration if gwrp and not standard_ce else None
    term = ball_term(head, batch, rule, concentration, use_small_pseudo_mask, dilation_for_background)
    (sums,) = loss_sums(head.logits, [term], activation=head.activation)
    return ball_from_sums(sums, batch, classes, apply_dice_loss, class_weights)


def _check_arrays(out: torch.Tensor, masks: Mapping[str, torch.Tensor]) -> None:
    check_float("out", out)
    check_ndim("out", out, "(B, C, H, W, D)")
    for name, mask in masks.items():
        check_shape(name, mask, tuple(out.shape), "(B, C, H, W, D)")


def _as_many_names(classes: Sequence[str], out: torch.Tensor) -> Sequence[str]:
    if len(classes) != out.shape[1]:
        raise ValueError(
            f"classes: expected one name for each channel of out {tuple(out.shape)}, got {len(classes)} names"
        )
    return classes


@torch.no_grad()
def ball_term(
    head: Head,
    batch: BallBatch,
    rule: BallRule,
    concentration: float | None,
    use_small: bool = True,
    dilation_for_background: int = 7,
) -> BceDice:
    """What the ball loss needs of the logits: the positive planes, then the negative ones.

    Raises:
        ValueError: looked at on the CPU only, tumours that do not fit the patch; the sample is named.
    """
    positive, negative = batch.positive, batch.negative
    core, tolerated = _pseudo_masks(head, batch, rule, use_small)
    foreground = pack_masks(core)
    border = dilated_bits(pack_masks(tolerated), dilation_for_background).minus(foreground)
    penalised = batch.penalised[batch.rows(positive)].minus(border)
    no_target = BitMasks.zeros(len(negative), foreground.shape[1:], foreground.words.device)
    return BceDice(
        _concatenated(foreground, no_target),
        _concatenated(penalised, batch.penalised[batch.rows(negative)]),
        [b for b, _ in positive + negative],
        [head.channels[c] for _, c in positive + negative],
        _voxel_weights(head, batch, core, concentration),
    )


def _concatenated(first: BitMasks, second: BitMasks) -> BitMasks:
    return BitMasks(torch.cat([first.words, second.words]), first.width)


def _pseudo_masks(head: Head, batch: BallBatch, rule: BallRule, use_small: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Foreground, and what the tolerated border grows from, of the positive planes, bool (P, H, W, D)."""
    shape = (len(batch.positive), *batch.region.shape[1:])
    foreground = torch.zeros(shape, dtype=torch.bool, device=head.logits.device)
    tolerated = foreground.clone()
    for rows, masks in _placements(head, batch, rule):
        for row, mask in zip(rows, masks, strict=True):
            foreground[row] |= mask[1 if use_small else 0]
            tolerated[row] |= mask[2]
    return foreground, tolerated


def ball_from_sums(
    sums: torch.Tensor,
    batch: BallBatch,
    classes: Sequence[str],
    apply_dice_loss: bool,
    class_weights: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """The ball loss, given the sums of its `ball_term`."""
    positive, negative = batch.positive, batch.negative
    batch_size, lesions = len(batch.channel), len(batch.planes)
    # a positive sample is the mean over its one plane, a negative one over all lesion types (Q14)
    shares = [1 / batch_size] * len(positive) + [1 / lesions / batch_size] * len(negative)
    share = gpu.table(shares, sums.dtype, sums.device)
    if class_weights is not None:
        planes = positive + negative
        weights = take_planes(merged_weights(class_weights, classes), [b for b, _ in planes], [c for _, c in planes])
        share = share * weights.to(share)
    bce = (sums[:, 0] + sums[:, 1]) / math.prod(batch.region.shape[1:])
    dice = adaptive_dice(*sums[:, 2:5].unbind(1), dim=None, empty="one")
    return {
        "ball_loss_bce": (bce * share).sum(),
        "ball_loss_dice": (dice * share).sum() if apply_dice_loss else share.new_zeros(()),
    }


def _voxel_weights(
    head: Head, batch: BallBatch, foreground: torch.Tensor, concentration: float | None
) -> torch.Tensor | None:
    """Rank weights of the foreground, mean 1, compact: (P, N) by rising index, and rows of the negative planes."""
    planes = batch.positive
    if concentration is None or not planes:
        return None
    if foreground.device.type != "cpu":
        limits = [foreground[0].numel()] * len(foreground)
        channels = [head.channels[c] for _, c in planes]
        weights = foreground_weights(
            head.logits,
            pack_masks(foreground),
            [b for b, _ in planes],
            channels,
            limits,
            concentration=concentration,
            activation=head.activation,
        )
        return F.pad(weights, (0, 0, 0, len(batch.negative)))
    rows = []
    for plane, probability, inside in zip(planes, head.probability(planes), foreground, strict=True):
        if not inside.any():
            raise ValueError(f"{batch.plane_name(plane)}: expected at least one foreground voxel to weigh, got none")
        rows.append(_cpu_weights(probability, inside, concentration))
    longest = max(len(row) for row in rows)
    padded = [F.pad(row, (0, longest - len(row))) for row in rows]
    return F.pad(torch.stack(padded), (0, 0, 0, len(batch.negative)))


def _cpu_weights(probability: torch.Tensor, foreground: torch.Tensor, concentration: float) -> torch.Tensor:
    """Weights of the foreground voxels, whose ties rank as the public code's sort of the whole patch leaves them."""
    count = int(foreground.count_nonzero())
    # the public key: 1 is added so that a foreground voxel with probability 0 ranks before the background
    key = probability[foreground] + 1
    ranked, order = key.sort(descending=True)
    by_rank = rank_decay(ranked, key.new_tensor(count), concentration, hard_cutoff=True) * count
    if not (ranked[1:] == ranked[:-1]).any():
        return torch.empty_like(by_rank).scatter_(0, order, by_rank)
    whole = (probability * foreground + foreground).flatten().sort(descending=True).indices[:count]
    return torch.zeros_like(probability).flatten().scatter_(0, whole, by_rank).view_as(foreground)[foreground]
