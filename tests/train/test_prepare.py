# SPDX-License-Identifier: Apache-2.0
"""Preparing a folder of cases: the arrays and what is said of them, files that are wrong, interruptions."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("blosc2")

import nibabel as nib
from rich.console import Console
from typer.testing import CliRunner

from rsuper_train import prepare as prepare_module
from rsuper_train.cli import app
from rsuper_train.grids import to_source_grid
from rsuper_train.layout import CaseError, case_files
from rsuper_train.manifest import CASES, read_manifest
from rsuper_train.prepare import prepare
from rsuper_train.read import Options, read_case
from rsuper_train.reports.masks import LabelSet
from rsuper_train.store import open_volume

LABELS = LabelSet("own", {"liver": 3, "liver_segment_1": 1, "spleen": 2, "vein": 300})
OPTIONS = Options(LABELS)
SHAPE = (12, 10, 8)
RAS = np.diag([1.0, 1.0, 1.0, 1.0])
BOX, PART, LESION = np.s_[2:8, 3:7, 1:6], np.s_[2:4, 3:7, 1:6], np.s_[4:6, 4:6, 2:4]


def ct(dtype=np.int16) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) - 300).astype(dtype)


def mask(*where, value: int = 1, dtype=np.uint8) -> np.ndarray:
    values = np.zeros(SHAPE, dtype)
    for each in where:
        values[each] = value
    return values


def save(path: Path, values: np.ndarray, affine: np.ndarray = RAS, edit=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    if edit:  # in the file, since nibabel writes no header that is wrong
        stored = gzip.decompress(path.read_bytes())
        header = nib.Nifti1Header(stored[:348])
        edit(header)
        path.write_bytes(gzip.compress(header.binaryblock + stored[348:]))
    return path


def write_case(folder: Path, **files: np.ndarray) -> Path:
    """A case in `folder`: a CT, a liver with a lesion, and whatever is given by name, "/" written as "__"."""
    usual = {"ct": ct(), "segmentations__liver": mask(BOX), "lesions__liver_lesion": mask(LESION)}
    for name, values in (usual | files).items():
        if values is not None:
            save(folder / f"{name.replace('__', '/')}.nii.gz", values)
    return folder


def load(folder: Path, **options):
    files = case_files(folder)
    return read_case(files, Options(**{"label_set": LABELS, "channels": tuple(files.lesions)} | options))


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"))


def test_arrays_and_record(tmp_path):
    volume = load(write_case(tmp_path / "a", segmentations__spleen=mask()), clip=(-100, 200))
    turned = ct().transpose(2, 1, 0)
    assert np.array_equal(volume.ct, turned.clip(-100, 200))
    assert volume.ct.dtype == np.int16
    assert np.array_equal(volume.labels, mask(BOX, value=3).transpose(2, 1, 0))
    assert np.array_equal(volume.lesions, mask(LESION).transpose(2, 1, 0))
    record = volume.record
    assert (record.id, record.shape, record.spacing, record.notes) == ("a", SHAPE[::-1], (1, 1, 1), ())
    assert record.labels.keys() == {3}
    assert (record.labels[3].voxels, record.labels[3].box) == (120, ((1, 6), (3, 7), (2, 8)))
    assert record.labels[3].median == np.median(turned.clip(-100, 200)[volume.labels == 3])
    assert record.lesions["liver_lesion"].box == ((2, 4), (4, 6), (4, 6))
    assert record.source.files.keys() == {
        *("ct.nii.gz", "lesions/liver_lesion.nii.gz", "segmentations/liver.nii.gz", "segmentations/spleen.nii.gz")
    }


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_kinds_of_voxels(tmp_path, kind):
    """Of any type, scaled by the header, in a file of four axes with one volume."""
    folder = write_case(tmp_path / "a")
    stored = (ct().astype(float) + 300)[..., None].astype(kind)
    save(folder / "ct.nii.gz", stored, edit=lambda header: header.set_slope_inter(1, -300))
    volume = load(folder)
    assert np.array_equal(volume.ct, ct().transpose(2, 1, 0))
    assert "4 axes" in volume.record.notes[0]


def test_masks_may_be_stored_along_other_axes(tmp_path):
    folder = write_case(tmp_path / "a")
    straight = load(folder)
    flipped = nib.Nifti1Image(ct(), RAS).as_reoriented([[1, -1], [0, 1], [2, -1]])
    nib.save(flipped, folder / "ct.nii.gz")
    volume = load(folder)
    assert volume.record.source.shape == (10, 12, 8)
    for name in ("ct", "labels", "lesions"):
        assert np.array_equal(getattr(volume, name), getattr(straight, name))
    back = to_source_grid(volume.lesions, volume.record, 0)
    assert np.array_equal(back, nib.Nifti1Image(mask(LESION), RAS).as_reoriented([[1, -1], [0, 1], [2, -1]]).dataobj)


@pytest.mark.parametrize("order", [1, -1])
def test_parts_come_before_wholes(tmp_path, order):
    """Of overlapping masks the part's counts, then the higher id's; the order of the files does not matter."""
    folder = write_case(
        tmp_path / "a", segmentations__liver_segment_1=mask(PART), segmentations__vein=mask(PART, value=255)
    )
    names = LabelSet("own", dict(list(LABELS.ids.items())[::order]))
    volume = load(folder, label_set=names)
    expected = mask(BOX, value=3, dtype=np.uint16)
    expected[PART] = 1
    assert np.array_equal(volume.labels, expected.transpose(2, 1, 0))
    save(folder / "segmentations" / "spleen.nii.gz", mask(BOX))
    assert set(np.unique(load(folder, label_set=names).labels)) == {0, 1, 3}


def test_label_map(tmp_path):
    values = mask(BOX, value=3, dtype=np.float32)
    values[0, 0, 0], values[1, 1, 1] = 77, -2
    volume = load(write_case(tmp_path / "a", labels=values, segmentations__liver=mask()))
    assert np.array_equal(volume.labels, mask(BOX, value=3).transpose(2, 1, 0))
    assert volume.record.notes == ("labels.nii.gz: ids that label set own does not have: -2, 77",)


def test_bits_of_lesions(tmp_path):
    """Each channel has its bit, a mask without a voxel is known to be empty, other channels are left out."""
    empty, overlapping = mask(), mask(np.s_[4:8, 4:8, 2:4])
    folder = write_case(tmp_path / "a", lesions__a=empty, lesions__b=overlapping, segmentations__kidney_lesion=empty)
    channels = tuple(f"c{number}" for number in range(8)) + ("a", "b", "liver_lesion")
    volume = load(folder, channels=channels)
    assert volume.lesions.dtype == np.uint16
    assert np.array_equal(volume.lesions >> 9 & 1, overlapping.transpose(2, 1, 0))
    assert np.array_equal(volume.lesions >> 10, mask(LESION).transpose(2, 1, 0))
    assert {name: extent.voxels for name, extent in volume.record.lesions.items()} == {
        "a": 0,
        "b": 32,
        "liver_lesion": 8,
    }
    assert not load(folder, channels=()).lesions.any()


def test_resampling_a_case(tmp_path):
    affine = np.diag([0.5, -0.5, 3.0, 1.0])
    folder = tmp_path / "a"
    for name, values in (("ct", ct()), ("segmentations/liver", mask(BOX)), ("lesions/lesion", mask(BOX))):
        save(folder / f"{name}.nii.gz", values, affine)
    volume = load(folder)
    assert volume.ct.shape == volume.labels.shape == volume.lesions.shape == volume.record.shape == (24, 5, 6)
    assert volume.record.spacing == (1, 1, 1)
    own = load(folder, spacing=None)
    assert (own.record.shape, own.record.spacing) == (SHAPE[::-1], (3, 0.5, 0.5))
    volumes = [each.record.lesions["lesion"].voxels * np.prod(each.record.spacing) for each in (volume, own)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.2)  # a box has many voxels that it touches alike
    assert load(folder, spacing=(40, 40, 40)).record.lesions["lesion"].voxels == 1


def no_forms(header):
    header["sform_code"] = header["qform_code"] = 0


def broken_sform(header):
    header["srow_x"], header["qform_code"] = np.nan, 1


def broken_forms(header):
    broken_sform(header)
    header["qform_code"] = 0


def no_spacing(header):
    no_forms(header)
    header["pixdim"][1:4] = 0, 1, 1


def nan_ct() -> np.ndarray:
    values = ct(np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    return values


@pytest.mark.parametrize(
    ("values", "affine", "edit", "note"),
    [
        (nan_ct(), RAS, None, "1 voxels are not numbers, taken as -1000 HU"),
        ((ct() + 300).astype(np.uint16), RAS, None, "offset of -1024"),
        (np.where(np.indices(SHAPE)[0], ct(), np.nan).astype(np.float32), RAS, None, "80 voxels are not numbers"),
        (ct(), RAS, no_forms, "no orientation"),
        (ct(), RAS, broken_sform, "qform is taken"),
        (ct(), np.eye(4)[[1, 0, 2, 3]] + np.eye(4) * [0.3, -0.3, 0, 0], None, "axes up to 17 degrees"),
        (ct(), RAS + 0.3 * np.eye(4, k=1) * [0, 0, 1, 0], None, "axes up to 17 degrees"),
    ],
)
def test_notes(tmp_path, values, affine, edit, note):
    save(tmp_path / "a" / "ct.nii.gz", values, affine, edit)
    volume = load(tmp_path / "a")
    assert len(volume.record.notes) == 1
    assert note in volume.record.notes[0]
    assert volume.ct[0, 0, 0] == -1000 or values.dtype != np.float32


def bad_case(folder: Path, kind: str) -> None:
    """A case with one thing wrong."""
    path = write_case(folder) / "ct.nii.gz"
    liver = folder / "segmentations" / "liver.nii.gz"
    match kind:
        case "no CT":
            path.unlink()
        case "truncated CT" | "truncated mask":
            path = path if kind == "truncated CT" else liver
            path.write_bytes(path.read_bytes()[:-60])
        case "text":
            path.write_text("no NIfTI at all")
        case "text in gzip":
            path.write_bytes(gzip.compress(b"no NIfTI at all"))
        case "two volumes":
            save(path, np.stack([ct(), ct()], axis=-1))
        case "two axes":
            save(path, ct()[0])
        case "colours":
            save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
        case "no affine":
            save(path, ct(), edit=broken_forms)
        case "no spacing":
            save(path, ct(), edit=no_spacing)
        case "no numbers":
            save(path, ct(np.float32) * np.nan)
        case "metres":
            save(path, ct(), np.diag([0.001, 0.001, 0.001, 1]))
        case "another shape":
            save(liver, mask(BOX)[:-1])
        case "another place":
            save(liver, mask(BOX), RAS + 5 * np.eye(4, k=3))
        case "a place less than a slice away":
            save(path, ct(), np.diag([1, 1, 5, 1]))
            save(liver, mask(BOX), np.diag([1, 1, 5, 1]) + 3 * np.eye(4, k=3))
        case "fractions":
            save(folder / "labels.nii.gz", mask(BOX).astype(np.float32) / 2)
        case "unreadable":
            path.unlink()
            path.symlink_to(folder / "nowhere")


BAD = {
    "no CT": "expected ct.nii.gz",
    "truncated CT": "ct.nii.gz: ",
    "truncated mask": "liver.nii.gz: ",
    "text": "ct.nii.gz: ",
    "text in gzip": "ct.nii.gz: ",
    "two volumes": "ct.nii.gz: expected one volume of three axes, got 12 x 10 x 8 x 2",
    "two axes": "ct.nii.gz: expected one volume of three axes, got 10 x 8",
    "colours": "expected one number a voxel",
    "no affine": "the affine in the header cannot be inverted",
    "no spacing": "neither an affine nor a spacing",
    "metres": "expected a spacing of 0.05 to 50.0 mm",
    "another shape": "liver.nii.gz: expected the grid of the CT",
    "another place": "liver.nii.gz: expected the grid of the CT",
    "a place less than a slice away": "liver.nii.gz: expected the grid of the CT",
    "no numbers": "ct.nii.gz: expected HU, none of its voxels is a number",
    "fractions": "labels.nii.gz: expected whole numbers",
    "unreadable": "expected ct.nii.gz",
}


@pytest.mark.parametrize(("kind", "message"), BAD.items(), ids=BAD)
def test_bad_cases(tmp_path, kind, message):
    bad_case(tmp_path / "a", kind)
    with pytest.raises(CaseError) as error:
        load(tmp_path / "a")
    assert message in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dataset(tmp_path, workers):
    """The good cases are prepared, the bad ones named; a second run does nothing; the CLI and its exit code say so."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_case(data / "a")
    write_case(data / "b", lesions__liver_lesion=None, lesions__kidney_lesion=mask(LESION))
    bad_case(data / "c", "truncated CT")
    bad_case(data / "d", "no CT")
    (tmp_path / "labels.yaml").write_text("{name: own, labels: {liver: 3, spleen: 2}}")
    command = ["prepare", str(data), str(out), "--label-set", str(tmp_path / "labels.yaml"), "--workers", str(workers)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    assert "failed: d: " in result.output
    assert "2 cases prepared (0 of them before), 2 failed" in result.output
    manifest = read_manifest(out)
    assert manifest.channels == ("kidney_lesion", "liver_lesion")
    assert (list(manifest.cases), list(manifest.failed)) == (["a", "b"], ["c", "d"])
    assert manifest.label_set == {"liver": 3, "spleen": 2}
    inside = ct()[BOX][ct()[BOX] >= -200]
    assert manifest.intensity.mean == pytest.approx(inside.mean())
    assert manifest.intensity.sd == pytest.approx(inside.std())
    stored = open_volume(out / CASES / "b" / "lesions.b2nd")
    assert np.array_equal(stored[...], mask(LESION).transpose(2, 1, 0))
    assert {path.name for path in (out / CASES).iterdir()} == {"a", "b"}
    before = inodes(out)
    assert "2 of them before" in CliRunner().invoke(app, command).output
    assert inodes(out) == before
    assert read_manifest(out) == manifest


def inodes(out: Path) -> dict[str, tuple[int, int]]:
    """What changes when a finished case is written again."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / CASES).rglob("*.*")}


def test_only_what_changed_is_done_again(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for name in "ab":
        write_case(data / name)
    prepare(data, out, OPTIONS, 1, quiet())
    before = inodes(out)
    save(data / "a" / "ct.nii.gz", ct() + 1)
    manifest = prepare(data, out, OPTIONS, 1, quiet())
    kept = {path for path in before if inodes(out)[path] == before[path]}
    assert {Path(path).parent.name for path in kept} == {"b"}
    assert len(kept) == 4
    assert manifest.cases["a"].labels[3].median == 1 + manifest.cases["b"].labels[3].median
    save(data / "b" / "lesions" / "a_lesion.nii.gz", mask())  # its bit comes before that of the liver's
    manifest = prepare(data, out, OPTIONS, 1, quiet())
    assert manifest.channels == ("a_lesion", "liver_lesion")
    for name in "ab":
        assert open_volume(out / CASES / name / "lesions.b2nd")[...].max() == 2


def test_other_options_are_refused(tmp_path):
    data, out = write_case(tmp_path / "data" / "a").parent, tmp_path / "out"
    prepare(data, out, OPTIONS, 1, quiet())
    for other in (Options(LABELS, (2, 2, 2)), Options(LABELS, clip=(0, 1)), Options(LabelSet("own", {"liver": 4}))):
        with pytest.raises(ValueError, match="choose another folder"):
            prepare(data, out, other, 1, quiet())


def test_folders_that_cannot_be(tmp_path):
    data = write_case(tmp_path / "data" / "a", ct=None).parent
    for out, message in ((data / "out", "outside of"), (tmp_path / "out", "none of its 1 cases")):
        with pytest.raises(ValueError, match=message):
            prepare(data, out, OPTIONS, 1, quiet())


def test_nothing_labelled(tmp_path):
    save(tmp_path / "data" / "a" / "ct.nii.gz", ct())
    manifest = prepare(tmp_path / "data", tmp_path / "out", OPTIONS, 1, quiet())
    assert (manifest.intensity.mean, manifest.intensity.sd) == (0, 500)
    assert manifest.channels == ()


def test_lungs_do_not_set_the_scale_of_the_organs(tmp_path):
    volume, lungs = ct(), mask()
    lungs[:4] = True
    volume[lungs > 0] = -850
    folder = write_case(tmp_path / "data" / "a", ct=volume, segmentations__lung_left=lungs)
    labels = LabelSet("own", {"liver": 3, "lung_left": 4}, {"liver, dome": ("liver",)})
    manifest = prepare(folder.parent, tmp_path / "out", Options(labels), 1, quiet())
    assert manifest.cases["a"].labels[4].median == -850
    organ = open_volume(tmp_path / "out" / CASES / "a" / "labels.b2nd")[...] == 3
    inside = open_volume(tmp_path / "out" / CASES / "a" / "ct.b2nd")[...][organ]
    assert manifest.intensity.mean == pytest.approx(inside[inside >= -200].mean())
    assert read_manifest(tmp_path / "out").classes == labels


@pytest.mark.parametrize("name", ["write_volume", "_moments"])
def test_a_full_disk(tmp_path, monkeypatch, name):
    """One sentence; what is finished stays, and nothing is left of the rest."""
    data, out = tmp_path / "data", tmp_path / "out"
    for case in "ab":
        write_case(data / case)

    def fail(*arguments: object) -> object:
        if (out / CASES / "a").exists():
            raise OSError(28, "No space left on device")
        return original(*arguments)

    original = getattr(prepare_module, name)
    monkeypatch.setattr(prepare_module, name, fail)
    with pytest.raises(OSError, match="b: No space left on device; finished cases are kept"):
        prepare(data, out, OPTIONS, 1, quiet())
    assert [path.name for path in (out / CASES).iterdir()] == ["a"]
    monkeypatch.undo()
    assert list(prepare(data, out, OPTIONS, 1, quiet()).cases) == ["a", "b"]


KILLS = 10
RUNS = f"""
import os, random, signal, sys, time
from pathlib import Path
import rsuper_train.prepare
from rsuper_train.cli import app
def finished():
    return sorted(Path(sys.argv[2], "cases").glob("[0-9]*/*"))
for _ in range({KILLS}):
    wanted, end = len(finished()) + random.randint(0, 16), time.monotonic() + 20
    if not (child := os.fork()):
        app(["prepare", *sys.argv[1:], "--workers", "1"])
    while len(finished()) < wanted and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in finished():
        print(path, path.stat().st_ino, path.stat().st_mtime_ns)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which saves an import for each run")
def test_killed_at_random_moments(tmp_path):
    """Runs that are killed come to the end at last; no finished case is written twice, none is broken."""
    data, out = tmp_path / "data", tmp_path / "out"
    for number in range(40):
        write_case(data / f"{number:02d}", ct=ct() + number)
    (tmp_path / "own.yaml").write_text("liver: 3\nliver_segment_1: 1\nspleen: 2\nvein: 300\n")
    options = ["--label-set", str(tmp_path / "own.yaml")]
    killed = subprocess.run(
        [sys.executable, "-c", RUNS, str(data), str(out), *options], stdout=subprocess.PIPE, text=True, check=True
    )
    # besides what a run says that came to its end
    seen = {line for line in killed.stdout.splitlines() if line.startswith(str(out / CASES))}
    manifest = prepare(data, out, OPTIONS, 1, quiet())
    assert seen
    assert seen <= {f"{path} {inode} {changed}" for path, (inode, changed) in inodes(out).items()}
    assert len(manifest.cases) == len(list((out / CASES).iterdir())) == 40
    for number in range(40):
        volume = open_volume(out / CASES / f"{number:02d}" / "ct.b2nd")[...]
        assert np.array_equal(volume, (ct() + number).transpose(2, 1, 0))


def test_options_that_cannot_be():
    many = tuple(map(str, range(33)))
    for options, message in (
        ({"clip": (5, 5)}, "clip: "),
        ({"spacing": (1, 0, 1)}, "spacing: "),
        ({"channels": many}, "at most 32"),
    ):
        with pytest.raises(ValueError, match=message):
            Options(LABELS, **options)
