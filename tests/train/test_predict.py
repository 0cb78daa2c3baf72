# SPDX-License-Identifier: Apache-2.0
"""Prediction with networks whose right answer is known: a voxel is tumour where its HU are above a threshold."""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from scipy import ndimage
from torch import nn
from typer.testing import CliRunner

from rsuper_train import nifti
from rsuper_train.checkpoint import FOLDER, LAST, save
from rsuper_train.cli import app
from rsuper_train.config import parse_config
from rsuper_train.engine import train
from rsuper_train.layout import PREDICTION
from rsuper_train.manifest import CaseRecord, Intensity, Manifest, Source
from rsuper_train.masks import drop_small, near
from rsuper_train.networks import build_network
from rsuper_train.predict import Predictor, predict_folder, read_ids
from rsuper_train.prepare import prepare
from rsuper_train.read import Options
from rsuper_train.reports.masks import load_label_set

IDS = dict(load_label_set("abdomenatlas").ids)
TISSUE, TUMOUR = 40, 140
GRIDS = {
    "canonical": np.diag([1.0, 1.0, 1.0, 1.0]),
    "flipped": np.array([[-0.8, 0, 0, 60], [0, -0.8, 0, 70], [0, 0, 2.5, -30], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 1.5, 5], [-0.9, 0, 0, 5], [0, -1.1, 0, 7], [0, 0, 0, 1.0]]),
    "oblique": np.array([[0.9, 0.1, 0, 3], [-0.1, 0.9, 0.2, 4], [0, -0.1, 2, 5], [0, 0, 0, 1.0]]),
}


class Threshold(nn.Module):
    """Logits of k (x - t) in all channels, of the first input; and whatever a subclass adds."""

    def __init__(self, in_channels: int, out_channels: int, threshold: float = 0.5, steepness: float = 20.0) -> None:
        super().__init__()
        self.out_channels, self.threshold, self.steepness = out_channels, threshold, steepness
        self.register_buffer("weight", torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.steepness * (image[:, :1] - self.threshold)).repeat(1, self.out_channels, 1, 1, 1)


class Ramp(Threshold):
    """Logits that rise along W, so that a mirrored window is answered differently."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.linspace(-2, 2, image.shape[-1]).expand(len(image), self.out_channels, *image.shape[2:])


class Nothing(Threshold):
    """Logits that are no numbers."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image) * float("nan")


def make_run(
    folder: Path,
    *,
    network: str = "Threshold",
    arguments: dict[str, Any] | None = None,
    spacing: Sequence[float] | None = None,
    mean: float = TISSUE,
    predict: dict[str, Any] | None = None,
    **data: Any,
) -> Path:
    """A run of a network made by hand; its input is 0 in tissue and 1 in tumours."""
    config = parse_config(
        {
            "data": {"patch": [16, 16, 16], "channels": ["kidney_lesion"], **data},
            "network": {"name": f"tests.train.test_predict:{network}", "arguments": arguments or {}},
            "predict": predict or {},
        }
    )
    manifest = Manifest(
        spacing=spacing,
        clip=(-1000, 1000),
        intensity=Intensity(mean=mean, sd=TUMOUR - TISSUE),
        label_set_name="abdomenatlas",
        label_set=IDS,
        channels=(),
        cases={},
    )
    state = {"network": build_network(config), "counters": {"step": 0}, "preprocessing": manifest.model_dump_json()}
    save(Fabric(accelerator="cpu", devices=1), folder / FOLDER / LAST, config, state)
    return folder


def write_case(
    folder: Path,
    tumour: np.ndarray,
    affine: np.ndarray = GRIDS["canonical"],
    organs: dict[str, np.ndarray] | None = None,
) -> None:
    """A case on the grid of the masks given; axes are those of the file."""
    ct = np.where(tumour, TUMOUR, TISSUE).astype(np.int16)
    for name, volume in {"ct": ct, **{f"segmentations/{k}": v for k, v in (organs or {}).items()}}.items():
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume.astype(np.int16), affine), path)


def box(shape: Sequence[int], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(tuple(shape), bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def predict(runs: Sequence[Path], data: Path, out: Path, **options: Any) -> dict[str, str]:
    names = ("cases", "overwrite")
    own = {name: options.pop(name) for name in names if name in options}
    channels = options.pop("channels", None)
    predictor = Predictor(runs, "cpu", channels, options)
    return predict_folder(predictor, data, out, Console(file=io.StringIO()), **own)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("grid", GRIDS)
def test_masks_are_on_the_grid_of_the_ct(grid: str, tmp_path: Path) -> None:
    tumour = box((20, 23, 17), (3, 9), (11, 20), (5, 8))
    write_case(tmp_path / "cases" / "a", tumour, GRIDS[grid])
    assert predict([make_run(tmp_path / "run")], tmp_path / "cases", tmp_path / "out") == {}

    image = nib.load(tmp_path / "out" / "a" / "kidney_lesion.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, GRIDS[grid], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), tumour)
    probabilities = voxels(tmp_path / "out" / "a" / "probabilities" / "kidney_lesion.nii.gz")
    np.testing.assert_allclose(probabilities, tumour, atol=1 / 255)
    found = json.loads((tmp_path / "out" / "a" / PREDICTION).read_text())
    volume = tumour.sum() * abs(np.linalg.det(GRIDS[grid][:3, :3]))
    assert found["channels"]["kidney_lesion"]["volume_mm3"] == pytest.approx(volume, rel=1e-5)
    assert found["channels"]["kidney_lesion"]["max_probability"] == pytest.approx(1, abs=1e-3)
    assert found["provenance"]["networks"][0]["sha256"]


def test_masks_are_those_of_the_written_probabilities(tmp_path: Path) -> None:
    """0.0099 is written as 3/255, which is above 0.01."""
    write_case(tmp_path / "cases" / "a", box((16, 16, 16), (3, 9), (3, 9), (3, 9)))
    run = make_run(tmp_path / "run", arguments={"threshold": 0.25, "steepness": 18.42})
    predict([run], tmp_path / "cases", tmp_path / "out", threshold=0.01)
    written = nib.load(tmp_path / "out" / "a" / "probabilities" / "kidney_lesion.nii.gz")
    assert written.dataobj[0, 0, 0] == pytest.approx(3 / 255)
    mask = voxels(tmp_path / "out" / "a" / "kidney_lesion.nii.gz")
    np.testing.assert_array_equal(mask, np.asarray(written.dataobj, np.float32) >= 0.01)


@pytest.mark.parametrize("grid", ["flipped", "permuted"])
def test_a_network_on_another_spacing_agrees_up_to_the_border(grid: str, tmp_path: Path) -> None:
    tumour = box((24, 26, 20), (5, 15), (11, 22), (6, 14))
    write_case(tmp_path / "cases" / "a", tumour, GRIDS[grid])
    predict([make_run(tmp_path / "run", spacing=(1.0, 1.0, 1.0))], tmp_path / "cases", tmp_path / "out")
    mask = voxels(tmp_path / "out" / "a" / "kidney_lesion.nii.gz") > 0
    assert mask.shape == tumour.shape
    assert not (mask & ~ndimage.binary_dilation(tumour)).any()
    assert not (ndimage.binary_erosion(tumour) & ~mask).any()


def test_networks_and_mirrored_axes_are_averaged(tmp_path: Path) -> None:
    shallow, ramp = make_run(tmp_path / "1", arguments={"steepness": 2.0}), make_run(tmp_path / "2", network="Ramp")

    def answer(runs: Sequence[Path], mirror: str) -> np.ndarray:
        ct = np.full((16, 16, 16), TISSUE, np.int16)
        record = CaseRecord(
            id="a", shape=ct.shape, spacing=(1, 1, 1), source=Source(shape=ct.shape, affine=(), files={})
        )
        return Predictor(runs, "cpu", overrides={"mirror": tuple(mirror)}).probabilities(record, ct, ct)[0]

    rising = torch.linspace(-2, 2, 16).sigmoid().numpy()
    flat = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(answer([ramp], "")[3, 5], rising, atol=1e-5)
    np.testing.assert_allclose(answer([ramp], "DHW")[3, 5], 0.5, atol=1e-5)
    np.testing.assert_allclose(answer([ramp, shallow], "D")[3, 5], (rising + flat) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["lesion"]}, r"channels: expected \('kidney_lesion',\) as in .*1, got \('lesion',\)"),
        ({"inputs": ["ct", "organs"]}, "inputs: expected"),
        ({"patch": [16, 16, 8]}, "patch: expected"),
        ({"spacing": (1.0, 1.0, 2.0)}, "spacing: expected None as in"),
        ({"mean": 0.0}, "intensity: expected"),
    ],
)
def test_networks_that_do_not_agree(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor([make_run(tmp_path / "1"), make_run(tmp_path / "2", **changes)], "cpu")


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({}, {"channels": ["liver_lesion"]}, "no 'liver_lesion', it has kidney_lesion"),
        ({}, {"overrides": {"overlap": 1.5}}, "predict.overlap: "),
        ({}, {"device": "cuda:77"}, "device: cuda:77 cannot be used here"),
        (
            {"channels": ["bone_lesion"]},
            {"overrides": {"gate": 5}},
            "no class of the label set abdomenatlas is",
        ),
    ],
)
def test_options_that_do_not_fit(data: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor([make_run(tmp_path / "run", **data)], **{"device": "cpu", **options})


def test_lesion_channels_are_chosen(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", channels=["liver", "kidney_lesion", "pancreatic_lesion"])
    assert Predictor([run], "cpu").channels == ("kidney_lesion", "pancreatic_lesion")
    assert Predictor([run], "cpu", ["liver"]).channels == ("liver",)
    assert Predictor([make_run(tmp_path / "organs", channels=["liver", "spleen"])], "cpu").channels == (
        "liver",
        "spleen",
    )


@pytest.mark.parametrize("gate", [0.0, 2.3, 6.1])
def test_lesions_are_kept_near_their_organ(gate: float, tmp_path: Path) -> None:
    shape, affine = (30, 22, 70), np.diag([1.5, 1.0, 0.8, 1.0])
    kidney, liver = box(shape, (4, 9), (6, 12), (10, 40)), box(shape, (20, 28), (2, 20), (3, 30))
    everywhere = np.ones(shape, bool)
    write_case(tmp_path / "cases" / "a", everywhere, affine, {"kidney_left": kidney, "liver": liver})
    run = make_run(tmp_path / "run", channels=["kidney_lesion", "lesion", "pancreatic_lesion"])
    predict([run], tmp_path / "cases", tmp_path / "out", gate=gate)
    for channel, organ in {"kidney_lesion": kidney, "lesion": kidney | liver}.items():
        expected = ndimage.distance_transform_edt(~organ, sampling=(1.5, 1.0, 0.8)) <= gate
        np.testing.assert_array_equal(voxels(tmp_path / "out" / "a" / f"{channel}.nii.gz"), expected)
    assert not voxels(tmp_path / "out" / "a" / "pancreatic_lesion.nii.gz").any()
    assert "pancreatic_lesion: its organ is not in" in (tmp_path / "out" / "a" / PREDICTION).read_text()


def test_windows_lie_around_the_organ_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tumour = box((64, 64, 64), (30, 34), (30, 34), (30, 34))
    write_case(tmp_path / "cases" / "a", tumour, organs={"kidney_left": tumour})
    windows = []
    inside = Threshold.forward
    monkeypatch.setattr(Threshold, "forward", lambda own, image: inside(own, windows.append(image) or image))
    predict([make_run(tmp_path / "run")], tmp_path / "cases", tmp_path / "out", gate=2)
    assert len(windows) == 1
    np.testing.assert_array_equal(voxels(tmp_path / "out" / "a" / "kidney_lesion.nii.gz"), tumour)


@pytest.mark.parametrize("length", [31, 32, 33, 100])
def test_distances_do_not_depend_on_blocks(length: int) -> None:
    organ = np.zeros((length, 9, 8), bool)
    organ[[0, length // 2], 4, 3] = True
    expected = ndimage.distance_transform_edt(~organ, sampling=(0.7, 1.1, 2.0)) <= 7.0
    np.testing.assert_array_equal(near(organ, 7.0, (0.7, 1.1, 2.0)), expected)


def test_small_components_are_dropped() -> None:
    mask = box((20, 20, 20), (2, 4), (2, 4), (2, 4)) | box((20, 20, 20), (9, 12), (9, 12), (9, 12))
    mask[4, 4, 4] = True  # by a corner a part of the first
    large = box((20, 20, 20), (9, 12), (9, 12), (9, 12))
    for smallest, expected in ((9, mask), (10, large), (27, large), (28, np.zeros_like(mask))):
        kept = mask.copy()
        drop_small(kept, smallest, 1)
        np.testing.assert_array_equal(kept, expected)


def test_inputs_that_need_organs(tmp_path: Path) -> None:
    tumour = box((16, 16, 16), (3, 9), (3, 9), (3, 9))
    write_case(tmp_path / "cases" / "bare", tumour)
    write_case(tmp_path / "cases" / "others", tumour, organs={"Leber": tumour})
    write_case(tmp_path / "cases" / "whole", tumour, organs={"liver": tumour})
    run = make_run(tmp_path / "run", inputs=["organs", "contrast"])
    failed = predict([run], tmp_path / "cases", tmp_path / "out")
    assert list(failed) == ["bare", "others"]
    for why in failed.values():
        assert "the inputs organs, contrast need organ masks" in why
        assert "label set abdomenatlas" in why
    np.testing.assert_array_equal(voxels(tmp_path / "out" / "whole" / "kidney_lesion.nii.gz"), tumour)


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path) -> None:
    tumour = box((16, 16, 16), (3, 9), (3, 9), (3, 9))
    for name in ("a", "b", "c"):
        write_case(tmp_path / "cases" / name, tumour)
    ct = tmp_path / "cases" / "b" / "ct.nii.gz"
    ct.write_bytes(ct.read_bytes()[:-40])
    (tmp_path / "cases" / "empty").mkdir()
    run = make_run(tmp_path / "run")
    arguments = [
        "predict",
        str(run),
        str(tmp_path / "cases"),
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert sorted(path.parent.name for path in (tmp_path / "out").glob(f"*/{PREDICTION}")) == ["a", "c"]
    assert "ct.nii.gz: Compressed file ended" in result.output
    assert f"{tmp_path / 'cases' / 'empty'}: expected ct.nii.gz" in result.output
    result = CliRunner().invoke(app, [*arguments, "--cases", "a,c"])
    assert result.exit_code == 0
    assert "2 of 2 cases were finished before" in result.output


def test_what_is_finished_is_skipped(tmp_path: Path) -> None:
    tumour = box((16, 16, 16), (3, 9), (3, 9), (3, 9))
    for name in ("a", "b"):
        write_case(tmp_path / "cases" / name, tumour)
    run, cases, out = make_run(tmp_path / "run"), tmp_path / "cases", tmp_path / "out"

    def times() -> list[int]:
        return [(out / name / PREDICTION).stat().st_mtime_ns for name in ("a", "b")]

    predict([run], cases, out)
    first = times()
    predict([run], cases, out)
    assert times() == first
    (out / "a" / "kidney_lesion.nii.gz").unlink()
    predict([run], cases, out)
    assert times()[0] > first[0]
    assert times()[1] == first[1]
    write_case(cases / "b", ~tumour)
    predict([run], cases, out)
    np.testing.assert_array_equal(voxels(out / "b" / "kidney_lesion.nii.gz"), ~tumour)

    with pytest.raises(ValueError, match=r"other networks, channels or options; .*--overwrite"):
        predict([run], cases, out, threshold=0.3)
    with pytest.raises(ValueError, match="there is no case c"):
        predict([run], cases, out, cases=["a", "c"])
    with pytest.raises(ValueError, match="expected a folder outside of"):
        predict([run], cases, cases / "out")
    (tmp_path / "ids.txt").write_text("a\n\nb\n", encoding="utf-8-sig")
    assert read_ids(str(tmp_path / "ids.txt")) == ["a", "b"]
    many = ",".join(f"a-long-id-{number:04}" for number in range(99))
    with pytest.raises(ValueError, match="there is no case a-long-id-0000, "):
        predict([run], cases, out, cases=read_ids(many))
    (out / "b" / PREDICTION).write_text("{}")
    with pytest.raises(ValueError, match=r"prediction.json: expected what `rsuper predict` writes; delete it"):
        predict([run], cases, out)
    (out / "b" / PREDICTION).unlink()
    other = make_run(tmp_path / "other", channels=["liver_lesion"])
    predict([other], cases, out, overwrite=True)
    assert sorted(path.name for path in (out / "a").glob("*.nii.gz")) == ["liver_lesion.nii.gz"]


def test_a_network_without_numbers(tmp_path: Path) -> None:
    write_case(tmp_path / "cases" / "a", box((16, 16, 16), (3, 9), (3, 9), (3, 9)))
    run = make_run(tmp_path / "run", network="Nothing")
    failed = predict([run], tmp_path / "cases", tmp_path / "out")
    assert "the network's output for kidney_lesion is not a number" in failed["a"]
    assert not (tmp_path / "out" / "a" / PREDICTION).exists()


def test_an_output_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    write_case(tmp_path / "cases" / "a", box((16, 16, 16), (3, 9), (3, 9), (3, 9)))
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="finished cases are kept"):
        predict([make_run(tmp_path / "run")], tmp_path / "cases", tmp_path / "out")


def slow_predict(run: Path, data: Path, out: Path) -> None:
    """`predict` that takes its time over each file."""
    write = nifti.write

    def write_slowly(path: Path, *others: Any) -> None:
        write(path, *others)
        time.sleep(0.02)

    nifti.write = write_slowly
    predict([run], data, out)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """What is finished at a kill is whole and stays as it is; in the end all is there."""
    run, cases, out = make_run(tmp_path / "run"), tmp_path / "cases", tmp_path / "out"
    tumour = box((24, 24, 24), (3, 9), (3, 9), (3, 9))
    names = [f"case{number:02}" for number in range(12)]
    for name in names:
        write_case(cases / name, tumour)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rng = np.random.default_rng(0)
    finished: dict[str, int] = {}
    for _ in range(10):
        process = context.Process(target=slow_predict, args=(run, cases, out))
        process.start()
        before = len(list(out.rglob("*")))
        while process.is_alive() and len(list(out.rglob("*"))) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob(f"*/{PREDICTION}")}
        assert finished.items() <= now.items()
        finished = now
        for name in finished:
            np.testing.assert_array_equal(voxels(out / name / "kidney_lesion.nii.gz"), tumour)
    assert predict([run], cases, out) == {}
    assert sorted(path.parent.name for path in out.glob(f"*/{PREDICTION}")) == names
    assert not list(out.rglob(".*"))
    for name in names:
        np.testing.assert_array_equal(voxels(out / name / "kidney_lesion.nii.gz"), tumour)


def test_a_trained_run_needs_neither_its_data_nor_its_reports(tmp_path: Path) -> None:
    shape = (24, 22, 20)
    tumour, kidney = box(shape, (6, 12), (6, 12), (6, 12)), box(shape, (4, 16), (4, 16), (4, 16))
    for name in ("a", "b"):
        organs = {"kidney_left": kidney, "kidney_lesion": tumour}
        write_case(tmp_path / "cases" / name, tumour, GRIDS["flipped"], organs)
    options = Options(load_label_set("abdomenatlas"), (2.0, 1.0, 1.0), (-200, 300))
    manifest = prepare(tmp_path / "cases", tmp_path / "prepared", options, 1, Console(file=io.StringIO()))
    config = {
        "run": tmp_path / "run",
        "data": {"prepared": tmp_path / "prepared", "channels": ["kidney_lesion"], "patch": [16, 16, 16]},
        "network": {"name": "SegResNet", "arguments": {"init_filters": 8}},
        "stages": [{"steps": 1, "report_ratio": 0}],
        "hardware": {"accelerator": "cpu", "devices": 1, "batch": 1, "workers": 0},
        "logging": {"tensorboard": False},
    }
    run = train(parse_config(config), Console(file=io.StringIO()))
    shutil.rmtree(tmp_path / "prepared")
    assert Predictor([run]).manifest == manifest.model_copy(update={"cases": {}})
    assert predict([run], tmp_path / "cases", tmp_path / "out", gate=3) == {}
    assert voxels(tmp_path / "out" / "a" / "kidney_lesion.nii.gz").shape == shape


@pytest.mark.slow  # a volume large enough to be told from what the libraries take
def test_memory_is_that_of_a_few_volumes(tmp_path: Path) -> None:
    tumour = box((150, 320, 320), (30, 60), (30, 60), (30, 60))
    write_case(tmp_path / "cases" / "small", tumour[:40, :80, :80])
    write_case(tmp_path / "cases" / "large", tumour, np.diag([-0.9, -0.9, 1.1, 1.0]), {"kidney_left": tumour})
    channels = ["kidney_lesion", "liver_lesion", "pancreatic_lesion"]
    make_run(tmp_path / "run", channels=channels, patch=[64, 64, 64], spacing=(1.0, 1.0, 1.0))
    script = (
        "import resource, sys; from tests.train.test_predict import predict, Path\n"
        "run, data, out = map(Path, sys.argv[1:])\n"
        "for case in ('small', 'large'):\n"
        "    predict([run], data, out, cases=[case], overlap=0.0)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in ("run", "cases", "out"))]
    small, large = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    # in float32: the input, three channels, the sum of weights; CT and labels
    assert large - small < tumour.size * (5 * 4 + 3) * 1.2
