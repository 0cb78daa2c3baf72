# SPDX-License-Identifier: Apache-2.0
"""From records to the table the losses take: one finding group for each place a report speaks about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rsuper_kernels import FindingGroup, Findings, Tumour
from rsuper_train.anatomy import ORGAN_LABELS
from rsuper_train.reports.records import Record

CHANNEL = "lesion"


def to_findings(records: Sequence[Record], label_ids: Mapping[str, int] = ORGAN_LABELS) -> Findings:
    """Findings of one sample with the single channel "lesion".

    A kidney without a side means both kidneys together. A place reported free of lesions becomes a group without
    tumours, unless another sentence reports a lesion there. Places the report does not mention get no group.

    Args:
        records: what was read from the report.
        label_ids: place -> id in the label map.

    Raises:
        ValueError: a record about an organ that `label_ids` does not know.
    """
    regions: dict[tuple[int, ...], list[Record]] = {}
    for record in records:
        regions.setdefault(_region(record, label_ids), []).append(record)
    groups = tuple(_group(region, said) for region, said in regions.items())
    return Findings(groups=groups, batch_size=1, channels=(CHANNEL,))


def _region(record: Record, label_ids: Mapping[str, int]) -> tuple[int, ...]:
    """Label ids of the place: one organ, or both kidneys where no side is given."""
    names = [
        name for name in label_ids if name == record.place or (not record.side and name.endswith(f" {record.organ}"))
    ]
    if not names:
        raise ValueError(f"report: no organ label for {record.place!r}; the known places are {', '.join(label_ids)}")
    return tuple(label_ids[name] for name in names)


def _group(region: tuple[int, ...], records: list[Record]) -> FindingGroup:
    """All that is said about one region; statements of "no lesion" yield to reported lesions."""
    positive = [record for record in records if not record.negative]
    tumours = tuple(
        Tumour(diameters=record.diameters or None, attenuation=record.attenuation)
        for record in positive
        for _ in range(record.count or 1)
    )
    return FindingGroup(0, CHANNEL, region, tumours, count_known=all(record.count is not None for record in positive))
