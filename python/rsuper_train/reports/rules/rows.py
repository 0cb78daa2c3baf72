# SPDX-License-Identifier: Apache-2.0
"""Rows of a report while it is read: made of mentions, completed by later sentences, and merged when said twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsuper_train.reports.rules.heads import GENERIC

TOLERANCE = 1.0


@dataclass(slots=True)
class Row:
    """A tumour that is still being read; `place` as in Tumour, `sentence` is the number of its sentence."""

    organ: str
    parts: tuple[str, ...]
    side: str
    diameters: tuple[float, ...]
    attenuation: str
    type: str
    certainty: str
    count_known: bool
    sentence: int
    start: int
    end: int
    impression: bool
    claimed: bool = False

    def copy(self, **changes: object) -> Row:
        return replace(self, **changes)  # type: ignore[arg-type]


def same_place(one: Row, other: Row) -> bool:
    """Whether both may be the same place: what both say agrees."""
    if one.organ != other.organ and "unknown" not in (one.organ, other.organ):
        return False
    sides = {one.side, other.side}
    if len(sides) == 2 and "" not in sides and "bilateral" not in sides:
        return False
    return not one.parts or not other.parts or bool(set(one.parts) & set(other.parts))


def same_type(one: Row, other: Row) -> bool:
    if one.type == other.type:
        return True
    return one.type in GENERIC[:4] or other.type in GENERIC[:4] or (one.type in GENERIC) != (other.type in GENERIC)


def same_size(one: tuple[float, ...], other: tuple[float, ...], tolerance: float = TOLERANCE) -> bool:
    """Equal within `tolerance` mm, where the shorter list may leave diameters out."""
    few, many = sorted((sorted(one, reverse=True), sorted(other, reverse=True)), key=len)
    left = list(many)
    for diameter in few:
        near = next((d for d in left if abs(d - diameter) <= tolerance), None)
        if near is None:
            return False
        left.remove(near)
    return bool(few)


def complete(row: Row, by: Row) -> None:
    """Add what a second mention says and the first did not."""
    if row.organ == "unknown":
        row.organ = by.organ
    row.side = row.side or by.side
    row.parts = row.parts or by.parts
    row.diameters = row.diameters or by.diameters
    if row.attenuation == "unknown":
        row.attenuation = by.attenuation
    if row.type != by.type and row.type in GENERIC and by.type not in GENERIC[:4]:
        row.type, row.certainty = by.type, by.certainty
