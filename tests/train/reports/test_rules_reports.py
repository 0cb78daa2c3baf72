# SPDX-License-Identifier: Apache-2.0
"""Counts, groups, sentences that go on, headings, and lesions said twice."""

import pytest

from tests.train.reports.rows import extract, rows
from tests.train.reports.texts import REPORTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Multiple liver cysts.", ["liver: many"]),
        ("Multiple liver cysts, the largest measuring 25 mm in segment 6.", ["liver, segment 6: 25", "liver: many"]),
        ("Liver metastases measuring up to 25 mm.", ["liver: 25", "liver: many"]),
        ("Two liver lesions measuring 2.4 x 1.9 cm and 18 mm.", ["liver: 24 x 19", "liver: 18"]),
        ("Two liver cysts, both measuring 1 cm.", ["liver: 10", "liver: 10"]),
        ("Three liver cysts, the largest 25 mm.", ["liver: 25", "liver: ?", "liver: ?"]),
        (
            "Bilateral renal cysts, measuring up to 3.4 cm in the right lower pole.",
            ["right kidney, lower pole: 34", "bilateral kidney: many"],
        ),
        ("Bilateral renal cysts.", ["bilateral kidney: many"]),
        (
            "Two lesions in the liver. The larger measures 2 cm in segment 5 and the smaller 1 cm in segment 8.",
            ["liver, segment 5: 20", "liver, segment 8: 10"],
        ),
        ("Multiple liver lesions. The largest is in segment 6, 31 mm.", ["liver, segment 6: 31", "liver: many"]),
        ("Mass in the pancreatic head. It measures 3.2 x 2.8 cm.", ["pancreas, head: 32 x 28"]),
        (
            "Liver: Three metastases. The largest is 3 cm. A segment 2 metastasis measures 9 mm.",
            ["liver: 30", "liver, segment 2: 9", "liver: ?"],
        ),
        ("Segment 8 observation, 2 cm, washout and capsule, LR-5.", ["liver, segment 8: 20"]),
        (
            "Three lung nodules, none larger than the 6 mm nodule in the right upper lobe.",
            ["right lung, upper lobe: 6", "lung: ?", "lung: ?"],
        ),
        ("Liver lesion of 9 mm. On the last CT this lesion was 7 mm.", ["liver: 9"]),
        (
            "Ablation zone in segment 4, 28 mm. At its medial margin there is a nodule of 10 mm.",
            ["liver, segment 4: 10"],
        ),
        (
            "RUL nodule, 9 mm. A 5 mm nodule in the same lobe.",
            ["right lung, upper lobe: 9", "right lung, upper lobe: 5"],
        ),
        ("Liver: numerous cysts, none above 5 mm.", ["liver: many"]),
        (
            "A 10 mm metastasis in segment 4, another hypodense one of 9 mm in segment 6.",
            ["liver, segment 4: 10", "liver, segment 6: 9 hypo"],
        ),
        (
            "The larger of the two liver cysts lies in segment 8 and is 42 mm across.",
            ["liver, segment 8: 42", "liver: ?"],
        ),
        ("Innumerable hepatic and splenic lesions.", ["spleen: many", "liver: many"]),
        ("Bilateral renal cysts, 3.2 cm on the left.", ["left kidney: 32", "bilateral kidney: many"]),
        ("A lesion of the spleen matches a 13 mm cyst.", ["spleen: 13"]),
        ("No splenic lesion apart from a calcified one of 4 mm.", ["spleen: 4"]),
        (
            "Two liver lesions. One, in segment 6, is a 13 mm cyst. The second is 9 mm.",
            ["liver, segment 6: 13", "liver: 9"],
        ),
        ("None of the liver cysts has changed.", ["liver: many"]),
        ("Liver: two lesions, 9 mm and 14 mm. Both are hypodense metastases.", ["liver: 9 hypo", "liver: 14 hypo"]),
        ("On 7 May 2019 lesions of the liver were biopsied.", ["liver: many"]),
        (
            "Adrenal nodules bilaterally: right 16 mm, left 11 mm, both of low density.",
            ["right adrenal gland: 16 hypo", "left adrenal gland: 11 hypo"],
        ),
        ("Uterine mass of 5 cm with ascites, suspicious for endometrial carcinoma.", ["uterus: 50"]),
        ("Perigastric nodes, the largest 14 mm. 9 mm liver cyst.", ["liver: 9"]),
    ],
)
def test_counts(text: str, expected: list[str]) -> None:
    assert rows(text) == expected


@pytest.mark.parametrize(
    "impression",
    [
        "2.4 cm liver lesion.",
        "2.4 x 2.0 cm lesion in segment 7.",
        "Liver lesion, likely metastasis.",
        "Segment 7 mass.",
        "New segment 7 mass.",
    ],
)
def test_impression_repeats(impression: str) -> None:
    text = f"FINDINGS: There is a 2.4 x 1.9 cm lesion in segment 7 of the liver.\nIMPRESSION: 1. {impression}"
    [first] = extract(text).tumours
    assert first.sentence == "There is a 2.4 x 1.9 cm lesion in segment 7 of the liver."


def test_wrapped_lines_and_lists() -> None:
    wrapped = "There is a hypodense lesion in the right kidney which is seen on the\nprior study and measures 9 mm."
    assert rows(wrapped) == ["right kidney: 9 hypo"]
    assert rows("- 8 mm RUL nodule\n- no liver lesion\n- 1.2 cm left adrenal adenoma") == [
        "right lung, upper lobe: 8",
        "left adrenal gland: 12",
    ]
    assert rows("Spleen: 1. 2 cm cyst. 2. 9 mm lesion.") == ["spleen: 20", "spleen: 9"]


def test_title_is_no_sentence() -> None:
    assert rows("CT ABDOMEN, LIVER METASTASES\nSpleen: 9 mm cyst.") == ["spleen: 9"]
    assert rows("CT abdomen, breast cancer. Spleen: 9 mm cyst.") == ["spleen: 9"]
    assert rows("CT: liver lesion.") == ["liver: ?"]
    assert rows("CT shows a liver lesion\nSpleen: 9 mm cyst.") == ["liver: ?", "spleen: 9"]


def test_whole_report() -> None:
    assert rows(REPORTS[0]) == [
        "right lung, lower lobe: 4",
        "liver, segment 7: 31 x 28 hyper",
        "pancreas, head: 11",
        "left adrenal gland: 15",
        "right kidney, interpolar region: 22",
        "bilateral kidney: many hypo",
        "uterus: 41",
    ]


def test_users_words_are_read(tmp_path) -> None:
    from rsuper_train.reports.rules import RulesExtractor
    from rsuper_train.reports.vocabulary import load_vocabulary

    ours = tmp_path / "ours.yaml"
    ours.write_text("organs: {liver: {names: [hepar]}}\nlesions: {lesion: [schattenherd]}\n", encoding="utf-8")
    [tumour] = RulesExtractor(load_vocabulary([ours])).extract("1", "9 mm schattenherd in the hepar.").tumours
    assert (tumour.organ, tumour.diameters) == ("liver", (9.0,))


def test_unknown_cue_is_refused() -> None:
    from rsuper_train.reports.rules import RulesExtractor
    from rsuper_train.reports.vocabulary import load_vocabulary

    vocabulary = load_vocabulary()
    broken = vocabulary.model_copy(update={"cues": vocabulary.cues | {"moods": ("sad",)}})
    with pytest.raises(ValueError, match="moods"):
        RulesExtractor(broken)
