# SPDX-License-Identifier: Apache-2.0
"""What the reports of a batch say, on the host: tumours, grouped by sample, channel and region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rsuper_kernels.geometry import complete_diameters, ellipsoid_volume

ATTENUATIONS = ("hypo", "iso", "hyper", "mixed", "unknown")

UNKNOWN_DIAMETER = 5.0
"""Diameter in mm that stands for a tumour of unknown size."""
UNKNOWN_VOLUMES = (66.0, 905_000.0)
"""Volumes in mm3 between which a tumour of unknown size may lie: balls of 5 and 120 mm."""
LARGEST_DIAMETER = 500.0
"""mm; no tumour is larger, so a larger number is a slip of units."""


@dataclass(frozen=True)
class Tumour:
    """One reported tumour.

    Args:
        diameters: one to three diameters in mm, in any order; None for an unknown size ("tiny", not measured).
        volume: mm3; None computes pi / 6 * a * b * c from the diameters.
        attenuation: "hypo", "iso", "hyper", "mixed" or "unknown", against the organ around it.

    Raises:
        ValueError: sizes that are not positive and finite, a volume without diameters, an unknown attenuation.
    """

    diameters: tuple[float, ...] | None = None
    volume: float | None = None
    attenuation: str = "unknown"

    def __post_init__(self) -> None:
        if self.attenuation not in ATTENUATIONS:
            raise ValueError(f"attenuation: expected one of {', '.join(ATTENUATIONS)}, got {self.attenuation!r}")
        if self.diameters is None:
            if self.volume is not None:
                raise ValueError(
                    f"volume: {self.volume} mm3 was given without diameters; give one to three diameters in mm, "
                    "or neither for a tumour of unknown size"
                )
            return
        try:
            diameters = tuple(float(d) for d in self.diameters)
        except (TypeError, ValueError):
            raise TypeError(
                f"diameters: expected one to three lengths in mm as a tuple, got {self.diameters!r}"
            ) from None
        if not diameters or not all(math.isfinite(d) and d > 0 for d in diameters):
            raise ValueError(f"diameters: expected one to three positive lengths in mm, got {self.diameters!r}")
        if max(diameters) > LARGEST_DIAMETER:
            raise ValueError(f"diameters: expected at most {LARGEST_DIAMETER:.0f} mm, got {self.diameters!r}; in mm?")
        volume = ellipsoid_volume(diameters) if self.volume is None else float(self.volume)
        if not (math.isfinite(volume) and volume > 0):
            raise ValueError(
                f"volume: expected a positive number of mm3 for diameters {diameters}, got {self.volume!r}"
            )
        object.__setattr__(self, "diameters", complete_diameters(diameters))
        object.__setattr__(self, "volume", volume)

    @property
    def size_known(self) -> bool:
        return self.diameters is not None

    @property
    def largest_diameter(self) -> float:
        """Largest diameter in mm; that of a stand-in where the size is unknown."""
        return UNKNOWN_DIAMETER if self.diameters is None else max(self.diameters)

    @property
    def expected_volume(self) -> float:
        """Volume in mm3; that of the smallest plausible tumour where the size is unknown."""
        return UNKNOWN_VOLUMES[0] if self.volume is None else self.volume


@dataclass(frozen=True)
class FindingGroup:
    """The tumours that a report places in one region of one sample, in one lesion channel.

    Args:
        sample: index in the batch.
        channel: lesion channel, by index or by name.
        region: label ids (or names) whose union is the region; None where the report gives no location (the whole
            patch), or where regions come as masks.
        tumours: empty for a reported negative: no tumour of this channel in this region.
        count_known: False for "multiple": the described tumours, and possibly more.
    """

    sample: int
    channel: int | str
    region: int | str | tuple[int | str, ...] | None = None
    tumours: Sequence[Tumour] = ()
    count_known: bool = True

    def __post_init__(self) -> None:
        region = self.region
        if region is not None:
            # one id or name may stand for itself
            region = tuple(region) if isinstance(region, Iterable) and not isinstance(region, str) else (region,)
        object.__setattr__(self, "region", region)
        if not isinstance(self.tumours, Sequence) or not all(isinstance(tumour, Tumour) for tumour in self.tumours):
            raise TypeError(f"tumours: expected a sequence of Tumour, got {self.tumours!r}")
        tumours = tuple(self.tumours)
        if not tumours and not self.count_known:
            # "multiple lesions", none described: at least one, of unknown size
            tumours = (Tumour(),)
        object.__setattr__(self, "tumours", tumours)

    @property
    def negative(self) -> bool:
        """The report says that there is no tumour here."""
        return not self.tumours

    @property
    def location_known(self) -> bool:
        return self.region is not None

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The region's label ids, once Findings has looked up their names; none without a region."""
        return tuple(int(name) for name in self.region) if isinstance(self.region, tuple) else ()

    @property
    def open_ended(self) -> bool:
        """More tumour than described may be there: an unknown count, or a tumour of unknown size."""
        return not self.count_known or any(not tumour.size_known for tumour in self.tumours)

    @property
    def volume(self) -> float:
        """Sum of the expected volumes in mm3."""
        return sum(tumour.expected_volume for tumour in self.tumours)


@dataclass(frozen=True)
class Findings:
    """A batch's findings, checked once: the table that every report loss takes.

    A plane (sample, channel) is *annotated* (it has voxel labels and takes no report loss), *reported* (its groups name
    a tumour), *negative* (its groups name none) or *unknown* (no group: not mentioned, organ not in the crop).

    Args:
        groups: any number of groups, any number of tumours in each.
        batch_size: B of the logits.
        channels: number of channels of the logits, or their names in order.
        region_names: name -> label id, for groups that name their region; ids not among its values are refused.
        lesion_channels: channels (indices or names) that hold tumours; None: all.
        annotated: planes (sample, channel) with voxel labels.

    Raises:
        ValueError: a sample, channel or region that does not exist, or contradictory groups; the group is named.
    """

    groups: Sequence[FindingGroup] = ()
    batch_size: int = 1
    channels: int | Sequence[str] = 1
    region_names: Mapping[str, int] | None = None
    lesion_channels: tuple[int, ...] | None = None
    annotated: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not isinstance(self.channels, int):
            object.__setattr__(self, "channels", tuple(self.channels))
        lesions = range(self.channel_count) if self.lesion_channels is None else self.lesion_channels
        resolved = tuple(self._channel(c, "lesion_channels") for c in lesions)
        object.__setattr__(self, "lesion_channels", resolved)
        annotated = frozenset((self._sample(b, "annotated"), self._channel(c, "annotated")) for b, c in self.annotated)
        object.__setattr__(self, "annotated", annotated)
        object.__setattr__(self, "groups", tuple(self._resolve(g, group) for g, group in enumerate(self.groups)))
        self._check_contradictions()

    @property
    def channel_count(self) -> int:
        return self.channels if isinstance(self.channels, int) else len(self.channels)

    def channel_name(self, channel: int) -> str:
        """The channel's name, or "channel 3" where names were not given."""
        return f"channel {channel}" if isinstance(self.channels, int) else self.channels[channel]

    def planes(self) -> dict[tuple[int, int], list[int]]:
        """The groups of each plane (sample, channel) that is not annotated, in the order of their first group."""
        planes: dict[tuple[int, int], list[int]] = {}
        for g, group in enumerate(self.groups):
            plane = (group.sample, int(group.channel))
            if plane not in self.annotated:
                planes.setdefault(plane, []).append(g)
        return planes

    def status(self, sample: int, channel: int) -> str:
        """ "annotated", "reported", "negative" or "unknown". Channels that hold no tumours are annotated."""
        if (sample, channel) in self.annotated or channel not in (self.lesion_channels or ()):
            return "annotated"
        groups = [self.groups[g] for g in self.planes().get((sample, channel), [])]
        if not groups:
            return "unknown"
        return "negative" if all(group.negative for group in groups) else "reported"

    @staticmethod
    def collate(findings: Sequence[Findings]) -> Findings:
        """Join the findings of a batch's samples (or of smaller batches), in order, shifting the sample indices.

        Raises:
            ValueError: nothing to join, or findings over different channels.
        """
        if not findings:
            raise ValueError("collate: expected at least one Findings, got none")
        first = findings[0]
        groups: list[FindingGroup] = []
        annotated: set[tuple[int, int]] = set()
        start = 0
        for index, item in enumerate(findings):
            if (item.channels, item.lesion_channels) != (first.channels, first.lesion_channels):
                raise ValueError(
                    f"collate: findings {index} are over channels {item.channels}, findings 0 over {first.channels}"
                )
            if item.region_names != first.region_names:
                raise ValueError(
                    f"collate: findings {index} name their regions {item.region_names}, findings 0 {first.region_names}"
                )
            groups += [replace(group, sample=group.sample + start) for group in item.groups]
            annotated |= {(sample + start, channel) for sample, channel in item.annotated}
            start += item.batch_size
        return replace(first, groups=tuple(groups), batch_size=start, annotated=frozenset(annotated))

    def _resolve(self, index: int, group: FindingGroup) -> FindingGroup:
        where = f"groups[{index}]"
        sample = self._sample(group.sample, where)
        channel = self._channel(group.channel, where)
        if channel not in (self.lesion_channels or ()):
            raise ValueError(
                f"{where}: {self.channel_name(channel)} (sample {sample}) is not among the lesion channels"
            )
        region = group.region
        if isinstance(region, tuple):
            region = tuple(
                self._region_id(name, f"{where} (sample {sample}, {self.channel_name(channel)})") for name in region
            )
        return replace(group, sample=sample, channel=channel, region=region)

    def _sample(self, sample: int, where: str) -> int:
        if sample != int(sample):
            raise TypeError(f"{where}: expected the sample's index in the batch, got {sample!r}")
        if not 0 <= sample < self.batch_size:
            raise ValueError(f"{where}: expected a sample from 0 to {self.batch_size - 1}, got {sample}")
        return int(sample)

    def _channel(self, channel: int | str, where: str) -> int:
        if isinstance(channel, str):
            if isinstance(self.channels, int):
                raise ValueError(f"{where}: channel {channel!r} was given by name; give Findings the channels' names")
            if channel not in self.channels:
                raise ValueError(f"{where}: no channel {channel!r}; the channels are {', '.join(self.channels)}")
            return self.channels.index(channel)
        if not 0 <= channel < self.channel_count:
            raise ValueError(f"{where}: expected a channel from 0 to {self.channel_count - 1}, got {channel}")
        return int(channel)

    def _region_id(self, region: int | str, where: str) -> int:
        names = self.region_names
        if isinstance(region, str):
            if names is None or region not in names:
                known = "none were given" if names is None else ", ".join(names)
                raise ValueError(f"{where}: no region {region!r}; region_names: {known}")
            return int(names[region])
        if region < 0 or (names is not None and region not in names.values()):
            known = "ids of at least 0" if names is None else f"one of {sorted(names.values())}"
            raise ValueError(f"{where}: region id {region} does not exist; expected {known}")
        return int(region)

    def _check_contradictions(self) -> None:
        for (sample, channel), indices in self.planes().items():
            groups = [self.groups[g] for g in indices]
            if any(g.negative and g.region is None for g in groups) and not all(g.negative for g in groups):
                raise ValueError(
                    f"sample {sample}, {self.channel_name(channel)}: a negative for the whole patch (region=None) "
                    "stands beside reported tumours; give the negative its region, or leave it out"
                )
