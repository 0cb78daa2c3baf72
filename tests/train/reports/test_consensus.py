# SPDX-License-Identifier: Apache-2.0
"""Two readings of one report, joined."""

from __future__ import annotations

from typing import Any

import pytest

from rsuper_train.reports.consensus import consensus
from rsuper_train.reports.schema import Place, Report, Tumour

KIDNEY = Place(organ="kidney")
RIGHT = Place(organ="kidney", laterality="right")
SPLEEN = Place(organ="spleen")


def lesion(*diameters: float, organ: str = "liver", **fields: Any) -> Tumour:
    return Tumour(organ=organ, diameters=diameters, **fields)


def report(*tumours: Tumour, extractor: str = "rules", **fields: Any) -> Report:
    return Report(id="case 1", tumours=tumours, extractor=extractor, text_hash="0", **fields)


def kinds(first: Report, second: Report) -> list[str]:
    return [each.kind for each in consensus(first, second).disagreements]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lesion(12), lesion(12.9)),
        (lesion(50, 30), lesion(33, 46)),
        (lesion(subsegments=("segment 5",)), lesion(subsegments=("segment 5", "segment 6"))),
        (lesion(12), lesion(12, subsegments=("segment 5",))),
        (lesion(12, organ="kidney"), lesion(12, organ="kidney", laterality="left")),
        (lesion(12, attenuation="hypo"), lesion(12)),
        (lesion(count_known=False), lesion(count_known=False)),
    ],
)
def test_what_agrees_is_kept_once(first, second):
    for one, other in ((first, second), (second, first)):
        joint = consensus(report(one), report(other, extractor="llm:m"))
        assert len(joint.report.tumours) == 1
        assert (joint.disagreements, joint.report.flags) == ((), ())


def test_the_richer_row_is_kept():
    poor, rich = lesion(12), lesion(12, attenuation="hypo", subsegments=("segment 5",), sentence="x", end=1)
    assert consensus(report(poor), report(rich)).report.tumours == (rich,)
    assert consensus(report(rich), report(poor)).report.tumours == (rich,)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ([lesion(12)], [lesion(14)], "size"),
        ([lesion(12)], [lesion()], "size"),
        ([lesion(12)], [lesion(12, 12)], "size"),
        ([lesion(12, subsegments=("segment 5",))], [lesion(12, subsegments=("segment 8",))], "place"),
        ([lesion(9, organ="kidney", laterality="left")], [lesion(9, organ="kidney", laterality="right")], "place"),
        ([lesion(12, attenuation="hypo")], [lesion(12, attenuation="hyper")], "attenuation"),
        ([lesion(12), lesion(12)], [lesion(12)], "only first"),
        ([], [lesion(12)], "only second"),
    ],
)
def test_each_difference_is_named_and_nothing_is_dropped(first, second, kind):
    joint = consensus(report(*first), report(*second))
    assert [each.kind for each in joint.disagreements] == [kind]
    assert joint.report.flags == (f"extractors disagree: {joint.disagreements[0]}",)
    assert len(joint.report.tumours) == max(len(first), len(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lesion(12), lesion(12, organ="kidney")),
        (lesion(12), lesion(12, count_known=False)),
        (lesion(12, subsegments=("segment 5",)), lesion(30, subsegments=("segment 8",))),
    ],
)
def test_different_lesions_are_both_kept(first, second):
    assert kinds(report(first), report(second)) == ["only first", "only second"]
    assert set(consensus(report(first), report(second)).report.tumours) == {first, second}


def test_the_closest_rows_are_paired():
    small, large = lesion(10), lesion(11)
    assert consensus(report(small, large), report(lesion(11), lesion(10))).report.tumours == (small, large)


def test_conflicting_attenuation_becomes_unknown():
    joint = consensus(report(lesion(12, attenuation="hypo")), report(lesion(12, attenuation="hyper")))
    assert joint.report.tumours[0].attenuation == "unknown"


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((KIDNEY, SPLEEN), (SPLEEN,), (SPLEEN,)),
        ((KIDNEY,), (RIGHT,), (RIGHT,)),
        ((RIGHT,), (Place(organ="kidney", laterality="left"),), ()),
        ((), (SPLEEN,), ()),
    ],
)
def test_negatives_need_both(first, second, kept):
    joint = consensus(report(negatives=first), report(negatives=second))
    assert (joint.report.negatives, joint.report.flags) == (kept, ())


def test_a_negative_against_a_lesion_is_a_disagreement():
    cyst = lesion(9, organ="kidney", laterality="left")
    joint = consensus(report(negatives=(KIDNEY, SPLEEN)), report(cyst, negatives=(RIGHT, SPLEEN)))
    assert [each.kind for each in joint.disagreements] == ["only second", "negative"]
    assert joint.disagreements[1].second == "left kidney, 9 mm, unknown attenuation"
    assert joint.report.negatives == (RIGHT, SPLEEN)


def test_without_one_answer_the_other_stands_and_is_flagged():
    read = report(lesion(12), negatives=(SPLEEN,), flags=("x",))
    failed = report(flags=("no valid answer: the model refused",), extractor="llm:m")
    joint = consensus(read, failed)
    assert [(each.kind, each.first, each.second) for each in joint.disagreements] == [
        ("no answer", "", "no valid answer: the model refused")
    ]
    assert (joint.report.tumours, joint.report.negatives) == (read.tumours, read.negatives)
    assert joint.report.flags == (
        "x",
        "extractors disagree: no answer: nothing / no valid answer: the model refused",
    ), "a flag that begins with 'no valid answer' is for reports that nobody has read"
    assert joint.report.extractor == "consensus of rules and llm:m"


def test_without_any_answer_there_is_none():
    failed = report(flags=("no valid answer: the model refused",))
    joint = consensus(failed, failed)
    assert joint.report.flags == failed.flags
    assert joint.disagreements == ()


def test_different_reports_have_no_consensus():
    with pytest.raises(ValueError, match=r"'case 1'.*'case 2'"):
        consensus(report(), Report(id="case 2", text_hash="0"))
