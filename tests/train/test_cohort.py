# SPDX-License-Identifier: Apache-2.0
"""The phantom: anatomy, lesions as reported, the same for the same seed; and cohorts on disk, whole and resumable."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")

import nibabel as nib
from scipy import ndimage
from typer.testing import CliRunner

from rsuper_train.cli import app
from rsuper_train.cohort import CohortOptions, LesionOptions, PhantomOptions, write_cohort
from rsuper_train.cohort import write as writing
from rsuper_train.cohort.phantom import IDS, ORGANS, make_phantom
from rsuper_train.layout import find_cases
from rsuper_train.prepare import Options
from rsuper_train.read import read_case
from rsuper_train.reports.findings import to_findings
from rsuper_train.reports.inputs import read_reports
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.table import read_table
from rsuper_train.reports.vocabulary import load_vocabulary

CHANNELS = ("kidney_lesion", "liver_lesion", "pancreatic_lesion", "spleen_lesion")
SMALL = PhantomOptions(
    extent=(96.0, 112.0, 144.0), spacing=(4.0, 4.0, 4.0), lesions=LesionOptions(diameters=(8.0, 30.0))
)


@pytest.fixture(scope="module")
def cohort():
    options = PhantomOptions(lesions=LesionOptions(count=(1, 3)))
    return [make_phantom(options, np.random.default_rng([5, number]), f"case-{number}") for number in range(30)]


def lesions(cohort):
    for case, truth in cohort:
        for number, tumour in enumerate(truth.tumours, start=1):
            organ = next(o for o in ORGANS if (o.place.organ, o.place.laterality) == (tumour.organ, tumour.laterality))
            yield case, truth, tumour, truth.instances == number, organ


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_anatomy_is_where_it_should_be(cohort):
    for case, _ in cohort[:5]:
        present = set(np.unique(case.labels)) - {0}
        assert {id for organ in ORGANS for id in organ.parts} <= present <= set(IDS.values())
        centre = {name: np.argwhere(case.labels == IDS[name]).mean(0) for name in IDS if IDS[name] in present}
        at = {name: dict(zip("zyx", place, strict=True)) for name, place in centre.items()}
        assert at["liver_segment_8"]["z"] > at["liver_segment_5"]["z"]
        assert at["liver_segment_7"]["z"] > at["liver_segment_6"]["z"] > at["kidney_right"]["z"]
        assert at["liver_segment_8"]["y"] > at["liver_segment_7"]["y"]
        assert at["liver_segment_6"]["x"] > at["liver_segment_4"]["x"] > at["liver_segment_3"]["x"] > at["spleen"]["x"]
        assert at["kidney_right"]["x"] > at["pancreas_head"]["x"] > at["pancreas_tail"]["x"] > at["spleen"]["x"]
        assert at["pancreas_body"]["y"] > at["aorta"]["y"]


def test_attenuation_of_tissue(cohort):
    case, _ = cohort[0]
    median = {name: np.median(case.ct[case.labels == id]) for name, id in IDS.items() if (case.labels == id).any()}
    assert median["kidney_right"] > median["liver_segment_7"] > median["gall_bladder"]
    assert case.ct.dtype == np.float32
    assert case.ct.min() < -900


def test_volumes_match_diameters(cohort):
    """But for half a voxel, which counts for the smallest."""
    found = list(lesions(cohort))
    assert len(found) > 40
    for case, _, tumour, mask, _ in found:
        voxel = np.prod(case.spacing)
        assert mask.sum() * voxel == pytest.approx(tumour.ellipsoid, rel=0.15, abs=voxel / 2)
        extent = np.ptp(np.argwhere(mask), axis=0) * case.spacing
        assert extent.max() <= 1.35 * max(tumour.diameters) + 3.0


def test_lesions_lie_where_the_report_says(cohort):
    labels = load_label_set("abdomenatlas").ids
    for case, _, tumour, mask, organ in lesions(cohort):
        parts = [id for id, part in organ.parts.items() if not tumour.subsegments or part in tumour.subsegments]
        assert set(parts) <= set(labels.values())
        assert np.isin(case.labels[mask], parts).all()


def test_attenuation_is_that_of_the_report(cohort):
    seen = Counter()
    for case, truth, tumour, mask, organ in lesions(cohort):
        healthy = np.isin(case.labels, list(organ.parts)) & (truth.instances == 0)
        difference = np.median(case.ct[mask]) - np.median(case.ct[healthy])
        assert {"hypo": difference < -14, "iso": abs(difference) < 14, "hyper": difference > 14}[tumour.attenuation]
        seen[tumour.attenuation] += 1
    assert seen["hypo"] > seen["hyper"] > seen["iso"] > 0


def test_all_sizes_and_organs_occur(cohort):
    longest = [max(tumour.diameters) for _, _, tumour, _, _ in lesions(cohort)]
    assert min(longest) >= 6
    assert np.histogram(longest, (0, 9.9, 20, 40, 99))[0].min() > 0
    assert {tumour.organ for _, _, tumour, _, _ in lesions(cohort)} == {"liver", "pancreas", "spleen", "kidney"}
    assert any(tumour.subsegments for _, _, tumour, _, _ in lesions(cohort))


def test_lesions_do_not_touch(cohort):
    for case, truth, _, mask, _ in lesions(cohort):
        away = ndimage.distance_transform_edt(~mask, sampling=case.spacing)
        assert away[(truth.instances > 0) & ~mask].min(initial=99.0) > 6.0
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1


def test_rules_read_what_is_true(cohort):
    reader = RulesExtractor()
    told = read = 0
    for case, truth in cohort:
        said = [_row(tumour) for tumour in reader.extract(case.case_id, case.report).tumours]
        for tumour in truth.tumours:
            told += 1
            if _row(tumour) in said:
                said.remove(_row(tumour))
                read += 1
        read -= len(said)  # what was read and is not true
    assert read >= 0.95 * told


def _row(tumour):
    return tumour.organ, tumour.laterality, tumour.subsegments, tumour.diameters, tumour.attenuation


def test_reports_become_findings_of_the_phantoms_regions(cohort):
    findings = to_findings(
        [truth.report for _, truth in cohort], load_label_set("abdomenatlas"), CHANNELS, load_vocabulary()
    )
    assert findings.findings.batch_size == len(cohort)
    assert not findings.notes


def test_a_case_depends_on_seed_and_number_alone():
    small = CohortOptions(phantom=SMALL)
    first, again = small.make(3), replace(small, cases=9, start=2, masks=0).make(3)
    other, next_one = replace(small, seed=1).make(3), small.make(4)
    assert np.array_equal(first[0].ct, again[0].ct)
    assert (first[0].report, first[1].report) == (again[0].report, again[1].report)
    for different in (other, next_one):
        assert not np.array_equal(first[0].ct, different[0].ct)


@pytest.mark.parametrize("spacing", [(6.0, 2.0, 2.0), (2.5, 3.0, 4.0)])
def test_spacing(spacing):
    options = replace(SMALL, spacing=spacing, lesions=LesionOptions((2, 2), diameters=(15.0, 25.0)))
    case, truth = make_phantom(options, np.random.default_rng(0), "case")
    assert case.spacing == spacing
    assert np.allclose(np.multiply(case.ct.shape, spacing), options.extent, atol=spacing)
    for number, tumour in enumerate(truth.tumours, start=1):
        volume = (truth.instances == number).sum() * np.prod(spacing)
        assert volume == pytest.approx(tumour.ellipsoid, rel=0.1)


def test_slices_of_random_thickness():
    options = replace(SMALL, spacing=(2.0, 4.0, 4.0), thickest=3.0)
    cases = [make_phantom(options, np.random.default_rng(number), "case")[0] for number in range(4)]
    steps = [case.spacing[0] for case in cases]
    assert len(set(steps)) == 4
    assert min(steps) >= 2.0
    assert max(steps) <= 6.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing"),
        ({"spacing": (3.0, 3.0, 30.0)}, "spacing"),
        ({"thickest": 0.5}, "thickest"),
    ],
)
def test_wrong_phantom_options(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PhantomOptions(), **change)


@pytest.mark.parametrize(
    "change", [{"count": (2, 1)}, {"diameters": (0.0, 9.0)}, {"contrast": (9.0, 1.0)}, {"attenuation": (1.0, 1.0, 0.0)}]
)
def test_wrong_lesion_options(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        LesionOptions(**change)


@pytest.mark.parametrize("change", [{"cases": 0}, {"masks": -1}, {"seed": -1}, {"start": -1}, {"kind": "mri"}])
def test_wrong_cohort_options(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CohortOptions(), **change)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    options = CohortOptions(cases=4, masks=2, seed=2, phantom=SMALL)
    write_cohort(options, out)
    return options, out


def test_layout(on_disk):
    options, out = on_disk
    assert {path.name for path in out.iterdir()} == {"cases", "truth", "reports.csv", "truth.csv", "cohort.json"}
    for number in range(4):
        case, truth = options.make(number)
        folder, hidden = out / "cases" / case.case_id, out / "truth" / case.case_id
        ct = nib.load(folder / "ct.nii.gz")
        assert nib.aff2axcodes(ct.affine) == ("R", "A", "S")
        assert ct.header.get_zooms() == case.spacing[::-1]
        assert np.array_equal(np.asarray(ct.dataobj).transpose(2, 1, 0), np.rint(case.ct).clip(-1024))
        liver = _read(folder / "segmentations" / "liver.nii.gz")
        parts = [_read(folder / "segmentations" / f"liver_segment_{n}.nii.gz") for n in range(1, 9)]
        assert np.array_equal(np.sum(parts, axis=0), liver)
        assert np.array_equal(liver > 0, np.isin(case.labels, list(ORGANS[0].parts)))
        masks = {path.name.removesuffix(".nii.gz"): _read(path) for path in (hidden / "lesions").iterdir()}
        assert tuple(sorted(masks)) == CHANNELS
        assert np.array_equal(np.sum(list(masks.values()), axis=0), (truth.instances > 0))
        assert (folder / "lesions").is_dir() == (number < 2)
        if number < 2:
            assert digest(folder / "lesions") == digest(hidden / "lesions")


def _read(path):
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def test_tables(on_disk):
    options, out = on_disk
    cases = [options.make(number) for number in range(4)]
    assert [(row.id, row.text) for row in read_reports(out / "reports.csv")] == [
        (case.case_id, case.report) for case, _ in cases
    ]
    with (out / "reports.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["id", "report"]
    assert read_table(out / "truth.csv") == [truth.report for _, truth in cases]


def test_interrupted_and_grown_is_as_at_once(on_disk, tmp_path, monkeypatch):
    """A run that breaks off leaves whole cases alone; the next one completes it and writes nothing again."""
    options, whole = on_disk
    real, calls = writing._volumes, []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(writing, "_volumes", broken)
    with pytest.raises(KeyboardInterrupt):
        write_cohort(replace(options, cases=3), tmp_path)
    assert {path.name for path in (tmp_path / "cases").iterdir()} == {"phantom-0000", "phantom-0001"}
    # a case whose truth was moved, but not the case itself
    (tmp_path / "truth" / "phantom-0002").mkdir()
    write_cohort(replace(options, cases=3), tmp_path)
    write_cohort(options, tmp_path)
    assert len(calls) == 5
    assert digest(tmp_path) == digest(whole)


def test_processes_write_the_same(on_disk, tmp_path):
    options, whole = on_disk
    write_cohort(options, tmp_path, workers=2)
    assert digest(tmp_path) == digest(whole)


def test_other_options_are_refused(on_disk):
    options, out = on_disk
    with pytest.raises(ValueError, match="seed 2 and not 3"):
        write_cohort(replace(options, seed=3), out)
    with pytest.raises(ValueError, match=r"noise 10\.0 and not 1\.0"):
        write_cohort(replace(options, phantom=replace(SMALL, noise=1.0)), out)


def test_turned_files_hold_the_same(on_disk, tmp_path):
    options, whole = on_disk
    write_cohort(replace(options, turned=True), tmp_path)
    codes = set()
    for path in sorted((tmp_path / "cases").glob("*/ct.nii.gz")):
        image = nib.load(path)
        codes.add(nib.aff2axcodes(image.affine))
        there = nib.load(whole / path.relative_to(tmp_path))
        back = nib.as_closest_canonical(image)
        assert np.allclose(back.affine, there.affine, atol=1e-4)
        assert np.array_equal(back.dataobj, there.dataobj)
    assert len(codes) > 2


def test_preparation_reads_what_was_made(tmp_path):
    """Whatever the order and direction of the axes on disk."""
    options = CohortOptions(cases=1, masks=1, turned=True, seed=4, phantom=replace(SMALL, spacing=(6.0, 3.0, 3.0)))
    write_cohort(options, tmp_path)
    (case, truth), files = options.make(0), find_cases(tmp_path / "cases")
    read = read_case(files[case.case_id], Options(load_label_set("abdomenatlas"), spacing=None, channels=CHANNELS))
    assert read.record.spacing == pytest.approx(case.spacing)
    assert np.array_equal(read.ct, np.rint(case.ct).clip(-1000, 1000))
    assert np.array_equal(read.labels, case.labels)
    assert np.array_equal(read.lesions > 0, (truth.instances > 0))


def test_command_refuses_what_does_not_go_together(tmp_path):
    result = CliRunner().invoke(app, ["cohort", str(tmp_path / "new"), "--kind", "ct", "--spacing", "2", "2", "2"])
    assert "do not go with kind ct" in str(result.exception)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["phantom", "ct"])
def test_command(kind, tmp_path):
    arguments = ["cohort", str(tmp_path), "--kind", kind, "--cases", "1", "--masks", "0", "--start", "7", "--label-map"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "cases" / f"{kind}-0007"
    assert sorted(path.name for path in folder.iterdir()) == ["ct.nii.gz", "labels.nii.gz"]
    ids = load_label_set({"phantom": "abdomenatlas", "ct": "totalsegmentator"}[kind]).ids
    labels = _read(folder / "labels.nii.gz")
    assert set(np.unique(labels)) <= {0, *ids.values()}
    assert (labels == ids["spleen"]).any()
    truth = json.loads((tmp_path / "truth" / f"{kind}-0007" / "truth.json").read_text())
    assert truth["report"]["id"] == f"{kind}-0007"
