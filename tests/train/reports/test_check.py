# SPDX-License-Identifier: Apache-2.0
"""The check of a table: what it finds in rows, sentences and folders of masks, and the page it writes."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")

import nibabel as nib

from rsuper_train.reports.check.charts import diameters_chart
from rsuper_train.reports.check.measures import highlight, measures
from rsuper_train.reports.check.page import SHOWN, write_lists, write_page
from rsuper_train.reports.check.problems import Extent, Problem, check_sizes, measure_mask
from rsuper_train.reports.check.run import classes_of, run_check
from rsuper_train.reports.generator import write_report
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Place, Report, Tumour, hash_text
from rsuper_train.reports.vocabulary import load_vocabulary

WORDS = load_vocabulary()
LIVER = Place(organ="liver")
LEFT, RIGHT = (Place(organ="kidney", laterality=side) for side in ("left", "right"))
SHAPE, SPACING = (40, 50, 20), (2.0, 2.0, 5.0)


def report(*tumours: Tumour, id: str = "a", **values) -> Report:
    return Report(id=id, tumours=tumours, **values)


def lesion(*diameters: float, organ: str = "liver", sentence: str = "", **values) -> Tumour:
    return Tumour(organ=organ, diameters=diameters, sentence=sentence, end=len(sentence), **values)


def kinds(problems) -> list[tuple[str, str]]:
    return sorted((problem.kind, problem.severity) for problem in problems)


def save(path, array, spacing=SPACING):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def box(*sides: int) -> np.ndarray:
    """A mask of a box of this many voxels, off the border."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(2, 2 + side) for side in sides)] = 1
    return mask


@pytest.fixture
def data(tmp_path):
    """Cases a, b with masks, c with a label map, d without a CT, e with a broken mask, f with a broken CT."""
    for case in "abcef":
        save(tmp_path / case / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    for case in "ab":
        save(tmp_path / case / "segmentations" / "liver.nii.gz", box(30, 30, 12))
        save(tmp_path / case / "segmentations" / "spleen.nii.gz", np.zeros(SHAPE, np.uint8))
        save(tmp_path / case / "segmentations" / "kidney_left.nii.gz", box(15, 15, 8))
    save(tmp_path / "c" / "labels.nii.gz", 5 * box(30, 30, 12))
    (tmp_path / "d").mkdir()
    save(tmp_path / "e" / "segmentations" / "liver.nii.gz", box(30, 30, 12))
    broken = tmp_path / "e" / "segmentations" / "liver.nii.gz"
    broken.write_bytes(broken.read_bytes()[:150])
    (tmp_path / "f" / "ct.nii.gz").write_bytes(b"no NIfTI at all")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (report(lesion(20)), []),
        (report(), []),
        (report(lesion(20, organ="unknown")), [("unknown organ", "warning")]),
        (report(lesion(20, organ="thyroid")), [("unknown organ", "error")]),
        (report(lesion(20, subsegments=("segment 9",))), [("unknown part", "error")]),
        (report(lesion(20, laterality="left")), [("unknown part", "warning")]),
        (report(lesion(20), negatives=(LIVER,)), [("contradiction", "error")]),
        (report(lesion(20, organ="kidney", laterality="left"), negatives=(RIGHT,)), []),
        (report(lesion(20, organ="kidney"), negatives=(RIGHT,)), []),
        (report(lesion(20, organ="kidney", laterality="left"), negatives=(LEFT,)), [("contradiction", "error")]),
        (report(lesion(20, subsegments=("segment 2",)), negatives=(LIVER,)), [("contradiction", "error")]),
        (report(lesion(20), negatives=(Place(organ="liver", subsegments=("segment 2",)),)), []),
        (report(flags=("no text", "duplicate id")), [("duplicate id", "error"), ("flagged", "warning")]),
        (report(lesion(0.8)), [("unit slip", "error")]),
        (report(lesion(24, 1.9)), [("unit slip", "warning")]),
        (report(lesion(24, 19, sentence="2.4 x 1.9 cm mass")), []),
        (report(lesion(240, 190, sentence="2.4 x 1.9 cm mass")), [("unit slip", "error")]),
        (report(lesion(2.4, sentence="24 mm mass")), [("unit slip", "error")]),
        (report(lesion(31, sentence="2.4 x 1.9 cm mass")), [("size not in sentence", "warning")]),
        (report(lesion(31, sentence="the largest mass is described above")), []),
        (report(Tumour(organ="liver", sentence="A mass.", start=3, end=5)), [("offsets", "error")]),
    ],
    ids=str,
)
def test_rows(row, expected):
    assert kinds(run_check([row], WORDS)) == expected


def test_sizes_against_the_table():
    rows = [report(lesion(20 + n), id=str(n)) for n in range(12)]
    assert run_check(rows, WORDS) == []
    (problem,) = run_check([*rows, report(lesion(280), id="far")], WORDS)
    assert (problem.case, problem.kind, problem.severity) == ("far", "unit slip", "warning")
    assert run_check([report(lesion(20)), report(lesion(280), id="far")], WORDS) == []


def test_duplicate_ids_are_named_once():
    (problem,) = run_check([report(), report(), report()], WORDS)
    assert (problem.kind, problem.severity) == ("duplicate id", "error")
    assert "3 reports" in problem.message


def test_sentences_against_their_texts():
    text = "Liver: 2 cm cyst. Spleen: normal."
    tumour = lesion(20, sentence="Liver: 2 cm cyst.")
    assert run_check([report(tumour, text_hash=hash_text(text))], WORDS, texts={"a": text}) == []
    cases = {"text changed": hash_text("older"), "offsets": ""}
    for kind, text_hash in cases.items():
        shifted = report(tumour, text_hash=text_hash)
        assert kinds(run_check([shifted], WORDS, texts={"a": " " + text})) == [(kind, "error")]
    assert kinds(run_check([report(tumour)], WORDS, texts={})) == [("no text", "warning")]


def test_generated_reports_pass():
    """What the generator says is consistent, so the check has nothing to say about it."""
    rng = np.random.default_rng(0)
    tumours = [lesion(24, 19, subsegments=("segment 6",)), lesion(11, organ="kidney", laterality="left", type="cyst")]
    written = [write_report(tumours[: n % 3], rng, style="sections", case_id=str(n)) for n in range(60)]
    texts = {each.report.id: each.text for each in written}
    assert run_check([each.report for each in written], WORDS, texts=texts) == []


@pytest.mark.parametrize(
    ("tumour", "extent", "expected"),
    [
        (lesion(100), Extent(volume=1.4e6, diagonal=300), []),
        (lesion(310), Extent(volume=1.6e7, diagonal=300), [("larger than organ", "warning")]),
        (lesion(390), Extent(volume=1.0e8, diagonal=300), [("larger than organ", "error")]),
        (lesion(390), Extent(volume=1.0e8, diagonal=300, cut=True), [("larger than organ", "warning")]),
        (lesion(60, organ="adrenal gland"), Extent(volume=5e3, diagonal=40), [("larger than organ", "warning")]),
        (lesion(60), Extent(volume=5e4, diagonal=100), [("larger than organ", "error")]),
        (lesion(410), Extent(volume=1e9, diagonal=500), [("larger than field of view", "error")]),
        (lesion(), Extent(volume=1.0, diagonal=1.0), []),
        (lesion(90), Extent(volume=0.0, diagonal=0.0), []),
    ],
    ids=str,
)
def test_sizes_against_anatomy(tumour, extent, expected):
    organs = {Place(organ=tumour.organ): [extent]}
    assert kinds(check_sizes(report(tumour), organs, (400.0, 400.0, 400.0))) == expected


def test_the_larger_kidney_counts_where_no_side_is_given():
    small, large = Extent(volume=1e4, diagonal=50), Extent(volume=2e5, diagonal=130)
    assert check_sizes(report(lesion(60, organ="kidney")), {Place(organ="kidney"): [small, large]}, (400.0,)) == []


def test_a_tenth_that_fits_is_proposed():
    (problem,) = check_sizes(report(lesion(350)), {LIVER: [Extent(volume=1e6, diagonal=200)]}, (400.0,))
    assert "35 mm would fit" in problem.message


def test_measuring_a_mask():
    extent = measure_mask(box(3, 4, 2) > 0, SPACING)
    assert extent.volume == 24 * 20.0
    assert extent.diagonal == pytest.approx(np.sqrt(6**2 + 8**2 + 10**2))
    assert not extent.cut
    assert measure_mask(np.ones((2, 2, 2), bool), SPACING).cut
    assert measure_mask(np.zeros((2, 2, 2), bool), SPACING) == Extent(volume=0, diagonal=0)


def test_classes_by_side():
    labels = load_label_set("totalsegmentator")
    kidneys = classes_of(Place(organ="kidney"), labels, WORDS)
    assert [sorted(names)[-1] for names in kidneys] == ["kidney_left", "kidney_right"]
    assert classes_of(LEFT, labels, WORDS) == kidneys[:1]
    assert classes_of(LIVER, labels, WORDS) == (frozenset({"liver"}),)
    assert classes_of(Place(organ="breast"), labels, WORDS) == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_folder(data, workers):
    rows = [
        report(
            lesion(20),
            lesion(20, organ="spleen"),
            lesion(20, organ="kidney", laterality="right"),
            lesion(20, organ="kidney"),
            lesion(20, organ="breast"),
            lesion(150, organ="kidney", laterality="left"),
        ),
        report(lesion(30), id="c"),
        report(lesion(30), id="d"),
        report(lesion(30), id="e"),
        report(lesion(30), id="f"),
        report(lesion(30), id="../a"),
    ]
    seen = []
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    problems = run_check(rows, WORDS, data, workers=workers, progress=progress)
    assert [(p.case, p.tumour, p.kind, p.severity) for p in problems] == [
        ("a", 1, "empty mask", "error"),
        ("a", 2, "no mask", "error"),
        ("a", 4, "no mask in label set", "warning"),
        ("a", 5, "larger than field of view", "error"),
        ("a", 5, "larger than organ", "error"),
        ("d", None, "no CT", "error"),
        ("e", None, "unreadable", "error"),
        ("f", None, "unreadable", "error"),
        ("../a", None, "no data", "error"),
        ("b", None, "no report", "warning"),
    ]
    assert (seen[0], seen[-1]) == ((0, 5), (5, 5))


@pytest.mark.parametrize(
    ("shape", "spacing", "message"),
    [
        ((4, 4, 4), SPACING, "4 x 4 x 4 voxels"),
        (SHAPE, (-2.0, 2.0, 5.0), "from (-78, 0, 0)"),
        (SHAPE, (2.0, 2.0, 4.0), "4 x 2 x 2 mm"),
    ],
    ids=["shape", "flipped", "spacing"],
)
def test_masks_off_the_grid(data, shape, spacing, message):
    save(data / "b" / "segmentations" / "liver.nii.gz", np.ones(shape, np.uint8), spacing)
    (problem,) = run_check([report(lesion(20), id="b")], WORDS, data)[:1]
    assert problem.kind == "grids differ"
    assert message in problem.message


def test_rounded_affines_are_no_trouble(data):
    save(data / "b" / "segmentations" / "liver.nii.gz", box(30, 30, 12), (2.001, 1.999, 5.0))
    assert {problem.kind for problem in run_check([report(lesion(20), id="b")], WORDS, data)} == {"no report"}


def test_no_data_folder(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=re.escape(str(folder))):
            run_check([], WORDS, folder)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("2.4 x 1.9 cm and 18 mm", [24, 19, 18]),
        ("2,4 × 1,9 × 1,7 cm", [24, 19, 17]),
        ("24mm by 19mm", [24, 19]),
        ("1-2 cm, 3 to 4 mm", [10, 20, 3, 4]),
        ("series 3 image 45, 12 HU, segment 6", []),
        ("12 millimetres", [12]),
        ("", []),
        ("1" * 100_000 + " x" * 100_000, []),
    ],
    ids=lambda value: str(value)[:20],
)
def test_measures(sentence, expected):
    assert [measure.mm for measure in measures(sentence)] == pytest.approx(expected)


def test_highlight():
    pieces = highlight("Hepatic cysts, 2.4 x 1.9 cm and 5 mm.", ("cyst", "lesion"), (24, 19))
    assert [(piece.text, piece.kind) for piece in pieces if piece.kind] == [
        ("cysts", "lesion"),
        ("2.4 x 1.9 cm", "size"),
    ]
    assert "".join(piece.text for piece in pieces) == "Hepatic cysts, 2.4 x 1.9 cm and 5 mm."
    assert highlight("", (), ()) == []


class Page(HTMLParser):
    """Checks that every element is closed, and collects texts and attributes."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.marks: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[name] for name in ("href", "src", "xlink:href") if name in values]
        if tag == "section":
            self.ids.append(values.get("id"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)
        if "mark" in self.open:
            self.marks.append(text)


def test_page(tmp_path):
    evil = "<script>alert(1)</script> & 240 mm mass"
    rows = [
        report(lesion(24, sentence=evil, attenuation="hypo", type="mass"), id="<b>a</b>"),
        *(report(lesion(20 + n, organ="spleen"), id=str(n)) for n in range(20)),
    ]
    problems = run_check(rows, WORDS)
    write_page(tmp_path / "page.html", "table<i>.csv", rows, problems, WORDS)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert {"table<i>.csv", "<b>a</b>"} <= {t.removeprefix("Check of ") for t in page.texts}
    assert {"240 mm", "mass"} <= set(page.marks)
    assert text.count("<svg") == 3
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"(?:src|url)\s*[=(]\s*[\"']?https?:", text)
    assert {link for link in page.links if link.startswith("#kind")} == {f"#{id}" for id in page.ids if id}


def test_page_of_an_empty_table(tmp_path):
    write_page(tmp_path / "page.html", "t.csv", [], [], WORDS)
    assert "No errors and no warnings" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_page_shows_the_first_of_many(tmp_path):
    rows = [report(id=str(n), flags=("no text",)) for n in range(SHOWN + 30)]
    write_page(tmp_path / "page.html", "t.csv", rows, run_check(rows, WORDS), WORDS)
    assert "And 30 more" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_lists(tmp_path):
    message = '24 mm, "2,4 cm"'
    problems = [
        Problem(case="a", tumour=0, kind="unit slip", message=message),
        Problem(case="b", kind="no CT", message="-", severity="warning"),
    ]
    as_json, as_csv = write_lists(tmp_path / "page.html", problems)
    assert [Problem(**row) for row in json.loads(as_json.read_text())] == problems
    rows = list(csv.DictReader(as_csv.open(newline="")))
    assert [(row["case"], row["tumour"], row["message"]) for row in rows] == [("a", "0", message), ("b", "", "'-")]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_one_histogram_for_each_organ(count):
    organs = ("liver", "spleen", "kidney", "colon", "lung")[:count]
    chart = diameters_chart([Tumour(organ=organ, diameters=(12.0,)) for organ in organs])
    assert chart.count('id="axes_') == count
