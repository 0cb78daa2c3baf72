# SPDX-License-Identifier: Apache-2.0
"""What a radiology report says about tumours: the models that extractors fill and everything else reads."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_kernels.geometry import ellipsoid_volume

Attenuation = Literal["hypo", "iso", "hyper", "mixed", "unknown"]
Laterality = Literal["left", "right", "bilateral"]
Certainty = Literal["certain", "high", "low", "unknown"]

# Flags of reports that several rooms raise or look for.
NO_TEXT = "no text"
NO_ANSWER = "no valid answer"
"""Beginning of the flag of a report that a model has not read; the flag goes on with the reason. Such a report has no
rows, which says nothing about its tumours."""
OVERSIZED = f"size above {LARGEST_DIAMETER:.0f} mm"
DUPLICATE = "duplicate"
DUPLICATE_ID = "duplicate id"

Millimetres = Annotated[float, Field(gt=0, le=LARGEST_DIAMETER, allow_inf_nan=False)]


class Place(BaseModel):
    """Where a report speaks about, in the vocabulary's names.

    Args:
        organ: "liver", "kidney", ...; "unknown" where the report does not say.
        subsegments: "segment 5", "head", "upper lobe", ...; several where the lesion spans them, or may be in any of
            them; empty for the organ as a whole.
        laterality: side of a paired organ; None where the organ has none, or the report does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    organ: Annotated[str, Field(min_length=1)]
    subsegments: tuple[str, ...] = ()
    laterality: Laterality | None = None

    def __str__(self) -> str:
        organ = f"{self.laterality} {self.organ}" if self.laterality else self.organ
        return f"{organ}, {' / '.join(self.subsegments)}" if self.subsegments else organ

    def may_touch(self, other: Place) -> bool:
        """Whether both are of one organ and may share a part of it, as far as they say."""
        if self.organ != other.organ:
            return False
        sides = {self.laterality, other.laterality}
        if sides == {"left", "right"}:
            return False
        return not self.subsegments or not other.subsegments or not set(self.subsegments).isdisjoint(other.subsegments)

    def covers(self, other: Place) -> bool:
        """Whether the other lies wholly in this one."""
        side = self.laterality in (None, "bilateral", other.laterality)
        inside = bool(other.subsegments) and set(other.subsegments) <= set(self.subsegments)
        return self.organ == other.organ and side and (not self.subsegments or inside)


class Tumour(Place):
    """One reported lesion: where it is, how large, how it looks, and the sentence that says so.

    Args:
        diameters: one to three diameters in mm as reported; empty where none is.
        volume: mm3, where the report gives one; see `ellipsoid` for the volume of the diameters.
        attenuation: against the organ around it; "mixed" is heterogeneous.
        type: most specific name that the report gives ("cyst", "metastasis", "adenoma"); "lesion" where it gives none.
        certainty: "certain" where it is stated, "high" ("likely"), "low" ("cannot be excluded"), "unknown".
        count_known: False for a row that stands for an uncounted number of lesions ("multiple", "several").
        sentence: where it was read, as written in the report.
        start: offset of the sentence in the report, in characters.
        end: offset behind the sentence.
    """

    diameters: Annotated[tuple[Millimetres, ...], Field(max_length=3)] = ()
    volume: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    attenuation: Attenuation = "unknown"
    type: Annotated[str, Field(min_length=1)] = "lesion"
    certainty: Certainty = "unknown"
    count_known: bool = True
    sentence: str = ""
    start: Annotated[int, Field(ge=0)] = 0
    end: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_offsets(self) -> Tumour:
        if self.end < self.start:
            raise ValueError(f"end: expected at least start = {self.start}, got {self.end}")
        return self

    @property
    def size_known(self) -> bool:
        return bool(self.diameters)

    @property
    def ellipsoid(self) -> float | None:
        """Volume in mm3: the reported one, else that of the diameters' ellipsoid; None for an unknown size."""
        if self.volume is not None or not self.diameters:
            return self.volume
        return ellipsoid_volume(self.diameters)


def _unique(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flags))


class Report(BaseModel):
    """All that one report says.

    Args:
        id: the case.
        tumours: in the order of the text.
        negatives: places that the report says are free of tumours.
        flags: why a person should look at this report ("no text", "size above 500 mm"); extraction never drops one.
        extractor: what read it.
        text_hash: `hash_text` of the report, so that a table can be held against its texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1)]
    tumours: tuple[Tumour, ...] = ()
    negatives: tuple[Place, ...] = ()
    flags: Annotated[tuple[str, ...], AfterValidator(_unique)] = ()
    extractor: str = ""
    text_hash: str = ""


def hash_text(text: str) -> str:
    """Name of a report's text: the first 16 hexadecimal digits of its SHA-256 in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
