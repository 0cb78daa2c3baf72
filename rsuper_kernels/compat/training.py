# SPDX-License-Identifier: Apache-2.0
"""The total loss of the public training code (public R-Super code, A.7, A.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import accumulation_dtype, check_float, check_shape
from rsuper_kernels.compat.ball import BallBatch, Head, ball_batch, ball_from_sums, ball_term
from rsuper_kernels.compat.baselines import model_genesis_loss
from rsuper_kernels.compat.channels import LesionPlanes
from rsuper_kernels.compat.isolate import BallRule
from rsuper_kernels.compat.masks import check_binary, dilated_bits
from rsuper_kernels.compat.volume import VolumeBatch, volume_batch, volume_from_sums, volume_term
from rsuper_kernels.losses.segmentation import segmentation_from_sums
from rsuper_kernels.ops.loss_sums import BceDice, Term, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.recipes import get_recipe
from rsuper_kernels.tables import every_plane

# Sizes of dilations, see `dilate_volume`: of unknown voxels, near which labels are not trusted, and of the segment.
KNOWN_DILATION, SEGMENT_DILATION = 5, 31
BALL_NAMES = ("ball", "dynamic", "dll")


def calculate_loss(
    model_output: Mapping[str, Any],
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    args: Any,
    matcher: None,
    chosen_segment_mask: torch.Tensor | None,
    tumor_volumes_report: torch.Tensor,
    tumor_diameters: torch.Tensor,
    classes: Sequence[str],
    input_tensor: torch.Tensor | None = None,
    class_weights: torch.Tensor | None = None,
    model_genesis: bool = False,
    clip_only: bool = False,
    report_embeddings: torch.Tensor | None = None,
    dist: Any = None,
) -> dict[str, torch.Tensor]:
    """Add up segmentation, ball, volume and classification losses of all heads as the public training code does.

    Args:
        model_output: "segmentation": logits (B, C, H, W, D), or a list [final, auxiliary, ...] of them;
            "classification" if args.classification_branch is set.
        label: (B, C, H, W, D) of 0 and 1, any dtype. unk_voxels, chosen_segment_mask: the same shape or None.
        args: holds loss, aux_weight, seg_loss, report_volume_loss_basic, volume_loss_tolerance, ball_bce_weight,
            ball_dice_weight, ball_volume_margin, stardard_ce_ball (sic), and optionally classification_branch.
            args.loss chooses the report loss of each head: "ball" (final head only with "last"), "dice" for its Dice
            part, "both" to add the volume loss; every other head takes the volume loss.
        matcher, args.multi_ch_tumor: channel matching, dead in the public code; refused.
        tumor_volumes_report: (B, T) in mm3. tumor_diameters: (B, T, 3) in mm.
        class_weights: None or (B, C).
        model_genesis: return `model_genesis_loss` of the segmentation output instead.
        clip_only, report_embeddings, dist: the contrastive baseline, which does not run from the public release;
            refused.
        input_tensor: accepted and ignored.

    Returns:
        "segmentation", the report losses that apply ("ball_loss_bce", "ball_loss_dice", "dice_volume_loss", or "report"
        = 0 without report weight), "classification", each with its weights, and their sum "overall".

    Raises:
        ValueError: inputs that do not fit or contradict each other, with the reason and the sample. Contents of masks,
            and whether the loss is NaN, are looked at on the CPU only.
        NotImplementedError: a dead branch.

    Source: public R-Super code, A.7.
    """
    if matcher is not None or getattr(args, "multi_ch_tumor", False):
        raise NotImplementedError(
            "matcher, args.multi_ch_tumor: channel matching is not supported; the public trainer refuses it too"
        )
    if clip_only or report_embeddings is not None:
        raise NotImplementedError(
            "clip_only, report_embeddings: the contrastive baseline is not supported; see info_nce for its loss"
        )
    if model_genesis:
        return model_genesis_loss(model_output["segmentation"], label)

    heads, weights = _heads(model_output["segmentation"], args)
    _check_shapes(heads, label, unk_voxels, chosen_segment_mask, classes, class_weights)
    terms: dict[str, torch.Tensor] = {}
    if getattr(args, "classification_branch", False):
        if "classification" not in model_output:
            raise ValueError('model_output: expected "classification", since args.classification_branch is set')
        terms["classification"] = classification_loss(
            model_output["classification"], label, unk_voxels, args, chosen_segment_mask, classes, class_weights
        )
    reported = (tumor_volumes_report, tumor_diameters)
    with torch.no_grad():
        batch = _prepare(label, unk_voxels, chosen_segment_mask, *reported, classes, args, len(heads))
    for index, (head, weight) in enumerate(zip(heads, weights, strict=True)):
        segmentation, report = _head_losses(head, index, batch, args, tumor_volumes_report, classes, class_weights)
        _add(terms, {"segmentation": weight * args.seg_loss * segmentation})
        if batch.report is None:
            terms["report"] = segmentation.new_zeros(())
        _add(terms, {name: weight * args.report_volume_loss_basic * value for name, value in report.items()})
    overall = torch.stack([value.to(segmentation) for value in terms.values()]).sum()
    _check_overall(overall, terms, heads, classes)
    return merge_no_overlap(terms, {"overall": overall})


def _heads(segmentation: Any, args: Any) -> tuple[list[torch.Tensor], list[float]]:
    """Logits and weight of every head; a bare tensor weighs 1."""
    if isinstance(segmentation, torch.Tensor):
        return [segmentation], [1.0]
    heads, weights = list(segmentation), list(args.aux_weight)
    if not heads or len(weights) < len(heads):
        raise ValueError(f"args.aux_weight: expected a weight for each of {len(heads)} heads, got {weights}")
    return heads, weights[: len(heads)]


def _check_shapes(
    heads: Sequence[torch.Tensor],
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    chosen: torch.Tensor | None,
    classes: Sequence[str],
    class_weights: torch.Tensor | None,
) -> None:
    shape = tuple(label.shape)
    if len(shape) != 5 or shape[1] != len(classes):
        raise ValueError(f"label: expected (B, {len(classes)}, H, W, D) for {len(classes)} classes, got shape {shape}")
    for index, head in enumerate(heads):
        check_float(f"segmentation[{index}]", head)
        check_shape(f"segmentation[{index}]", head, shape, "(B, C, H, W, D)")
    for name, mask in (("unk_voxels", unk_voxels), ("chosen_segment_mask", chosen)):
        if mask is not None:
            check_shape(name, mask, shape, "(B, C, H, W, D)")
    if class_weights is not None:
        check_shape("class_weights", class_weights, shape[:2], "(B, C)")


@dataclass(frozen=True)
class _Batch:
    """What all heads share; bit masks have one mask for each of the B * C planes."""

    labels: BitMasks
    known: BitMasks
    report: _Report | None
    """None without report losses."""


@dataclass(frozen=True)
class _Report:
    planes: LesionPlanes
    ball: BallBatch | None
    volume: VolumeBatch | None


def _prepare(
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    chosen_segment_mask: torch.Tensor | None,
    volumes: torch.Tensor,
    diameters: torch.Tensor,
    classes: Sequence[str],
    args: Any,
    heads: int,
) -> _Batch:
    """Pack the masks, and check what they say.

    Raises:
        ValueError: as `calculate_loss`.
    """
    labels = pack_masks(label.flatten(0, 1))
    known = unknown = None
    if unk_voxels is not None:
        check_binary("unk_voxels", unk_voxels)
        unknown = pack_masks(unk_voxels.flatten(0, 1))
        doubtful = dilated_bits(unknown, KNOWN_DILATION)
        if label.device.type == "cpu":
            _check_clash(labels & doubtful, len(classes))
        known = doubtful.complement()
    chosen = None if chosen_segment_mask is None else pack_masks(chosen_segment_mask.flatten(0, 1))
    if chosen is not None:
        _check_chosen(chosen, unknown, volumes, len(classes))
    if known is None:
        known = BitMasks.full(len(labels), labels.shape[1:], label.device)
    if not args.report_volume_loss_basic > 0:
        return _Batch(labels, known, None)
    if chosen is None or unknown is None:
        raise ValueError(
            "chosen_segment_mask, unk_voxels: expected both, since args.report_volume_loss_basic is positive, got None"
        )
    planes = LesionPlanes.of(classes)
    segment, lesions = planes.merge(chosen), planes.merge(labels)
    applied = [_which_losses(args.loss, index) for index in range(heads)]
    ball = volume = None
    if any(with_ball for with_ball, _ in applied):
        ball = ball_batch(planes, segment, lesions, planes.merge(unknown), volumes, diameters)
    if any(with_volume for _, with_volume in applied):
        volume = volume_batch(planes, segment, lesions, SEGMENT_DILATION)
    return _Batch(labels, known, _Report(planes, ball, volume))


def _check_chosen(chosen: BitMasks, unknown: BitMasks | None, volumes: torch.Tensor, classes: int) -> None:
    """A sample with a chosen segment is a report sample: its volumes are given, and its labels partly unknown."""
    used = chosen.any().view(-1, classes).any(1).tolist()
    partly_unknown = [False] * len(used) if unknown is None else unknown.any().view(-1, classes).any(1).tolist()
    for sample, in_use in enumerate(used):
        if in_use and not partly_unknown[sample]:
            what = "None" if unknown is None else "all 0"
            raise ValueError(
                f"unk_voxels: expected unknown voxels in sample {sample}, which has a chosen segment, got {what}"
            )
        if in_use and not any(volumes[sample].flatten().tolist()):
            raise ValueError(
                f"tumor_volumes_report: expected a volume in sample {sample}, which has a chosen segment, got only 0"
            )


def _check_clash(clash: BitMasks, classes: int) -> None:
    """Raise where labels lie on or beside unknown voxels."""
    for plane in clash.any().nonzero().flatten().tolist():
        sample, channel = divmod(plane, classes)
        raise ValueError(
            f"unk_voxels: expected no unknown voxel within 2 voxels of a positive label, sample {sample} has "
            f"{int(clash[[plane]].unpack().sum())} such label voxels in channel {channel}"
        )


def _which_losses(name: str, index: int) -> tuple[bool, bool]:
    """Whether head `index` takes the ball loss and the volume loss, by args.loss."""
    ball = any(word in name for word in BALL_NAMES) and not (index > 0 and "last" in name)
    return ball, not ball or "both" in name


def _head_losses(
    head: torch.Tensor,
    index: int,
    batch: _Batch,
    args: Any,
    volumes: torch.Tensor,
    classes: Sequence[str],
    class_weights: torch.Tensor | None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The segmentation loss of one head and its report losses, with the weights of ball BCE and Dice."""
    recipe = get_recipe("rsuper")
    segmentation = BceDice(batch.labels, batch.known, *every_plane(head))
    if batch.report is None:
        bce, dice = segmentation_from_sums(loss_sums(head, [segmentation])[0], head, class_weights, recipe)
        return bce + dice, {}
    report, ball, volume = batch.report, batch.report.ball, batch.report.volume
    with_ball, with_volume = _which_losses(args.loss, index)
    merged = Head(*report.planes.logits(head))
    terms: dict[str, Term] = {}
    if with_ball and ball is not None:
        if head.device.type == "cpu" and any(plane.isnan().any() for plane in merged.planes(ball.positive)):
            _check_no_nan(f"segmentation[{index}]", head, classes)
        rule = BallRule(args.ball_volume_margin, args.ball_volume_margin)
        terms["ball"] = ball_term(merged, ball, rule, None if args.stardard_ce_ball else 0.5)
    if with_volume and volume is not None:
        terms["volume"] = volume_term(volume, merged.channels)
    sums = _sums(head, segmentation, merged, terms)
    losses: dict[str, torch.Tensor] = {}
    if ball is not None and "ball" in sums:
        found = ball_from_sums(sums["ball"], ball, classes, "dice" in args.loss, class_weights)
        losses["ball_loss_bce"] = args.ball_bce_weight * found["ball_loss_bce"]
        losses["ball_loss_dice"] = args.ball_dice_weight * found["ball_loss_dice"]
    if volume is not None and "volume" in sums:
        tolerance = args.volume_loss_tolerance
        found = volume_from_sums(sums["volume"], volume, volumes, classes, tolerance, class_weights)
        losses = merge_no_overlap(losses, found)
    bce, dice = segmentation_from_sums(sums["segmentation"], head, class_weights, recipe)
    return bce + dice, losses


def _sums(head: torch.Tensor, segmentation: BceDice, merged: Head, terms: dict[str, Term]) -> dict[str, torch.Tensor]:
    """The sums of all terms: in one pass, unless lesion channels had to be merged into a tensor of their own."""
    names = ["segmentation", *terms]
    if merged.logits is head:
        return dict(zip(names, loss_sums(head, [segmentation, *terms.values()]), strict=True))
    own, report = loss_sums(head, [segmentation]), loss_sums(merged.logits, list(terms.values()))
    return dict(zip(names, own + report, strict=True))


def _add(terms: dict[str, torch.Tensor], more: Mapping[str, torch.Tensor]) -> None:
    for name, value in more.items():
        terms[name] = terms[name] + value if name in terms else value


def _check_overall(
    overall: torch.Tensor, terms: Mapping[str, torch.Tensor], heads: Sequence[torch.Tensor], classes: Sequence[str]
) -> None:
    if torch.is_grad_enabled() and not overall.requires_grad:
        raise ValueError("overall: expected a loss with a gradient, but no model output requires one")
    if overall.device.type != "cpu" or not overall.isnan():
        return
    for index, head in enumerate(heads):
        _check_no_nan(f"segmentation[{index}]", head, classes)
    raise ValueError(f"overall: NaN from {', '.join(name for name, value in terms.items() if value.isnan())}")


def _check_no_nan(name: str, logits: torch.Tensor, classes: Sequence[str]) -> None:
    for sample, channel in logits.detach().isnan().flatten(2).any(2).nonzero().tolist():
        raise ValueError(f"{name}: NaN in sample {sample}, channel {channel} ({classes[channel]})")


def merge_no_overlap(d1: Mapping[str, Any], d2: Mapping[str, Any]) -> dict[str, Any]:
    """Join two dicts; raises KeyError if they share a key."""
    shared = sorted(set(d1) & set(d2))
    if shared:
        raise KeyError(f"both dicts hold {', '.join(map(repr, shared))}")
    return {**d1, **d2}


def classification_loss(
    cls_out: torch.Tensor,
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    args: Any,
    chosen_segment_mask: torch.Tensor | None,
    classes: Sequence[str],
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Ask of each "lesion" class whether it is present: in the labels, or in the chosen segment of the report.

    Args:
        cls_out: logits (B, Nc), one for each class whose name contains "lesion". Takes the gradient.
        label, unk_voxels, chosen_segment_mask: (B, C, H, W, D); the last two may be None.
        args: accepted and ignored.
        class_weights: None or (B, Nc).

    Returns:
        Mean cross-entropy over B * Nc, float32; absent classes with unknown voxels count 0.

    Raises:
        ValueError: shapes that do not fit (Q11).

    Source: public R-Super code, A.8.
    """
    lesions = [channel for channel, name in enumerate(classes) if "lesion" in name]
    shape = (label.shape[0], len(lesions))
    check_shape("cls_out", cls_out, shape, '(B, Nc), Nc the classes with "lesion" in their name,')
    logits = cls_out.to(accumulation_dtype(cls_out))

    def present(mask: torch.Tensor | None) -> torch.Tensor:
        if mask is None:
            return torch.zeros(shape, dtype=torch.bool, device=logits.device)
        return (mask[:, lesions] != 0).flatten(2).any(2)

    target = present(label) | present(chosen_segment_mask)
    losses = F.binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none")
    losses = losses * (target | ~present(unk_voxels))
    if class_weights is not None:
        check_shape("class_weights", class_weights, shape, "(B, Nc)")
        losses = losses * class_weights.to(losses)
    return losses.mean()
