# SPDX-License-Identifier: Apache-2.0
"""Places to label ids, in the label sets of the package and in users' mapping files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsuper_train.reports.masks import LABEL_SETS, LabelSet, load_label_set, organ_ids, region
from rsuper_train.reports.places import parse_place
from rsuper_train.reports.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary()
SETS = {name: load_label_set(name) for name in LABEL_SETS}


def names_of(place: str, label_set: LabelSet) -> tuple[set[str], bool] | None:
    found = region(parse_place(place), label_set, VOCABULARY)
    names = {id: name for name, id in label_set.ids.items()}
    return found and ({names[id] for id in found.ids}, found.exact)


def test_the_numbering_of_totalsegmentator() -> None:
    ids = SETS["totalsegmentator"].ids
    assert sorted(ids.values()) == list(range(1, 118))
    known = {"spleen": 1, "liver": 5, "prostate": 22, "sacrum": 25, "vertebrae_L5": 27, "vertebrae_C1": 50, "heart": 51}
    known |= {"humerus_left": 69, "hip_right": 78, "skull": 91, "rib_left_1": 92, "rib_right_12": 115, "sternum": 116}
    assert {name: ids[name] for name in known} == known


def test_the_numbering_of_abdomenatlas_is_the_sorted_order() -> None:
    ids = SETS["abdomenatlas"].ids
    assert list(ids) == sorted(ids)
    assert list(ids.values()) == list(range(1, len(ids) + 1))


TOTAL = [
    ("liver", {"liver"}, True),
    ("liver, segment 5", {"liver"}, False),
    ("left kidney", {"kidney_left", "kidney_cyst_left"}, True),
    ("right kidney, upper pole", {"kidney_right", "kidney_cyst_right"}, False),
    ("kidney", {"kidney_left", "kidney_right", "kidney_cyst_left", "kidney_cyst_right"}, True),
    ("bilateral adrenal gland", {"adrenal_gland_left", "adrenal_gland_right"}, True),
    ("right lung, middle lobe", {"lung_middle_lobe_right"}, True),
    ("left lung, middle lobe", {"lung_upper_lobe_left", "lung_lower_lobe_left"}, False),
    ("lung, lower lobe", {"lung_lower_lobe_left", "lung_lower_lobe_right"}, True),
    ("right lung, upper lobe / middle lobe", {"lung_upper_lobe_right", "lung_middle_lobe_right"}, True),
    ("bladder", {"urinary_bladder"}, True),
    ("uterus", {"prostate"}, True),
    ("left liver", {"liver"}, False),
]  # fmt: skip
ATLAS = [
    ("liver", {"liver", *(f"liver_segment_{i}" for i in range(1, 9))}, True),
    ("liver, segment 5 / segment 8", {"liver_segment_5", "liver_segment_8"}, True),
    ("pancreas, head", {"pancreas_head"}, True),
    ("pancreas, head / duct", {"pancreas", "pancreas_head", "pancreas_body", "pancreas_tail"}, False),
    ("colon", {"colon", "rectum"}, True),
    ("colon, rectum", {"rectum"}, True),
    ("colon, sigmoid", {"colon", "rectum"}, False),
    ("right lung, lower lobe", {"lung_right"}, False),
    ("gallbladder", {"gall_bladder"}, True),
]


@pytest.mark.parametrize(
    ("label_set", "place", "names", "exact"),
    [("totalsegmentator", *case) for case in TOTAL] + [("abdomenatlas", *case) for case in ATLAS],
)
def test_regions(label_set: str, place: str, names: set[str], exact: bool) -> None:
    assert names_of(place, SETS[label_set]) == (names, exact)


@pytest.mark.parametrize("place", ["unknown", "pelvis", "breast", "bone", "left ear"])
def test_organs_without_a_class(place: str) -> None:
    assert names_of(place, SETS["abdomenatlas"]) is None


def test_bones() -> None:
    assert len(organ_ids("bone", SETS["totalsegmentator"], VOCABULARY)) == 62  # no cartilages


def test_every_mask_of_the_vocabulary_is_a_class() -> None:
    for organ in VOCABULARY.organs.values():
        for masks in (organ.masks, *(part.masks for part in organ.subsegments.values())):
            for name, classes in masks.items():
                missing = [
                    c for c in classes if not {c.replace("{side}", s) for s in ("left", "right")} & {*SETS[name].ids}
                ]
                assert missing == []


def test_segments_without_the_organ_and_the_organ_without_segments() -> None:
    parts = LabelSet("ours", {"pancreas_head": 1, "pancreas_body": 2, "pancreas_tail": 3, "liver_segment_1": 4})
    assert names_of("pancreas", parts) == ({"pancreas_head", "pancreas_body", "pancreas_tail"}, True)
    assert names_of("liver", parts) is None  # seven segments are missing
    assert names_of("liver, segment 1", parts) == ({"liver_segment_1"}, True)


def test_a_user_s_file(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        "labels: {background: 0, liver: 1, left kidney: 2, right kidney: 3, upper_left: 4, upper_right: 5,\n"
        "         ovary_l: 6, femur_left: 7}\n"
        'places: {"kidney, upper pole": ["upper_{side}"], pelvis: [ovary_l], "left pelvis": ovary_l}\n'
    )
    ours = load_label_set(path)
    assert ours.name == "ours"
    assert names_of("liver", ours) == ({"liver"}, True)
    assert names_of("right kidney, upper pole", ours) == ({"upper_right"}, True)
    assert names_of("kidney, lower pole", ours) == ({"left kidney", "right kidney", "upper_left", "upper_right"}, False)
    assert names_of("left pelvis", ours) == ({"ovary_l"}, True)
    assert names_of("right pelvis", ours) == ({"ovary_l"}, False)
    assert names_of("bone", ours) is None  # not the femur alone


def test_an_nnunet_dataset_is_a_label_set(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "kidney_left": 1}}))
    assert names_of("kidney", load_label_set(path)) == ({"kidney_left"}, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("liver", "expected a map from class to label id, got str"),
        ("liver: one", "liver: expected the id of a label, a whole number, got 'one'"),
        ("liver: true", "liver: expected the id of a label"),
        ("background: 0", "no label but the background"),
        ("labels: {liver: 1}\nplaces: {kidney: [ren]}", "places: kidney: there is no class 'ren'"),
        ("labels: {liver: 1}\nplaces: {kidney: 3}", "places: kidney: expected a list of classes, got 3"),
        ("labels: {liver: 1}\nplaces: [liver]", "places: expected a map"),
        ("a: [", "neither YAML nor JSON"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_label_set(path)
    assert str(path) in str(error.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no file total; the names known are abdomenatlas, totalsegmentator"):
        load_label_set("total")
