# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a table of reports: checks of rows, of sizes against masks, of sentences against texts"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from rsuper_train.reports.check.measures import measures
from rsuper_train.reports.schema import DUPLICATE_ID, Place, Report, Tumour, hash_text
from rsuper_train.reports.vocabulary import Vocabulary

Severity = Literal["error", "warning"]

DIAMETER_SLACK = 1.25
"""Diagonals of the organ's bounding box that a diameter may have before it is an error: lesions grow out of organs."""
VOLUME_SLACK = 2.0
"""Volumes of the organ's mask that a lesion may have before it is an error, for the same reason."""
OUTGROWN = frozenset(
    {"adrenal gland", "bladder", "colon", "duodenum", "esophagus", "gallbladder", "pelvis", "stomach", "uterus"}
)
"""Organs so small or hollow that lesions commonly outgrow their masks; there such a size is a warning."""
SMALLEST = 1.0
"""mm; CT shows nothing smaller, so a smaller number was meant in cm."""
ODD_RATIO = 8.0
"""Ratio of two diameters of one lesion above which their units differ rather than the diameters."""
ENOUGH = 10
"""Sizes of an organ that a median needs before a size can be held against it."""
SAME = 0.05
"""Relative difference of a size in the table and in its sentence that rounding explains."""


class Problem(BaseModel):
    """Something to look at.

    Args:
        case: id of the report.
        tumour: which of its tumours, from 0; None where the problem is the case's.
        kind: "unit slip", "no mask", ...; one of KINDS.
        message: one sentence for a person: what is wrong, what was expected.
        severity: an "error" makes the table unfit for training, a "warning" is worth a look.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: str
    tumour: int | None = None
    kind: str
    message: str
    severity: Severity = "error"


KINDS = {
    "duplicate id": "several reports of one id",
    "unknown organ": "tumours of organs that the vocabulary does not have, or that the report does not name",
    "unknown part": "sub-segments or sides that the organ does not have",
    "contradiction": "a place said to be free of tumours, with a tumour",
    "flagged": "reports that the extraction marked for a person",
    "offsets": "sentences that are not where the table says",
    "text changed": "reports whose text is not the one that was extracted",
    "no text": "rows without a report in the file of reports",
    "size not in sentence": "sizes that their sentence does not give",
    "unit slip": "sizes that look like cm taken for mm, or the reverse",
    "larger than organ": "lesions larger than the organ's mask",
    "larger than field of view": "lesions larger than the CT",
    "no data": "reports without a case in the data folder",
    "no report": "cases of the data folder without a report",
    "no CT": "cases without a ct.nii.gz",
    "no mask": "tumours whose organ has no mask in the case",
    "empty mask": "tumours whose organ has an empty mask",
    "no mask in label set": "tumours of organs that the label set does not have",
    "unreadable": "files that cannot be read",
    "grids differ": "masks that are not on the CT's grid",
}


class Extent(BaseModel):
    """Size of a mask: its volume, the diagonal of its bounding box, and whether it reaches the border of the CT.

    Args:
        volume: mm3; 0 for an empty mask.
        diagonal: mm.
        cut: it reaches the first or last voxel of an axis, so that a part may be missing.
    """

    model_config = ConfigDict(frozen=True)

    volume: float
    diagonal: float
    cut: bool = False


def measure_mask(mask: np.ndarray, spacing: Sequence[float]) -> Extent:
    """Extent of a bool mask of any axis order, spacing in mm in the same order."""
    spans = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    if not spans or not spans[0].size:
        return Extent(volume=0.0, diagonal=0.0)
    sides = [(span[-1] - span[0] + 1) * float(step) for span, step in zip(spans, spacing, strict=True)]
    cut = any(span[0] == 0 or span[-1] == size - 1 for span, size in zip(spans, mask.shape, strict=True))
    volume = int(np.count_nonzero(mask)) * float(np.prod(spacing))
    return Extent(volume=volume, diagonal=math.hypot(*sides), cut=cut)


def check_table(reports: Sequence[Report], vocabulary: Vocabulary) -> list[Problem]:
    """Problems that the rows alone show; no data needed."""
    problems = [
        Problem(case=id, kind="duplicate id", message=f"{count} reports have this id; ids are expected to be unique")
        for id, count in Counter(report.id for report in reports).items()
        if count > 1
    ]
    medians = _medians(reports)
    for report in reports:
        problems += _check_report(report)
        for number, tumour in enumerate(report.tumours):
            found = (*_check_place(tumour, vocabulary), *_check_size(tumour, medians))
            problems += [_problem(report, number, *values) for values in found]
    return problems


def check_texts(reports: Sequence[Report], texts: Mapping[str, str]) -> list[Problem]:
    """Hold the rows' sentences against the texts, id -> text."""
    problems = []
    for report in reports:
        if (text := texts.get(report.id)) is None:
            problems.append(_problem(report, None, "no text", "the file of reports has no such id", "warning"))
        elif report.text_hash and report.text_hash != hash_text(text):
            expected = f"expected {report.text_hash}, the text's is {hash_text(text)}"
            problems.append(_problem(report, None, "text changed", f"not the text that was extracted: {expected}"))
        else:
            for number, tumour in enumerate(report.tumours):
                if (said := text[tumour.start : tumour.end]) != tumour.sentence:
                    message = f"characters {tumour.start} to {tumour.end} of the report are {_short(said)}"
                    problems.append(_problem(report, number, "offsets", message))
    return problems


def check_sizes(
    report: Report, organs: Mapping[Place, Sequence[Extent]], field_of_view: Sequence[float]
) -> list[Problem]:
    """Hold a report's sizes against its case.

    Args:
        report: the rows.
        organs: extents of the masks in which a tumour of this organ and side may lie: one, or one for each side where
            the side is unknown. Places without masks are left out.
        field_of_view: mm along each axis of the CT.
    """
    problems = []
    for number, tumour in enumerate(report.tumours):
        extents = [extent for extent in organs.get(organ_of(tumour), ()) if extent.volume > 0]
        problems += [_problem(report, number, *values) for values in _check_fit(tumour, extents, field_of_view)]
    return problems


def organ_of(place: Place) -> Place:
    """The place without its sub-segments."""
    return Place(organ=place.organ, laterality=place.laterality)


Found = tuple[str, str, Severity]
"""Kind, message and severity of a problem of one tumour."""


def _problem(report: Report, tumour: int | None, kind: str, message: str, severity: Severity = "error") -> Problem:
    return Problem(case=report.id, tumour=tumour, kind=kind, message=message, severity=severity)


def _medians(reports: Sequence[Report]) -> dict[str, float]:
    """Median of the largest diameters of each organ that has enough of them, in mm."""
    sizes: dict[str, list[float]] = {}
    for report in reports:
        for tumour in report.tumours:
            if tumour.diameters:
                sizes.setdefault(tumour.organ, []).append(max(tumour.diameters))
    return {organ: float(np.median(values)) for organ, values in sizes.items() if len(values) >= ENOUGH}


def _check_report(report: Report) -> Iterator[Problem]:
    for flag in report.flags:
        if flag == DUPLICATE_ID:
            yield _problem(report, None, flag, "the file of reports has another text under this id")
        else:
            yield _problem(report, None, "flagged", flag, "warning")
    for negative in report.negatives:
        for number, tumour in enumerate(report.tumours):
            if negative.covers(tumour):
                message = f"{negative}: also said to be free of tumours"
                yield _problem(report, number, "contradiction", message)
    for number, tumour in enumerate(report.tumours):
        if tumour.sentence and tumour.end - tumour.start != len(tumour.sentence):
            message = f"a sentence of {len(tumour.sentence)} characters cannot lie at {tumour.start} to {tumour.end}"
            yield _problem(report, number, "offsets", message)


def _check_place(tumour: Tumour, vocabulary: Vocabulary) -> Iterator[Found]:
    if tumour.organ == "unknown":
        yield "unknown organ", "the report does not say where; no loss can use it", "warning"
        return
    if (organ := vocabulary.organs.get(tumour.organ)) is None:
        known = ", ".join(vocabulary.organs)
        yield "unknown organ", f"{tumour.organ!r} is none of the vocabulary's organs: {known}", "error"
        return
    for part in tumour.subsegments:
        if part not in organ.subsegments:
            known = ", ".join(organ.subsegments) or "none"
            yield "unknown part", f"{part!r} is none of the parts of {tumour.organ}: {known}", "error"
    if tumour.laterality and not organ.paired:
        yield "unknown part", f"{tumour.organ} has no {tumour.laterality} side", "warning"


def _check_size(tumour: Tumour, medians: Mapping[str, float]) -> Iterator[Found]:
    """At most one problem of a size by itself, against its sentence, and against the table."""
    if not tumour.diameters:
        return
    smallest, largest = min(tumour.diameters), max(tumour.diameters)
    in_sentence = measures(tumour.sentence)
    stray = [d for d in tumour.diameters if in_sentence and not any(_same(d, m.mm) for m in in_sentence)]
    slips = [(d, m) for d in stray for m in in_sentence if _same(10 * d, m.mm) or _same(d, 10 * m.mm)]
    if slips:
        yield "unit slip", f"the table says {_mm(slips[0][0])}, the sentence {slips[0][1].text!r}", "error"
    elif smallest < SMALLEST:
        yield "unit slip", f"{_mm(smallest)} is less than CT shows; was it meant in cm?", "error"
    elif largest >= ODD_RATIO * smallest:
        yield "unit slip", f"{_mm(largest)} and {_mm(smallest)} in one lesion; are both in the same unit?", "warning"
    elif (median := medians.get(tumour.organ)) and largest >= 10 * median:
        message = f"{_mm(largest)} is more than ten times the table's median for {tumour.organ}, {_mm(median)}; in mm?"
        yield "unit slip", message, "warning"
    elif stray:
        given = ", ".join(m.text for m in in_sentence)
        yield "size not in sentence", f"{_mm(stray[0])} is not among the sentence's sizes: {given}", "warning"


def _check_fit(tumour: Tumour, extents: Sequence[Extent], field_of_view: Sequence[float]) -> Iterator[Found]:
    """A size against the largest mask it may lie in, and against the CT."""
    largest, volume = max(tumour.diameters, default=0.0), tumour.ellipsoid or 0.0
    if largest > max(field_of_view, default=math.inf):
        yield "larger than field of view", f"{_mm(largest)} in a CT of {_box(field_of_view)}", "error"
    if not extents:
        return
    diagonal, room = max(e.diagonal for e in extents), max(e.volume for e in extents)
    if largest <= diagonal and volume <= room:
        return
    # a mask that the CT cuts off, or that lesions outgrow, cannot refute a size
    firm = tumour.organ not in OUTGROWN and not any(extent.cut for extent in extents)
    impossible = largest > DIAMETER_SLACK * diagonal or volume > VOLUME_SLACK * room
    what = f"{_mm(largest)} across" if largest > diagonal else f"{_ml(volume)} by its diameters"
    message = f"{what}; the mask of {organ_of(tumour)} measures {_mm(diagonal)} across and {_ml(room)}"
    if impossible and SMALLEST <= largest / 10 <= diagonal:
        message += f". {_mm(largest / 10)} would fit: is the unit right?"
    yield "larger than organ", message, "error" if firm and impossible else "warning"


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= SAME * max(a, b)


def _mm(value: float) -> str:
    return f"{value:.3g} mm"


def _ml(value: float) -> str:
    return f"{value / 1000:.3g} ml"


def _box(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.0f}" for side in sides) + " mm"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
