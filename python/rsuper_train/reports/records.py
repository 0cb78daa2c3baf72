# SPDX-License-Identifier: Apache-2.0
"""What a report says about lesions, one record per statement: the meeting point of writer, reader and losses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Record:
    """One statement of a report.

    Args:
        organ: "liver", "kidney" or "spleen".
        side: "left" or "right" for the kidneys, else None.
        diameters: reported diameters in mm, none to three, as written; empty when no size is given.
        attenuation: "hypo", "iso", "hyper", "mixed" or "unknown".
        count: number of lesions meant; 0 says that the organ is free of lesions, None is "multiple".
    """

    organ: str
    side: str | None = None
    diameters: tuple[float, ...] = ()
    attenuation: str = "unknown"
    count: int | None = 1

    @property
    def place(self) -> str:
        """Organ with its side, for example "left kidney"."""
        return f"{self.side} {self.organ}" if self.side else self.organ

    @property
    def negative(self) -> bool:
        """True when the statement is that there is no lesion."""
        return self.count == 0


def place_of(name: str) -> tuple[str, str | None]:
    """Split "left kidney" into ("kidney", "left") and "liver" into ("liver", None)."""
    side, _, organ = name.rpartition(" ")
    return organ, side or None
