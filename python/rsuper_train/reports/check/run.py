# SPDX-License-Identifier: Apache-2.0
"""The whole check: a table by itself, against the texts it was read from, and against a folder of CTs and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from rsuper_train.layout import list_cases
from rsuper_train.reports.check.folder import Measured, Request, measure_cases
from rsuper_train.reports.check.problems import (
    Extent,
    Found,
    Problem,
    check_sizes,
    check_table,
    check_texts,
    organ_of,
)
from rsuper_train.reports.masks import LabelSet, load_label_set, region
from rsuper_train.reports.schema import Laterality, Place, Report, Tumour
from rsuper_train.reports.vocabulary import Vocabulary

Classes = Callable[[Place], Sequence[frozenset[str]]]
"""Place -> the sets of classes in whose union its lesion lies: one, or one for each side that is possible."""


def run_check(
    reports: Sequence[Report],
    vocabulary: Vocabulary,
    data: Path | None = None,
    label_set: LabelSet | None = None,
    texts: Mapping[str, str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """Everything that is wrong with `reports`, in their order; an empty table has no problem of its own.

    Args:
        reports: the table.
        vocabulary: its organs and their classes.
        data: folder of cases, see `layout`; None checks the rows alone.
        label_set: whose classes the masks are named after, and whose ids label maps have; by default
            TotalSegmentator's.
        texts: id -> report, to hold the sentences against.
        workers: processes that read masks.
        progress: called with the number of cases measured and of all.

    Raises:
        ValueError: a data folder that is none, or is empty.
    """
    problems = check_table(reports, vocabulary)
    if texts is not None:
        problems += check_texts(reports, texts)
    if data is not None:
        labels = label_set or load_label_set("totalsegmentator")
        classes = cache(partial(classes_of, label_set=labels, vocabulary=vocabulary))
        problems += _check_data(reports, data, lambda place: classes(organ_of(place)), labels.ids, workers, progress)
    order = {report.id: number for number, report in enumerate(reports)}
    return sorted(problems, key=lambda p: (order.get(p.case, len(order)), p.case, p.tumour is None, p.tumour or 0))


def classes_of(place: Place, label_set: LabelSet, vocabulary: Vocabulary) -> tuple[frozenset[str], ...]:
    """The label set's classes of an organ, a set for each side that a lesion may be on; empty where it has none."""
    sides: tuple[Laterality, ...] = ("left", "right")
    if place.laterality in sides:
        sides = (place.laterality,)
    names = {id: name for name, id in label_set.ids.items()}
    regions = (region(Place(organ=place.organ, laterality=side), label_set, vocabulary) for side in sides)
    return tuple(dict.fromkeys(frozenset(names[id] for id in found.ids) for found in regions if found))


def _check_data(
    reports: Sequence[Report],
    data: Path,
    classes: Classes,
    label_ids: Mapping[str, int],
    workers: int,
    progress: Callable[[int, int], None],
) -> list[Problem]:
    """Hold the table against a folder."""
    cases = list_cases(data)
    by_id = {report.id: report for report in reports}
    problems = [
        Problem(case=name, kind="no data", message=f"no folder of this name in {data}")
        for name in by_id
        if name not in cases
    ]
    problems += [
        Problem(case=name, kind="no report", message="the table has no row for this case", severity="warning")
        for name in sorted(cases.keys() - by_id.keys())
    ]
    requests = {
        name: Request(cases[name], _wanted(report, classes), label_ids)
        for name, report in by_id.items()
        if name in cases
    }
    progress(0, len(requests))
    for done, (name, measured) in enumerate(measure_cases(requests, workers), start=1):
        problems += _check_case(by_id[name], measured, classes)
        progress(done, len(requests))
    return problems


def _wanted(report: Report, classes: Classes) -> tuple[frozenset[str], ...]:
    """The masks that a report's tumours need."""
    return tuple(dict.fromkeys(organ for tumour in report.tumours for organ in classes(tumour)))


def _check_case(report: Report, measured: Measured, classes: Classes) -> Iterator[Problem]:
    """The troubles of a case's files, then its tumours against its masks."""
    for kind, message in measured.troubles:
        yield Problem(case=report.id, kind=kind, message=message)
    if not measured.field_of_view:
        return
    organs: dict[Place, list[Extent]] = {}
    for number, tumour in enumerate(report.tumours):
        wanted = classes(tumour)
        organs[organ_of(tumour)] = [measured.organs[organ] for organ in wanted if organ in measured.organs]
        if found := _check_masks(tumour, wanted, measured):
            kind, message, severity = found
            yield Problem(case=report.id, tumour=number, kind=kind, message=message, severity=severity)
    yield from check_sizes(report, organs, measured.field_of_view)


def _check_masks(tumour: Tumour, wanted: Sequence[frozenset[str]], measured: Measured) -> Found | None:
    """Whether there is a mask in which the tumour can lie."""
    if tumour.organ == "unknown":
        return None
    if not wanted:
        return "no mask in label set", f"the label set has no class for {organ_of(tumour)}", "warning"
    extents = [measured.organs[organ] for organ in wanted if organ in measured.organs]
    if any(extent.volume for extent in extents):
        return None
    if extents:
        return "empty mask", f"the mask of {organ_of(tumour)} is empty", "error"
    if measured.troubles:
        return None  # the mask may be among the files that could not be read
    names = " or ".join(" + ".join(sorted(organ)) for organ in wanted)
    return "no mask", f"expected a mask of {names}", "error"
