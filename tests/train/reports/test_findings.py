# SPDX-License-Identifier: Apache-2.0
"""Reports to Findings: groups, volumes, crops, negatives, organs without masks; nothing is lost without a note."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsuper_kernels import ReportSupervisedLoss
from rsuper_train.reports.findings import CropFindings, to_findings, visible_fractions
from rsuper_train.reports.masks import LABEL_SETS, LabelSet, load_label_set
from rsuper_train.reports.places import parse_place, parse_places
from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
SETS = {name: load_label_set(name) for name in LABEL_SETS}
ATLAS, TOTAL = SETS["abdomenatlas"], SETS["totalsegmentator"]
DEMO = LabelSet("demo", {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5})
EVERYTHING = frozenset([0, 1, 2, 3, 5])


def lesion(place: str, *diameters: float, **more: object) -> Tumour:
    return Tumour(**dict(parse_place(place)), diameters=diameters, **more)  # type: ignore[arg-type]


def report(*tumours: Tumour, free: str = "", id: str = "A") -> Report:
    return Report(id=id, tumours=tumours, negatives=parse_places(free))


def names(ids: Sequence[int], label_set: LabelSet = ATLAS) -> set[str]:
    return {name for name, id in label_set.ids.items() if id in ids}


def groups(found: CropFindings, channel: str, label_set: LabelSet = ATLAS) -> list[tuple[set[str], int]]:
    """(classes, number of tumours) of each group of a channel."""
    index = found.findings.channels.index(channel)  # type: ignore[union-attr]
    chosen = [group for group in found.findings.groups if group.channel == index]
    return [(names(group.label_ids, label_set), len(group.tumours)) for group in chosen]


def test_one_group_for_regions_that_touch() -> None:
    found = to_findings(
        [
            report(
                lesion("liver, segment 5", 10),
                lesion("liver, segment 2", 8),
                lesion("liver, segment 5 / segment 6", 12),
                lesion("liver, segment 6 / segment 7", 9),
                lesion("pancreas, head", 20, 15),
            )
        ],
        ATLAS,
    )
    assert groups(found, "liver_lesion") == [
        ({"liver_segment_5", "liver_segment_6", "liver_segment_7"}, 3),
        ({"liver_segment_2"}, 1),
    ]
    assert groups(found, "pancreatic_lesion") == [({"pancreas_head"}, 1)]
    assert (found.unknown, found.notes) == ({}, ())


def test_an_unknown_location_is_the_whole_organ() -> None:
    found = to_findings([report(lesion("liver, segment 5", 10), lesion("liver", 8), lesion("kidney", 5))], ATLAS)
    liver = {"liver", *(f"liver_segment_{i}" for i in range(1, 9))}
    assert groups(found, "liver_lesion") == [(liver, 2)]
    assert groups(found, "kidney_lesion") == [({"kidney_left", "kidney_right"}, 1)]


def test_sizes_counts_and_attenuations() -> None:
    reported = [
        lesion("left kidney", 10, attenuation="hypo"),
        lesion("left kidney", 24, 19),
        lesion("left kidney", 24, 19, 17, volume=5000.0),
        lesion("left kidney", volume=math.pi / 6 * 8000),
        lesion("left kidney", volume=1e9),
        lesion("left kidney", attenuation="mixed"),
        lesion("left kidney", count_known=False),
    ]
    found = to_findings([report(*reported)], TOTAL)
    (group,) = found.findings.groups
    assert [tumour.diameters for tumour in group.tumours[:3]] == [(10, 10, 10), (24, 19, 21.5), (24, 19, 17)]
    assert [tumour.volume for tumour in group.tumours[:3]] == pytest.approx([523.599, 5133.20, 5000.0], rel=1e-4)
    assert group.tumours[3].diameters == pytest.approx((20, 20, 20))
    assert [tumour.size_known for tumour in group.tumours[4:]] == [False, False, False]
    assert [tumour.attenuation for tumour in group.tumours] == ["hypo", *["unknown"] * 4, "mixed", "unknown"]
    assert not group.count_known
    assert found.notes == ("A: tumour in left kidney: size unknown, 1e+09 mm3 is no tumour's",)


def test_a_bilateral_row_is_more_than_one_tumour() -> None:
    (group,) = to_findings([report(lesion("bilateral kidney", 10))], ATLAS).findings.groups
    assert names(group.label_ids) == {"kidney_left", "kidney_right"}
    assert not group.count_known


def test_negatives_yield_to_tumours() -> None:
    free = "spleen; kidney; liver, segment 5 / segment 6; liver, segment 5"
    found = to_findings([report(lesion("left kidney", 10), lesion("liver, segment 6", 5), free=free)], ATLAS)
    assert groups(found, "spleen_lesion") == [({"spleen"}, 0)]
    assert groups(found, "kidney_lesion") == [({"kidney_left"}, 1), ({"kidney_right"}, 0)]
    assert groups(found, "liver_lesion") == [({"liver_segment_6"}, 1), ({"liver_segment_5"}, 0)]


def test_a_part_without_a_class_is_no_negative_of_the_organ() -> None:
    found = to_findings([report(free="left kidney, upper pole; liver, segment 2")], TOTAL)
    assert found.findings.groups == ()
    assert "A: no tumour in left kidney, upper pole: left out" in found.notes[0]


def test_unmentioned_organs() -> None:
    said = report(lesion("left kidney", 10), free="spleen")
    unknown, negative = (to_findings([said], DEMO, unmentioned=unmentioned) for unmentioned in ("unknown", "negative"))
    assert groups(unknown, "liver_lesion", DEMO) == []
    assert groups(negative, "liver_lesion", DEMO) == [({"liver"}, 0)]
    assert groups(negative, "kidney_lesion", DEMO) == [({"left kidney"}, 1), ({"right kidney"}, 0)]
    assert groups(negative, "spleen_lesion", DEMO) == [({"spleen"}, 0)]
    # a report that was not understood says nothing
    assert to_findings([report()], DEMO, unmentioned="negative").findings.groups == ()


def test_a_channel_for_all_organs() -> None:
    """There, the losses would take what a report with a tumour leaves out as free of tumours."""
    found = to_findings([report(lesion("left kidney", 10), free="spleen")], DEMO, ["lesion"])
    assert groups(found, "lesion", DEMO) == [({"left kidney"}, 1), ({"spleen"}, 0)]
    assert found.unknown == {(0, 0): {5}}
    assert to_findings([report(free="spleen")], DEMO, ["lesion"]).unknown == {}
    negative = to_findings([report(lesion("left kidney", 10))], DEMO, ["lesion"], unmentioned="negative")
    assert negative.unknown == {}
    assert sorted(group.label_ids for group in negative.findings.groups) == [(1,), (2,), (3,), (5,)]


@pytest.mark.parametrize(
    ("visible", "expected", "unknown", "note"),
    [
        ({22: 1.0, 23: 1.0, 36: 0.5}, [({"liver_segment_5", "liver_segment_6"}, 1)], set(), ""),
        ({22: 1.0, 23: 0.99, 36: 0.5}, [], {22, 23}, "the crop cuts the region, which is unknown"),
        ({22: 1.0, 23: 0.0, 36: 0.5}, [], {22}, "the crop cuts the region"),
        ({22: 0.0, 23: 0.0, 36: 0.5}, [], set(), "outside the crop"),
        ({22: 1.0, 36: 0.5}, [({"liver_segment_5"}, 1)], set(), ""),
        ({17: 1.0, 18: 1.0, 36: 0.5}, [({"liver", "liver_segment_1"}, 1)], set(), ""),
    ],
    ids=["whole", "cut", "half outside", "outside", "one part is not in the scan", "neither part is"],
)
def test_crops(visible: dict[int, float], expected: list[object], unknown: set[int], note: str) -> None:
    said = report(lesion("liver, segment 5 / segment 6", 10), free="spleen; left kidney")
    found = to_findings([said], ATLAS, visible=[visible])
    liver = found.findings.channels.index("liver_lesion")  # type: ignore[union-attr]
    assert groups(found, "liver_lesion") == expected
    assert found.unknown.get((0, liver), frozenset()) == unknown
    assert note in "".join(found.notes)
    assert bool(note) == bool(found.notes)
    assert groups(found, "spleen_lesion") == [({"spleen"}, 0)]  # a negative need not be whole
    assert groups(found, "kidney_lesion") == []  # not in the crop


def test_tumours_of_one_group_stand_or_fall_together() -> None:
    said = report(lesion("liver, segment 5", 10), lesion("liver, segment 5 / segment 6", 9), free="liver")
    found = to_findings([said], ATLAS, visible=[{21: 1.0, 22: 1.0, 23: 0.5}])
    assert groups(found, "liver_lesion") == [({"liver_segment_4"}, 0)]
    assert found.unknown == {(0, 0): {22, 23}}
    assert "2 tumours in liver, segment 5; liver, segment 5 / segment 6: excluded" in found.notes[0]


def test_an_organ_without_a_class_or_not_in_the_scan() -> None:
    said = report(lesion("lung", 10), free="spleen; liver")
    without = to_findings([said], DEMO, ["lesion"])
    assert groups(without, "lesion", DEMO) == [({"spleen"}, 0), ({"liver"}, 0)]
    assert without.unknown == {(0, 0): {0}}
    assert "tumour in lung: excluded, the organ has no class in the label set" in without.notes[0]
    missing = to_findings([report(lesion("spleen", 10), free="liver")], DEMO, ["lesion"], visible=[{5: 1.0}])
    assert missing.unknown == {(0, 0): {0}}
    assert "the organ is not in the scan" in missing.notes[0]


def test_an_organ_without_a_channel_is_noted() -> None:
    found = to_findings([report(lesion("liver", 10), lesion("left ear", 3))], ATLAS, ["background", "kidney_lesion"])
    assert found.findings.groups == ()
    assert found.findings.lesion_channels == (1,)
    assert len(found.notes) == 2
    assert "tumour in liver: left out, there is no channel for it" in found.notes[0]


def test_an_unknown_organ_makes_all_unknown() -> None:
    found = to_findings(
        [report(lesion("unknown", 10), lesion("liver", 5), free="spleen")], DEMO, unmentioned="negative"
    )
    assert groups(found, "liver_lesion", DEMO) == [({"liver"}, 1)]
    assert not found.findings.groups[0].count_known
    assert groups(found, "spleen_lesion", DEMO) == []
    assert set(found.unknown.values()) == {EVERYTHING}
    assert len(found.unknown) == found.findings.channel_count
    assert "a tumour whose organ is not said" in found.notes[0]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"channels: expected a channel of .* got a, b"):
        to_findings([report()], ATLAS, ["a", "b"])
    with pytest.raises(ValueError, match="visible: expected one map a report, 1, got 0"):
        to_findings([report()], ATLAS, visible=[])
    with pytest.raises(ValueError, match=r"visible\[0\]: expected fractions from 0 to 1, got 30 for label 5"):
        to_findings([report()], ATLAS, visible=[{5: 30}])
    assert to_findings([], ATLAS).findings.batch_size == 0


def test_visible_fractions_of_a_label_map() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[:2], labels[3] = 5, 2
    assert visible_fractions(labels, (slice(1, 3), slice(0, 4), slice(0, 2))) == {5: 0.25, 2: 0.0}


def test_the_losses_take_it() -> None:
    labels = torch.zeros(2, 12, 12, 12, dtype=torch.int64)
    labels[:, :4], labels[:, 4:8, :6], labels[:, 4:8, 6:], labels[:, 8:] = 5, 3, 2, 90
    said = [
        report(lesion("liver", 4), lesion("unknown")),
        report(lesion("right kidney", 3), lesion("lung", 4), free="liver", id="B"),
    ]
    found = to_findings(said, DEMO, visible=[{5: 1.0, 3: 1.0, 2: 1.0}, {5: 1.0, 3: 1.0, 2: 0.5}])
    assert groups(found, "liver_lesion", DEMO) == [({"liver"}, 1), ({"liver"}, 0)]
    unknown = found.unknown_mask(labels)
    assert unknown is not None
    assert unknown.shape == (2, found.findings.channel_count, 12, 12, 12)
    assert unknown[0].all()  # ids that the label set does not name, too
    assert torch.equal(unknown[1, 1], labels[1] == 2)
    logits = torch.zeros(unknown.shape, requires_grad=True)
    loss = ReportSupervisedLoss(attenuation_weight=0.0)
    parts = loss(logits, found.findings, labels, (1.0, 1.0, 1.0), labels=torch.zeros_like(logits), unknown=unknown)
    parts["total"].backward()
    assert torch.isfinite(parts["total"])
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert to_findings([report()], DEMO).unknown_mask(labels[:1]) is None


PLACES = st.builds(
    lambda organ, side, parts: parse_place(
        " ".join(filter(None, [side, organ])) + (f", {' / '.join(parts)}" if parts else "")
    ),
    st.sampled_from([*VOCABULARY.organs, "unknown", "thyroid"]),
    st.sampled_from(["", "left", "right", "bilateral"]),
    st.lists(st.sampled_from(["segment 5", "segment 6", "head", "tail", "upper pole", "lower lobe"]), max_size=2),
)
TUMOURS = st.builds(
    lambda place, diameters, counted: Tumour(**dict(place), diameters=diameters, count_known=counted),
    PLACES,
    st.lists(st.floats(1, 200), max_size=3).map(tuple),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    tumours=st.lists(TUMOURS, max_size=6).map(tuple),
    negatives=st.lists(PLACES, max_size=6).map(tuple),
    name=st.sampled_from(LABEL_SETS),
    channels=st.sampled_from([None, ["lesion"], ["liver_lesion", "pancreatic_lesion"]]),
    unmentioned=st.sampled_from(["unknown", "negative"]),
    fractions=st.none() | st.dictionaries(st.integers(1, 117), st.sampled_from([0.0, 0.5, 1.0]), max_size=60),
)
def test_groups_never_contradict_each_other(tumours, negatives, name, channels, unmentioned, fractions) -> None:  # type: ignore[no-untyped-def]
    said = Report(id="A", tumours=tumours, negatives=negatives)
    visible = None if fractions is None else [fractions]
    found = to_findings([said], SETS[name], channels, unmentioned=unmentioned, visible=visible)
    unplaced = any(tumour.organ == "unknown" for tumour in tumours)
    taken: set[tuple[int, int]] = set()
    for group in found.findings.groups:
        ids = {(int(group.channel), id) for id in group.label_ids}
        assert ids
        assert not ids & taken  # the regions of a channel are disjoint
        taken |= ids
        unknown = found.unknown.get((0, int(group.channel)), frozenset())
        assert unplaced or not set(group.label_ids) & unknown
        assert not (unplaced and group.negative)
        if fractions is not None and not group.negative:
            assert all(fractions[id] == 1 for id in group.label_ids)
    placed = sum(len(group.tumours) for group in found.findings.groups)
    assert placed <= len(tumours)
    assert placed == len(tumours) or found.notes
