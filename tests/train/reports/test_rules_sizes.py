# SPDX-License-Identifier: Apache-2.0
"""Sizes: units, crosses, ranges, bounds, earlier sizes, and numbers that are no sizes."""

import pytest

from tests.train.reports.rows import extract, rows


@pytest.mark.parametrize(
    ("size", "diameters"),
    [
        ("18 mm", "18"),
        ("18mm", "18"),
        ("1.8 cm", "18"),
        ("1,8 cm", "18"),
        (".8 cm", "8"),
        ("1.8-cm", "18"),
        ("2.4 x 1.9 cm", "24 x 19"),
        ("2.4x1.9cm", "24 x 19"),
        ("2.4 × 1.9 cm", "24 x 19"),
        ("24 by 19 mm", "24 x 19"),
        ("2.4 cm x 1.9 cm x 17 mm", "24 x 19 x 17"),
        ("2.4 cm (AP) x 1.9 cm (TR) x 1.7 cm (CC)", "24 x 19 x 17"),
        ("24 (TR) x 19 (AP) x 17 (CC) mm", "24 x 19 x 17"),
        ("approximately 2\u00a0cm", "20"),
        ("1 to 2 cm", "20"),
        ("1-2 cm", "20"),
        ("2 centimeters", "20"),
        ("between 1 and 2 cm", "20"),
        ("٢ cm", "20"),
        ("less than 5 mm", "?"),
        ("<1 cm", "?"),
        ("≤ 1 cm", "?"),
        ("up to 24 mm", "24"),
        ("3.2 cm AP and 2.8 cm transverse", "32 x 28"),
        ("15 mm (previously 12 mm)", "15"),
        ("15 mm, was 12 mm", "15"),
        ("15 mm compared to 9 mm", "15"),
        ("15 mm, 12 mm in 2019", "15"),
        ("15 mm (12 mm)", "15"),
        ("12 mm → 15 mm", "15"),
    ],
)
def test_size(size: str, diameters: str) -> None:
    assert rows(f"Liver: lesion measuring {size}.") == [f"liver: {diameters}"]


@pytest.mark.parametrize(
    "text",
    [
        "Liver: lesion (series 3, image 45).",
        "Liver: lesion of 35 HU, 2 cm from the portal vein.",
        "Liver: lesion. 5 mm slices.",
        "Liver: lesion, stable since 3/4/2019.",
        "Liver: lesion with SUV 4.2 and 30 % washout.",
    ],
)
def test_numbers_that_are_no_size(text: str) -> None:
    assert rows(text) == ["liver: ?"]


@pytest.mark.parametrize(
    "text",
    [
        "The spleen measures 12 cm.",
        "5 mm nonobstructing stone in the left kidney.",
        "The common bile duct measures 8 mm.",
        "The aorta is 3.4 cm wide.",
        "Right kidney: 11.2 cm. Left kidney: 10.9 cm.",
        "Retroperitoneal lymph nodes, the largest 18 mm.",
    ],
)
def test_sizes_of_other_things_make_no_row(text: str) -> None:
    assert rows(text) == []


def test_duct_beside_a_mass_keeps_its_size() -> None:
    assert rows("3 cm pancreatic head mass with dilated pancreatic duct measuring 9 mm.") == ["pancreas, head: 30"]


def test_impossible_size_is_flagged_and_the_row_kept() -> None:
    report = extract("Liver: 740 mm lesion in segment 4.")
    assert [(t.diameters, t.subsegments) for t in report.tumours] == [((), ("segment 4",))]
    assert report.flags == ("size above 500 mm",)


def test_by_a_lesion_is_no_change_by_so_much() -> None:
    assert rows("The spleen is enlarged by a 6 cm mass.") == ["spleen: 60"]
    assert rows("Splenic mass, enlarged by 6 mm.") == ["spleen: ?"]
