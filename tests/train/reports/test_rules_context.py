# SPDX-License-Identifier: Apache-2.0
"""Negation, history and certainty: what is no lesion, what is one in spite of a "no", and what is free of tumours."""

import pytest

from tests.train.reports.rows import extract, negatives, rows


@pytest.mark.parametrize(
    "text",
    [
        "No focal hepatic lesion.",
        "No mass, cyst or nodule in the liver.",
        "The liver is normal without focal lesion.",
        "A pancreatic mass is not identified.",
        "Neither kidney contains a mass.",
        "The previously seen 2 cm liver lesion is no longer visible.",
        "Interval resolution of the left lower lobe nodule.",
        "History of renal cell carcinoma.",
        "Status post resection of a 3 cm liver mass.",
        "S/p ablation of hepatic lesion.",
        "CLINICAL HISTORY: 3 cm liver mass.",
        "COMPARISON: CT with 3 cm liver mass.\nFINDINGS: The liver is normal.",
        "Evaluate for liver metastases.",
        "Splenic hypodensity consistent with an infarct.",
        "PMH: lung cancer 2004.",
        "Question: adrenal mass? Answer: none.",
        "F/u HCC s/p resection of segment 6.",
        "Follow-up of a pancreatic cyst.",
        "None of the kidneys contains a mass.",
        "A 7 mm liver lesion was seen on MRI; it is no longer demonstrable.",
        "The apparent mass in the cecum is stool.",
        "The lesion suspected in the pancreatic tail proves to be a fold.",
        "Patient with known pancreatic cancer.",
        "Comparison is made with a CT of 2019, when a 9 mm lesion was described in segment 6.",
        "The left kidney is displaced by the mass.",
        "Pancreatic lesion: excluded.",
    ],
)
def test_no_row(text: str) -> None:
    assert rows(text) == []


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("No change in the 12 mm liver cyst.", "liver: 12"),
        ("Liver cyst, not significantly changed, 12 mm.", "liver: 12"),
        ("No interval growth of the 12 mm liver nodule.", "liver: 12"),
        ("12 mm liver lesion without enhancement.", "liver: 12"),
        ("No hydronephrosis, 12 mm cyst in the left kidney.", "left kidney: 12"),
        ("No liver lesion. However, a 12 mm renal cyst.", "kidney: 12"),
        ("Liver is unremarkable except for a 12 mm cyst.", "liver: 12"),
        ("History of breast cancer, now with a 12 mm liver lesion.", "liver: 12"),
        ("The previously described 12 mm liver lesion is unchanged.", "liver: 12"),
        ("Liver lesion, 12 mm; it was not seen in 2018.", "liver: 12"),
        ("Left kidney 12 mm cyst; no hydronephrosis.", "left kidney: 12"),
    ],
)
def test_row_in_spite_of_it(text: str, row: str) -> None:
    assert rows(text) == [row]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The spleen, pancreas and right adrenal gland are unremarkable.",
            ["spleen", "pancreas", "right adrenal gland"],
        ),
        ("Liver: no focal lesion.", ["liver"]),
        ("No mass in the liver or spleen.", ["liver", "spleen"]),
        ("Normal adrenal glands.", ["adrenal gland"]),
        ("GALLBLADDER: Normal.", ["gallbladder"]),
        ("The liver is normal in size.", []),
        ("No new liver lesion.", []),
        ("The liver is normal. 9 mm cyst in the liver.", []),
        ("Right kidney normal. 9 mm cyst in the left kidney.", ["right kidney"]),
        ("No renal stone.", []),
        ("Neither the liver nor the spleen shows a focal lesion.", ["liver", "spleen"]),
        ("In the pelvis, the bladder and prostate are normal.", ["bladder", "prostate"]),
        ("The left adrenal gland measures 12 mm, and the right adrenal gland is normal.", ["right adrenal gland"]),
        ("The pancreas is atrophic but otherwise unremarkable.", ["pancreas"]),
        ("No abnormality is seen in the spleen.", ["spleen"]),
        ("The liver is free of focal disease.", ["liver"]),
        ("Nil focal in the spleen.", ["spleen"]),
        ("Q: liver mets? A: No liver lesion.", ["liver"]),
        ("L kidney nl.", ["left kidney"]),
        ("The gallbladder and the bile ducts are normal.", ["gallbladder"]),
    ],
)
def test_negatives(text: str, expected: list[str]) -> None:
    assert negatives(text) == expected


@pytest.mark.parametrize(
    ("text", "type_", "certainty"),
    [
        ("9 mm liver lesion.", "lesion", "certain"),
        ("9 mm liver lesion, likely a cyst.", "cyst", "high"),
        ("9 mm liver lesion consistent with a hemangioma.", "hemangioma", "high"),
        ("9 mm liver lesion suspicious for metastasis.", "metastasis", "low"),
        ("Possible 9 mm liver lesion.", "lesion", "low"),
        ("9 mm liver lesion. This may represent a metastasis.", "metastasis", "low"),
    ],
)
def test_type_and_certainty(text: str, type_: str, certainty: str) -> None:
    [tumour] = extract(text).tumours
    assert (tumour.type, tumour.certainty) == (type_, certainty)


@pytest.mark.parametrize(
    ("words", "attenuation"),
    [
        ("hypodense", "hypo"),
        ("low-attenuation", "hypo"),
        ("hypoenchanging", "hypo"),
        ("fluid attenuation", "hypo"),
        ("isodense", "iso"),
        ("hyperenhancing", "hyper"),
        ("arterially enhancing", "hyper"),
        ("heterogeneously enhancing", "mixed"),
        ("part cystic, part solid", "mixed"),
        ("enhancing", "unknown"),
        ("simple", "unknown"),
    ],
)
def test_attenuation(words: str, attenuation: str) -> None:
    [tumour] = extract(f"There is a {words} lesion in the liver, 9 mm.").tumours
    assert tumour.attenuation == attenuation


def test_attenuation_of_the_next_sentence_and_of_a_neighbour() -> None:
    assert rows("9 mm liver lesion. It is hypodense.") == ["liver: 9 hypo"]
    assert rows("Within the hypodense liver there is a hyperdense 9 mm lesion.") == ["liver: 9 hyper"]
    assert rows("Beside a hypodense thrombus there is a 9 mm liver tumour.") == ["liver: 9"]
