# SPDX-License-Identifier: Apache-2.0
"""Attenuation statistics and the sign rule of the successor code (public RT-Super code, B)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim, check_shape
from rsuper_kernels.compat.channels import LESION_TAGS
from rsuper_kernels.losses.attenuation import attenuation_features
from rsuper_kernels.ops.attenuation_stats import attenuation_stats

UNKNOWN = 999
"""Attenuation target of a tumour that is neither hypo nor hyper, or not described."""
PAIRED_ORGANS = ("kidney", "adrenal", "adrenal_gland", "lung", "femur")
CONTRAST = 4
"""Index of mean of tumour - mean of organ among the eight features."""


def get_mask_lesion_masks(out: torch.Tensor, class_list: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Split masks into those of the lesion classes and those of the organs they lie in.

    Args:
        out: (B, C, ...) masks or probabilities. class_list: C class names.

    Returns:
        Lesions and organs, both (B, T, ...), and the T channels of the lesions. A paired organ is the maximum of its
        sides; an organ without a channel, or without that of one side, is all ones; a cyst, pdac or pnet is its own
        organ, as in the public code. Gradients as the selection gives them.

    Raises:
        ValueError: names that do not fit, or no lesion class.
    """
    if out.ndim < 2 or out.shape[1] != len(class_list):
        raise ValueError(
            f"class_list: expected one name for each channel of out {tuple(out.shape)}, got {len(class_list)} names"
        )
    channels = [c for c, name in enumerate(class_list) if any(tag in name for tag in LESION_TAGS)]
    if not channels:
        raise ValueError(f"class_list: no name holds any of {', '.join(LESION_TAGS)}: {list(class_list)}")
    organs = torch.stack([_organ_mask(out, class_list, class_list[c]) for c in channels], dim=1)
    return out[:, channels], organs, channels


def _organ_mask(out: torch.Tensor, class_list: Sequence[str], lesion: str) -> torch.Tensor:
    organ = lesion.replace("_lesion", "")
    names = [{"pancreatic": "pancreas", "gallbladder": "gall_bladder"}.get(organ, organ)]
    if organ in PAIRED_ORGANS:
        stem = "adrenal_gland" if organ == "adrenal" else organ
        names = [f"{stem}_right", f"{stem}_left"]
    if any(name not in class_list for name in names):
        return torch.ones_like(out[:, 0])
    sides = [out[:, class_list.index(name)] for name in names]
    return sides[0] if len(sides) == 1 else torch.maximum(*sides)


def extract_hu(ct: torch.Tensor, out: torch.Tensor, class_list: Sequence[str]) -> tuple[torch.Tensor, list[int]]:
    """Measure the CT under each predicted lesion and in the organ around it, on a CT scaled to [0, 1].

    Args:
        ct: (B, 1, H, W, D) or (B, H, W, D), any unit; each volume is scaled by its minimum and maximum, so this is not
            HU.
        out: logits (B, C, H, W, D), any float dtype; the sigmoid is always applied. Takes the gradient.
        class_list: C class names.

    Returns:
        (B, T, 8): organ mean and sd, tumour mean and sd, their differences, mean of the organ mask and of the tumour
        mask, float32 (float64 for float64 logits); and the T channels of the lesions. The organ excludes the tumour.
        All zero if any number is NaN. Through an sd of 0 the gradient is 0.

    Raises:
        ValueError: inputs that do not fit, named.

    Source: public RT-Super code, B.2.
    """
    check_float("out", out)
    check_ndim("out", out, "(B, C, H, W, D)")
    volume = ct if ct.ndim == 4 else ct.squeeze(1)
    check_shape("ct", volume, (out.shape[0], *out.shape[2:]), "(B, 1, H, W, D) or (B, H, W, D)")
    _, organs, channels = get_mask_lesion_masks(out.to(accumulation_dtype(out)).sigmoid(), class_list)
    batch, lesions = organs.shape[:2]
    scaled = volume.detach().to(organs.dtype)
    low, high = scaled.amin((1, 2, 3), keepdim=True), scaled.amax((1, 2, 3), keepdim=True)
    stats = attenuation_stats(
        (scaled - low) / (high - low + 1e-5),
        out,
        torch.ones_like(organs[0, 0], dtype=torch.bool).expand(batch * lesions, *out.shape[2:]),
        organs.flatten(0, 1),
        [b for b in range(batch) for _ in channels],
        channels * batch,
    )
    features = attenuation_features(stats, out[0, 0].numel()).unflatten(0, (batch, lesions))
    return torch.where(features.isnan().any(), torch.zeros_like(features), features), channels


class simple_classifier(nn.Module):
    """Return the contrast mean of tumour - mean of organ of each lesion class, 0 for the other classes; no parameters.

    Args:
        class_list: C class names. in_features, out_features: accepted and ignored.

    Source: public RT-Super code, B.4.
    """

    def __init__(self, class_list: Sequence[str], in_features: int = 8, out_features: int = 3) -> None:
        super().__init__()
        self.class_list = list(class_list)

    def forward(
        self, ct: torch.Tensor, out: torch.Tensor, labels: torch.Tensor | None = None, **ignored: Any
    ) -> torch.Tensor:
        """Contrast (B, C, 1) of logits `out` (B, C, H, W, D) on the CT; `labels` and further options are ignored."""
        features, channels = extract_hu(ct, out, self.class_list)
        contrast = features.new_zeros(*out.shape[:2], 1)
        return contrast.index_copy(1, torch.tensor(channels, device=features.device), features[..., CONTRAST, None])


def l1_simple_attenuation_classifier(
    diff: torch.Tensor,
    target: torch.Tensor,
    chosen_mask: torch.Tensor,
    classes: Sequence[str],
    contrast: Sequence[str] | None,
    args: Any,
) -> torch.Tensor:
    """Pull a contrast of the wrong sign to zero: negative where a hyper tumour is reported, positive where a hypo one
    is.

    Args:
        diff: (B, C, 1) contrast of each class, from `simple_classifier`. Takes the gradient.
        target: (B, T): above 0 hyper, below 0 hypo, 0 padding, 999 unknown, which leaves the sample out.
        chosen_mask: (B, C, H, W, D); the channel in use is the one that is compared.
        classes: C class names.
        contrast, args: with args.attenuation_classifier_venous, only samples whose contrast phase is "venous" take
            part.

    Returns:
        (1,): sum over the samples / B; a scalar 0 if no sample has a chosen channel or none takes part. Samples with
        both hypo and hyper tumours are penalised for either sign (QB3).

    Raises:
        ValueError: shapes that do not fit, or a sample with two channels in use.

    Source: public RT-Super code, B.5.
    """
    check_ndim("diff", diff, "(B, C, 1)")
    check_shape("diff", diff, (len(target), len(classes), 1), "(B, C, 1)")
    check_shape("chosen_mask", chosen_mask, (*diff.shape[:2], *chosen_mask.shape[2:]), "(B, C, H, W, D)")
    if args is not None and getattr(args, "attenuation_classifier_venous", False):
        if contrast is None or len(contrast) != len(diff):
            raise ValueError(f"contrast: expected a phase for each of {len(diff)} samples, got {contrast}")
        venous = [b for b, phase in enumerate(contrast) if phase == "venous"]
        diff, target, chosen_mask = diff[venous], target[venous], chosen_mask[venous]
    used = (chosen_mask != 0).flatten(2).any(2)
    values = diff[..., 0].to(accumulation_dtype(diff))
    for sample, channels in enumerate(used.tolist()):
        if sum(channels) > 1:
            names = ", ".join(name for name, flag in zip(classes, channels, strict=True) if flag)
            raise ValueError(
                f"chosen_mask: expected at most one channel in use per sample, sample {sample} has {names}"
            )
    if not used.any():
        return (values * 0).sum()
    chosen = torch.where(used, values, 0).sum(1)
    described = used.any(1) & ~(target == UNKNOWN).any(1)
    too_low = (target > 0).any(1) & (chosen < 0)
    too_high = (target < 0).any(1) & (chosen >= 0)
    return (chosen.abs() * (described & (too_low | too_high))).sum().reshape(1) / len(values)
