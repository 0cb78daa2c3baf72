# SPDX-License-Identifier: Apache-2.0
"""Segmentation term: masked cross-entropy and adaptive Dice where the target of a voxel is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_device, check_finite, check_float, check_ndim, check_shape
from rsuper_kernels.geometry import ball_element
from rsuper_kernels.ops.curves import adaptive_dice, bce_dice
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import BceDice, loss_sums
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.recipes import Recipe, get_recipe
from rsuper_kernels.tables import every_plane

# Labels of voxels this near (in voxels) to an unknown one are not trusted either.
UNKNOWN_ELEMENT = ball_element(2.5)


def known_voxels(unknown: torch.Tensor, *, impl: str = "auto") -> torch.Tensor:
    """Bool mask of the voxels more than two voxels away from any unknown voxel; `unknown` is (B, C, D, H, W)."""
    return ~dilate(unknown, UNKNOWN_ELEMENT, impl=impl)


def segmentation_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor | None = None,
    *,
    class_weights: torch.Tensor | None = None,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    check: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Cross-entropy (mean over all voxels, unknown ones counting 0) plus adaptive Dice, on the known voxels.

    Args:
        logits: (B, C, D, H, W), any float dtype.
        labels: (B, C, D, H, W), bool or integer in {0, 1}, or soft labels in [0, 1] as float.
        known: (B, C, D, H, W) bool, voxels whose label is true; None: all. See `known_voxels`.
        class_weights: (B, C) or None.
        recipe: "paper" leaves empty planes out of the Dice mean, "rsuper" counts them as 1.
        impl: backend of the ops.
        check: raise on NaN or infinite logits, naming sample and channel; waits for the device.
        options: options of the recipe to change.

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 if nothing is known. Gradient to `logits`.

    Raises:
        TypeError, ValueError: inputs that do not fit, named.

    Source: public R-Super code, A.4.
    """
    if check:
        check_finite("logits", logits)
    bce, dice = segmentation_terms(
        logits, labels, known, class_weights=class_weights, recipe=recipe, impl=impl, **options
    )
    return bce + dice


def segmentation_terms(
    logits: torch.Tensor,
    labels: torch.Tensor,
    known: torch.Tensor | None = None,
    *,
    class_weights: torch.Tensor | None = None,
    recipe: str | Recipe = "paper",
    impl: str = "auto",
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-entropy and the Dice of `segmentation_loss`, apart."""
    rules = get_recipe(recipe, **options)
    check_float("logits", logits)
    check_ndim("logits", logits, "(B, C, D, H, W)")
    check_shape("labels", labels, tuple(logits.shape), "(B, C, D, H, W)")
    check_device("labels", labels, "logits", logits)
    if known is None:
        known = torch.ones_like(labels, dtype=torch.bool)
    if labels.is_floating_point():
        sums = masked_bce_dice(logits, labels, known, impl=impl)
    else:
        term = segmentation_term(logits, labels, pack_masks(known.flatten(0, 1), impl=impl), impl)
        (sums,) = loss_sums(logits, [term], impl=impl)
    return segmentation_from_sums(sums, logits, class_weights, rules, impl)


def segmentation_term(logits: torch.Tensor, labels: torch.Tensor, known: BitMasks, impl: str = "auto") -> BceDice:
    """What the segmentation term needs of the logits: cross-entropy and Dice sums of every plane.

    `labels` are (B, C, D, H, W) of 0 and 1; `known` has a mask a plane.
    """
    return BceDice(pack_masks(labels.flatten(0, 1), impl=impl), known, *every_plane(logits))


def segmentation_from_sums(
    sums: torch.Tensor, logits: torch.Tensor, class_weights: torch.Tensor | None, recipe: Recipe, impl: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice of the segmentation term, given the sums (B * C, 6) of its `segmentation_term`."""
    batch, channels = logits.shape[:2]
    sums = sums.unflatten(0, (batch, channels))
    voxels, skip = logits[0, 0].numel(), recipe.empty_dice == "skip"
    if class_weights is None:
        shares = [1 / (batch * channels)] * (batch * channels)
        return bce_dice(
            sums,
            shares,
            [1.0] * len(shares) if skip else shares,
            voxels=voxels,
            empty=recipe.empty_dice,
            mean_of_present=skip,
            impl=impl,
        )
    check_shape("class_weights", class_weights, (batch, channels), "(B, C)")
    check_device("class_weights", class_weights, "logits", logits)
    weights = class_weights.to(sums.dtype)
    bce = ((sums[..., 0] + sums[..., 1]) * weights).sum() / (batch * channels * voxels)
    tp, fp, fn = sums[..., 2], sums[..., 3], sums[..., 4]
    dice = (adaptive_dice(tp, fp, fn, empty=recipe.empty_dice) * weights).sum()
    return bce, dice / (((tp + fn).detach() > 0).sum().clamp(min=1) if skip else batch * channels)


class SegmentationLoss(nn.Module):
    """`segmentation_loss` as a module: `SegmentationLoss(recipe="paper")(logits, labels, known)`."""

    def __init__(
        self, recipe: str | Recipe = "paper", *, impl: str = "auto", check: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.recipe = get_recipe(recipe, **options)
        self.impl, self.check = impl, check

    def forward(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        known: torch.Tensor | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return segmentation_loss(
            logits, labels, known, class_weights=class_weights, recipe=self.recipe, impl=self.impl, check=self.check
        )

    def extra_repr(self) -> str:
        return f"{self.recipe}, impl={self.impl!r}"
