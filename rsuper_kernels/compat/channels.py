# SPDX-License-Identifier: Apache-2.0
"""Class names and lesion channels: which channels hold lesions, and which of them are one lesion type."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import torch

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.ops.pack_bits import pack_masks

LESION_TAGS = ("lesion", "cyst", "pdac", "pnet")

ClassNames = Sequence[str] | str | os.PathLike[str]


def read_class_names(classes: ClassNames | None) -> list[str]:
    """Class names from a list, which is taken as it is, or from a .yaml or text file with one name a line, which is
    sorted.

    Channels stand in the sorted order of the names, whatever their order in the file (public R-Super code, D.1).

    Raises:
        ValueError: no list and no readable file of names.
    """
    if classes is None:
        raise ValueError(
            "classes: expected the list of class names, or the path of a .yaml or .txt list of them, got None"
        )
    if not isinstance(classes, str | os.PathLike):
        return list(classes)
    path = Path(classes)
    if not path.is_file():
        raise ValueError(f"classes: no such file: {path}")
    names = _read_yaml(path) if path.suffix in (".yaml", ".yml") else path.read_text(encoding="utf-8").split("\n")
    return sorted(name.strip() for name in names if name.strip())


def _read_yaml(path: Path) -> list[str]:
    import yaml

    names = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes: {path} does not hold a list of names")
    return names


def lesion_groups(classes: Sequence[str]) -> dict[str, list[int]]:
    """Lesion types in order of first appearance, each with the channels that are merged into it.

    A name is cut after its tag and "pancreatic" becomes "pancreas", so "pancreatic_lesion_2" belongs to
    "pancreas_lesion"; a name with two tags belongs to two types.

    Raises:
        ValueError: a tag without the underscore before it, or no lesion class at all.
    """
    groups: dict[str, list[int]] = {}
    for channel, name in enumerate(classes):
        for tag in LESION_TAGS:
            if tag not in name:
                continue
            if f"_{tag}" not in name:
                raise ValueError(
                    f"classes[{channel}]: expected an organ and an underscore before {tag!r}, got {name!r}"
                )
            key = name[: name.index(f"_{tag}") + len(tag) + 1].replace("pancreatic", "pancreas")
            groups.setdefault(key, []).append(channel)
    if not groups:
        raise ValueError(f"classes: no name holds any of {', '.join(LESION_TAGS)}: {list(classes)}")
    return groups


@overload
def get_lesion_channels(
    out: torch.Tensor, classes: Sequence[str], assertion: bool = ..., return_class_names: Literal[False] = ...
) -> torch.Tensor: ...
@overload
def get_lesion_channels(
    out: torch.Tensor, classes: Sequence[str], assertion: bool = ..., *, return_class_names: Literal[True]
) -> tuple[torch.Tensor, list[str]]: ...
@overload
def get_lesion_channels(
    out: torch.Tensor, classes: Sequence[str], assertion: bool, return_class_names: Literal[True]
) -> tuple[torch.Tensor, list[str]]: ...


def get_lesion_channels(
    out: torch.Tensor, classes: Sequence[str], assertion: bool = False, return_class_names: bool = False
) -> torch.Tensor | tuple[torch.Tensor, list[str]]:
    """Take the lesion channels of `out` (B, C, ...), merging those of one lesion type by elementwise maximum.

    Args:
        out: logits, masks or weights, any dtype; the gradient reaches the channel that holds the maximum.
        classes: C class names.
        assertion: check that at most one merged channel of each sample is not all zero; reads the values.
        return_class_names: also return the names of the merged channels.

    Returns:
        (B, C', ...), in order of first appearance of each lesion type, or (tensor, names).

    Raises:
        ValueError: names that do not fit, or with `assertion` two active channels in one sample.

    Source: public R-Super code, A.1.
    """
    if out.ndim < 2 or out.shape[1] != len(classes):
        raise ValueError(
            f"classes: expected one name for each channel of out {tuple(out.shape)}, got {len(classes)} names"
        )
    groups = lesion_groups(classes)
    merged = torch.stack([_maximum(out, channels) for channels in groups.values()], dim=1)
    if assertion:
        only_active_channels(merged, list(groups))
    return (merged, list(groups)) if return_class_names else merged


def _maximum(out: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    if len(channels) == 1:
        return out[:, channels[0]]
    # of equal maxima the first takes the whole gradient; torch.maximum would share it out
    return out[:, channels].max(dim=1).values


@dataclass(frozen=True)
class LesionPlanes:
    """The lesion types of some class names and their channels: merged planes without a merged copy of the tensor."""

    class_count: int
    groups: dict[str, list[int]]

    @classmethod
    def of(cls, classes: Sequence[str]) -> LesionPlanes:
        """Raises ValueError as `lesion_groups`."""
        return cls(len(classes), lesion_groups(classes))

    @property
    def names(self) -> list[str]:
        return list(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def rows(self, batch: int) -> list[list[int]]:
        """The planes of a tensor (B * C, ...) that make up each of the B * C' merged planes."""
        return [
            [b * self.class_count + channel for channel in channels]
            for b in range(batch)
            for channels in self.groups.values()
        ]

    def pack(self, masks: torch.Tensor) -> BitMasks:
        """The B * C' merged planes of masks (B, C, H, W, D): where any of a type's channels is not 0."""
        return pack_masks(masks.flatten(0, 1), self.rows(len(masks)))

    def merge(self, masks: BitMasks) -> BitMasks:
        """The B * C' merged planes of B * C bit masks."""
        batch = len(masks) // self.class_count
        unions = [masks[rows].union().words for rows in self.rows(batch)]
        return BitMasks(torch.cat(unions), masks.width)

    def logits(self, out: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """A tensor with the merged planes of `out`, and the channel of each: `out` itself where nothing is merged."""
        if all(len(channels) == 1 for channels in self.groups.values()):
            return out, [channels[0] for channels in self.groups.values()]
        merged = torch.stack([_maximum(out, channels) for channels in self.groups.values()], dim=1)
        return merged, list(range(len(self)))

    def in_use(self, planes: BitMasks) -> list[int | None]:
        """Per sample, the one lesion type with a voxel in its merged plane, or None; reads flags from the device.

        Raises:
            ValueError: a sample with more than one.
        """
        return _only_one(planes.any().view(-1, len(self)), self.names)


def only_active_channels(masks: torch.Tensor, names: Sequence[str]) -> list[int | None]:
    """The one channel of each sample of masks (B, C', ...) that is not all zero, or None; reads (B, C') flags from the
    device.

    Raises:
        ValueError: a sample with more than one.
    """
    return _only_one((masks != 0).flatten(2).any(2), names)


def _only_one(flags: torch.Tensor, names: Sequence[str]) -> list[int | None]:
    active = []
    for sample, row in enumerate(flags.tolist()):
        channels = [channel for channel, flag in enumerate(row) if flag]
        if len(channels) > 1:
            found = ", ".join(names[channel] for channel in channels)
            raise ValueError(
                f"chosen_segment_mask: expected at most one lesion channel in use per sample, "
                f"sample {sample} has {found}"
            )
        active.append(channels[0] if channels else None)
    return active


def merged_weights(class_weights: torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
    """Class weights (B, C) or (B, C, 1, 1, 1) as (B, C'): the spatial mean of the maximum of merged channels."""
    merged = get_lesion_channels(class_weights, classes)
    return merged if merged.ndim == 2 else merged.flatten(2).mean(2)
