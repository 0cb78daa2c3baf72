# SPDX-License-Identifier: Apache-2.0
"""Places: segments, lobes, parts, sides, landmarks, headings, and what a sentence takes over from those before."""

import pytest

from tests.train.reports.rows import rows

RIGHT = "segment 5 / segment 6 / segment 7 / segment 8"
LEFT = "segment 2 / segment 3 / segment 4"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("segment 7", "segment 7"),
        ("segment VII", "segment 7"),
        ("seg 7", "segment 7"),
        ("S7", "segment 7"),
        ("segment IVa", "segment 4"),
        ("segment 4b", "segment 4"),
        ("segments 4a/4b", "segment 4"),
        ("segment 5/6", "segment 5 / segment 6"),
        ("segments V and VI", "segment 5 / segment 6"),
        ("segments II-IV", "segment 2 / segment 3 / segment 4"),
        ("segments 2, 3 and 8", "segment 2 / segment 3 / segment 8"),
        ("the right hepatic lobe", RIGHT),
        ("the left lobe of the liver", LEFT),
        ("the right lobe, segment 6", "segment 6"),
        ("the caudate lobe", "segment 1"),
        ("the hepatic dome", "segment 7 / segment 8"),
        ("the left lateral section", "segment 2 / segment 3"),
        ("the posterior section of the right hepatic lobe", "segment 6 / segment 7"),
    ],
)
def test_liver(words: str, parts: str) -> None:
    assert rows(f"9 mm lesion in {words}.") == [f"liver, {parts}: 9"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9 mm cyst in the uncinate process.", "pancreas, head"),
        ("9 mm cyst in the pancreatic neck.", "pancreas, head"),
        ("9 mm cyst in the body and tail of the pancreas.", "pancreas, body / tail"),
        ("Pancreas: 9 mm cyst, tail.", "pancreas, tail"),
        ("9 mm cyst in the upper pole of the left kidney.", "left kidney, upper pole"),
        ("Right renal interpolar cyst, 9 mm.", "right kidney, interpolar region"),
        ("9 mm L renal cyst.", "left kidney"),
        ("RLL nodule 9 mm.", "right lung, lower lobe"),
        ("9 mm nodule in the lingula.", "left lung, upper lobe"),
        ("9 mm polyp in the rectum.", "colon, rectum"),
        ("9 mm nodule at the left base of the lung.", "left lung, lower lobe"),
        ("Compared with 2020 the lesion of the pancreatic tail has grown from 7 to 9 mm.", "pancreas, tail"),
        ("9 mm liver mass abutting the spleen and the stomach.", "liver"),
        ("9 mm exophytic lesion from the posterior left kidney.", "left kidney"),
        ("9 mm mass in the second portion of the duodenum.", "duodenum"),
        ("On the right there is no mass in the kidney, but a 9 mm nodule of the adrenal gland.", "right adrenal gland"),
        ("9 mm mass at the GE junction.", "esophagus"),
        ("9 mm cyst in the right adnexa.", "pelvis"),
        ("9 mm lytic lesion in L3.", "bone"),
        ("9 mm HCC.", "liver"),
        ("9 mm IPMN.", "pancreas"),
        ("9 mm fibroid.", "uterus"),
        ("9 mm nodule in the left lobe of the prostate.", "prostate"),
        ("9 mm nodule abutting the spleen in the pancreatic tail.", "pancreas, tail"),
        ("9 mm liver metastasis from renal cell carcinoma.", "liver"),
        ("9 mm mass arising from the left kidney, adjacent to the spleen.", "left kidney"),
        ("9 mm lesion.", "unknown"),
    ],
)
def test_place(text: str, place: str) -> None:
    assert rows(text) == [f"{place}: 9"]


@pytest.mark.parametrize(
    "text",
    [
        "9 mm hypodense nodule in the right lobe of the thyroid.",
        "Mesenteric mass measuring 4 cm.",
        "Subcutaneous nodule, 9 mm.",
        "LYMPH NODES: 12 mm nodule.",
        "Two cerebellar metastases of 9 mm.",
    ],
)
def test_lesions_elsewhere_make_no_row(text: str) -> None:
    assert rows(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LIVER: Normal size. 9 mm cyst.\nSPLEEN: 8 mm cyst.", ["liver: 9", "spleen: 8"]),
        ("The liver is enlarged. There is a 9 mm cyst.", ["liver: 9"]),
        ("A 9 mm cyst in the liver and a 8 mm cyst in the spleen.", ["liver: 9", "spleen: 8"]),
        (
            "The right lobe metastasis has grown from 2 cm to 3 cm and the left lobe metastasis from 2 cm to 1 cm.",
            [f"liver, {RIGHT}: 30", f"liver, {LEFT}: 10"],
        ),
        ("Liver: no lesion.\nSpleen shows a 9 mm cyst. No stone. 8 mm cyst.", ["spleen: 9", "spleen: 8"]),
        ("Cysts in the liver and both kidneys.", ["liver: many", "bilateral kidney: many"]),
        (
            "Right kidney shows a 9 mm cyst, left kidney shows a 3 cm mass.",
            ["right kidney: 9", "left kidney: 30"],
        ),
        (
            "Two hepatic cysts measuring 1.2 cm (segment 2) and 8 mm (segment 6).",
            ["liver, segment 2: 12", "liver, segment 6: 8"],
        ),
        (
            "Bilateral adrenal nodules, 1.5 cm on the right and 1.2 cm on the left.",
            ["right adrenal gland: 15", "left adrenal gland: 12"],
        ),
        (
            "Lesions in segments 5 and 6 measuring 12 and 8 mm, respectively.",
            ["liver, segment 5: 12", "liver, segment 6: 8"],
        ),
    ],
)
def test_whose_place(text: str, expected: list[str]) -> None:
    assert [row for row in rows(text) if "many" not in row or row in expected] == expected
