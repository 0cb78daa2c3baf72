# SPDX-License-Identifier: Apache-2.0
"""The total loss of the public training code and its baselines (public R-Super code, A.7 to A.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from rsuper_kernels.checks import accumulation_dtype, check_choice, check_float, check_shape
from rsuper_kernels.compat.ball import ball_loss
from rsuper_kernels.compat.masks import get_known_voxels
from rsuper_kernels.compat.volume import volume_loss_basic
from rsuper_kernels.losses.segmentation import segmentation_loss

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
        ValueError: inputs that do not fit or contradict each other, with the reason and the sample. Contents of masks
            and logits are looked at on the CPU only.
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
    _check_batch(heads, label, unk_voxels, chosen_segment_mask, tumor_volumes_report, classes, class_weights)
    terms: dict[str, torch.Tensor] = {}
    if getattr(args, "classification_branch", False):
        if "classification" not in model_output:
            raise ValueError('model_output: expected "classification", since args.classification_branch is set')
        terms["classification"] = classification_loss(
            model_output["classification"], label, unk_voxels, args, chosen_segment_mask, classes, class_weights
        )
    known = None if unk_voxels is None else _trusted(label, unk_voxels)
    for index, (head, weight) in enumerate(zip(heads, weights, strict=True)):
        loss = segmentation_loss(head, label, known, class_weights=class_weights, recipe="rsuper")
        _add(terms, {"segmentation": weight * args.seg_loss * loss})
        if not args.report_volume_loss_basic > 0:
            terms["report"] = loss.new_zeros(())
            continue
        report = _report_losses(
            head,
            index,
            label,
            unk_voxels,
            args,
            chosen_segment_mask,
            tumor_volumes_report,
            tumor_diameters,
            classes,
            class_weights,
        )
        _add(terms, {name: weight * args.report_volume_loss_basic * value for name, value in report.items()})
    overall = torch.stack([value.to(loss) for value in terms.values()]).sum()
    _check_overall(overall, terms)
    return merge_no_overlap(terms, {"overall": overall})


def _heads(segmentation: Any, args: Any) -> tuple[list[torch.Tensor], list[float]]:
    """Logits and weight of every head; a bare tensor weighs 1."""
    if isinstance(segmentation, torch.Tensor):
        return [segmentation], [1.0]
    heads, weights = list(segmentation), list(args.aux_weight)
    if not heads or len(weights) < len(heads):
        raise ValueError(f"args.aux_weight: expected a weight for each of {len(heads)} heads, got {weights}")
    return heads, weights[: len(heads)]


def _check_batch(
    heads: Sequence[torch.Tensor],
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    chosen: torch.Tensor | None,
    volumes: torch.Tensor,
    classes: Sequence[str],
    class_weights: torch.Tensor | None,
) -> None:
    shape = tuple(label.shape)
    if len(shape) != 5 or shape[1] != len(classes):
        raise ValueError(f"label: expected (B, {len(classes)}, H, W, D) for {len(classes)} classes, got shape {shape}")
    for index, head in enumerate(heads):
        check_float(f"segmentation[{index}]", head)
        check_shape(f"segmentation[{index}]", head, shape, "(B, C, H, W, D)")
        _check_no_nan(f"segmentation[{index}]", head, classes)
    for name, mask in (("unk_voxels", unk_voxels), ("chosen_segment_mask", chosen)):
        if mask is not None:
            check_shape(name, mask, shape, "(B, C, H, W, D)")
    if class_weights is not None:
        check_shape("class_weights", class_weights, shape[:2], "(B, C)")
    if chosen is not None:
        _check_chosen(chosen, unk_voxels, volumes)


def _check_no_nan(name: str, logits: torch.Tensor, classes: Sequence[str]) -> None:
    if logits.device.type != "cpu":
        return
    bad = logits.detach().isnan().flatten(2).any(2).nonzero().tolist()
    if bad:
        sample, channel = bad[0]
        raise ValueError(f"{name}: NaN in sample {sample}, channel {channel} ({classes[channel]})")


def _check_chosen(chosen: torch.Tensor, unk_voxels: torch.Tensor | None, volumes: torch.Tensor) -> None:
    """A sample with a chosen segment is a report sample: its volumes are given, and its labels partly unknown."""
    unknown = [False] * len(chosen) if unk_voxels is None else (unk_voxels != 0).flatten(1).any(1).tolist()
    for sample, used in enumerate((chosen != 0).flatten(1).any(1).tolist()):
        if used and not unknown[sample]:
            what = "None" if unk_voxels is None else "all 0"
            raise ValueError(
                f"unk_voxels: expected unknown voxels in sample {sample}, which has a chosen segment, got {what}"
            )
        if used and not any(volumes[sample].flatten().tolist()):
            raise ValueError(
                f"tumor_volumes_report: expected a volume in sample {sample}, which has a chosen segment, got only 0"
            )


def _trusted(label: torch.Tensor, unk_voxels: torch.Tensor) -> torch.Tensor:
    """Known voxels; on the CPU, raises where an unknown voxel lies on or beside a positive label."""
    known = get_known_voxels(label, unk_voxels) != 0
    if label.device.type == "cpu":
        clash = ((label != 0) & ~known).flatten(2).sum(2)
        for sample, channel in clash.nonzero().tolist():
            raise ValueError(
                f"unk_voxels: expected no unknown voxel within 2 voxels of a positive label, sample {sample} has "
                f"{int(clash[sample, channel])} such label voxels in channel {channel}"
            )
    return known


def _report_losses(
    head: torch.Tensor,
    index: int,
    label: torch.Tensor,
    unk_voxels: torch.Tensor | None,
    args: Any,
    chosen: torch.Tensor | None,
    volumes: torch.Tensor,
    diameters: torch.Tensor,
    classes: Sequence[str],
    class_weights: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """The report losses of one head, with the weights of ball BCE and Dice."""
    if chosen is None or unk_voxels is None:
        raise ValueError(
            "chosen_segment_mask, unk_voxels: expected both, since args.report_volume_loss_basic is positive, got None"
        )
    name = args.loss
    with_ball = any(word in name for word in BALL_NAMES) and not (index > 0 and "last" in name)
    report: dict[str, torch.Tensor] = {}
    if with_ball:
        ball = ball_loss(
            head,
            label,
            unk_voxels,
            chosen,
            volumes,
            diameters,
            classes,
            apply_dice_loss="dice" in name,
            diameter_margin=args.ball_volume_margin,
            volume_margin=args.ball_volume_margin,
            standard_ce=args.stardard_ce_ball,
            class_weights=class_weights,
        )
        report["ball_loss_bce"] = args.ball_bce_weight * ball["ball_loss_bce"]
        report["ball_loss_dice"] = args.ball_dice_weight * ball["ball_loss_dice"]
    if not with_ball or "both" in name:
        volume = volume_loss_basic(
            head,
            chosen,
            volumes,
            label,
            unk_voxels,
            classes,
            tolerance=args.volume_loss_tolerance,
            class_weights=class_weights,
        )
        report = merge_no_overlap(report, volume)
    return report


def _add(terms: dict[str, torch.Tensor], more: Mapping[str, torch.Tensor]) -> None:
    for name, value in more.items():
        terms[name] = terms[name] + value if name in terms else value


def _check_overall(overall: torch.Tensor, terms: Mapping[str, torch.Tensor]) -> None:
    if torch.is_grad_enabled() and not overall.requires_grad:
        raise ValueError("overall: expected a loss with a gradient, but no model output requires one")
    if overall.device.type == "cpu" and overall.isnan():
        raise ValueError(f"overall: NaN from {', '.join(name for name, value in terms.items() if value.isnan())}")


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


def model_genesis_loss(result: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean squared error between a restored crop and the original, as {"genesis_loss", "overall"}; gradient to
    `result`.

    Raises:
        ValueError: a `result` that is no tensor of the shape of `label` (the baseline has no deep supervision).
    """
    if not isinstance(result, torch.Tensor):
        raise ValueError(
            f"result: expected a tensor, since Models Genesis has a single head, got {type(result).__name__}"
        )
    check_shape("result", result, tuple(label.shape), "(B, 1, H, W, D)")
    dtype = accumulation_dtype(result)
    loss = F.mse_loss(result.to(dtype), label.to(dtype))
    return {"genesis_loss": loss, "overall": loss}


def info_nce(
    query: torch.Tensor,
    positive_key: torch.Tensor,
    negative_keys: torch.Tensor | None = None,
    temperature: float = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
) -> torch.Tensor:
    """Ask each query for its positive key among negative ones, by cosine similarity and cross-entropy.

    Args:
        query, positive_key: (N, E). Both take gradients.
        negative_keys: None, the other positive keys are the negatives; (M, E), shared by all ("unpaired"); or (N, M,
            E), each query its own ("paired").
        temperature: divides the similarities.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (N,) without reduction.

    Raises:
        ValueError: shapes, reduction or negative_mode that do not fit.

    Source: van den Oord et al., 2018; Radford et al., ICML 2021.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_choice("negative_mode", negative_mode, ("unpaired", "paired"))
    if query.ndim != 2:
        raise ValueError(f"query: expected (N, E), got shape {tuple(query.shape)}")
    count, width = query.shape
    check_shape("positive_key", positive_key, (count, width), "(N, E)")
    query, positive_key = F.normalize(query, dim=-1), F.normalize(positive_key, dim=-1)
    if negative_keys is None:
        target = torch.arange(count, device=query.device)
        return F.cross_entropy(query @ positive_key.T / temperature, target, reduction=reduction)
    paired = negative_mode == "paired"
    expected = (count, *negative_keys.shape[1:-1], width) if paired else (*negative_keys.shape[:-1], width)
    if negative_keys.ndim != 2 + paired:
        raise ValueError(
            f"negative_keys: expected {'(N, M, E)' if paired else '(M, E)'}, got shape {tuple(negative_keys.shape)}"
        )
    check_shape("negative_keys", negative_keys, expected, "(N, M, E)" if paired else "(M, E)")
    negative_keys = F.normalize(negative_keys, dim=-1)
    positive = (query * positive_key).sum(1, keepdim=True)
    negative = torch.einsum("ne,nme->nm", query, negative_keys) if paired else query @ negative_keys.T
    similarities = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(similarities, torch.zeros(count, dtype=torch.long, device=query.device), reduction=reduction)
