# SPDX-License-Identifier: Apache-2.0
"""Report sentences: the reader knows radiologists' habits."""

from __future__ import annotations

import pytest

from rsuper_train.reports import Record, read_report, to_findings

SENTENCES = [
    (
        "Two hypoattenuating lesions in the liver measuring 2.4 x 1.9 cm and 18 mm.",
        [Record("liver", None, (24.0, 19.0), "hypo"), Record("liver", None, (18.0,), "hypo")],
    ),
    (
        "Kidneys: 2.1 cm hypodense lesion in the left kidney. Spleen: unremarkable.",
        [Record("kidney", "left", (21.0,), "hypo"), Record("spleen", count=0)],
    ),
    ("Both kidneys are unremarkable.", [Record("kidney", count=0)]),
    ("Spleen and kidneys: unremarkable.", [Record("spleen", count=0), Record("kidney", count=0)]),
    ("The liver is normal in size. No focal lesion larger than 5 mm.", [Record("liver", count=0)]),
    ("Right renal cyst 12mm by 10 mm, hyperdense", [Record("kidney", "right", (12.0, 10.0), "hyper")]),
    ("Liver: 2,4 × 1,9 × 1,7 cm isodense mass.", [Record("liver", None, (24.0, 19.0, 17.0), "iso")]),
    ("Heterogeneous tumor in the spleen. Aorta 20 mm.", [Record("spleen", None, (), "mixed")]),
    (
        "Multiple low-attenuation hepatic metastases, the largest 25 mm.",
        [Record("liver", None, (25.0,), "hypo"), Record("liver", None, (), "hypo", None)],
    ),
    (
        "Three liver masses, up to 24 millimetres.",
        [Record("liver", None, (24.0,)), Record("liver", None, (), count=2)],
    ),
    (
        "Three 2 cm hypodense liver lesions.",
        [Record("liver", None, (20.0,), "hypo"), Record("liver", None, (), "hypo", 2)],
    ),
    ("The lungs are clear. No pleural effusion.", []),
    ("", []),
]


@pytest.mark.parametrize(("sentence", "records"), SENTENCES, ids=[s[:30] for s, _ in SENTENCES])
def test_table(sentence, records):
    assert read_report(sentence) == records


def test_findings():
    text = (
        "Two hypodense lesions in the liver, 24 mm and 18 x 15 mm. No lesion in the spleen. Several left renal cysts."
    )
    findings = to_findings(read_report(text))
    liver, spleen, kidney = findings.groups
    assert (liver.region, spleen.region, kidney.region) == ((5,), (1,), (3,))
    assert [tumour.diameters for tumour in liver.tumours] == [(24.0, 24.0, 24.0), (18.0, 15.0, 16.5)]
    assert [tumour.attenuation for tumour in liver.tumours] == ["hypo", "hypo"]
    assert spleen.negative
    assert not kidney.count_known
    assert not kidney.tumours[0].size_known


def test_findings_kidney_without_side_and_contradiction():
    findings = to_findings([Record("kidney", count=0), Record("liver", count=0), Record("liver", None, (20.0,))])
    assert findings.groups[0].region == (2, 3)
    assert len(findings.groups[1].tumours) == 1


def test_findings_unknown_organ():
    with pytest.raises(ValueError, match="pancreas"):
        to_findings([Record("pancreas", None, (20.0,))])
