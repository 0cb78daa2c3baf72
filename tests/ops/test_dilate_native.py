# SPDX-License-Identifier: Apache-2.0
"""The compiled dilation against a brute-force one, and what happens where it was not built."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rsuper_kernels import native
from rsuper_kernels.bits import pack, unpack
from rsuper_kernels.ops.dilate.native import dilate as native_dilate

ROOT = Path(__file__).resolve().parents[2]
needs_native = pytest.mark.skipif(not native.available()[0], reason=native.available()[1])

Runs = list[tuple[int, int, int]]


def ball(radius: float) -> Runs:
    """The runs of all voxels within `radius` of the origin."""
    reach = range(-int(radius), int(radius) + 1)
    squared = [(dz, dy, radius**2 - dz**2 - dy**2) for dz in reach for dy in reach]
    return [(dz, dy, int(rest**0.5)) for dz, dy, rest in squared if rest >= 0]


PASSES = {
    "voxel": [[(0, 0, 0)]],
    "cross": [[(-1, 0, 0), (0, -1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]],
    "ball": [ball(4.3)],
    "row": [[(0, 0, 37)]],
    "wider than any row": [[(0, 0, 300), (1, -2, 100), (-1, 2, 100)]],
    "taller than any volume": [[(400, 0, 1), (-400, 0, 1), (0, 400, 1), (0, -400, 1), (0, 0, 1)]],
    "not symmetric": [[(1, -2, 3), (0, 1, 0), (1, -2, 0), (1, -2, 3)]],
    "without its centre": [[(1, 0, 5), (-1, 0, 5)]],
    "several": [ball(2), [(0, 0, 64)], [(0, 1, 0), (0, -1, 0)], ball(3)],
    "none": [],
    "an empty one": [[]],
}
SHAPES = [(1, 17, 23, 9), (2, 5, 4, 64), (1, 4, 5, 65), (3, 3, 6, 128), (1, 6, 3, 200), (2, 1, 11, 13), (1, 9, 1, 70)]
SHAPES += [(1, 7, 8, 1), (1, 1, 1, 1), (0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)]


def dilate(mask: np.ndarray, passes: list[Runs]) -> np.ndarray:
    runs = torch.tensor([run for runs in passes for run in runs], dtype=torch.int32).reshape(-1, 3)
    words = native_dilate(pack(torch.from_numpy(mask)), mask.shape[-1], runs, [len(runs) for runs in passes])
    return unpack(words, mask.shape[-1]).numpy()


def brute_force(mask: np.ndarray, passes: list[Runs]) -> np.ndarray:
    for runs in passes:
        source, mask = np.argwhere(mask), np.zeros_like(mask)
        for dz, dy, half_width in runs:
            for n, z, y, x in source + (0, dz, dy, 0):
                if 0 <= z < mask.shape[1] and 0 <= y < mask.shape[2]:
                    mask[n, z, y, max(x - half_width, 0) : x + half_width + 1] = True
    return mask


def random_mask(shape: tuple[int, ...], density: float = 0.03) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < density


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES.keys())
def test_equals_brute_force(shape, passes, threads):
    mask = random_mask(shape)
    np.testing.assert_array_equal(dilate(mask, passes), brute_force(mask, passes))


@needs_native
@pytest.mark.parametrize("width", [1, 63, 64, 65, 127, 128, 129, 192])
def test_every_half_width_at_every_position(width):
    """A mask per voxel of one row: all shifts across word borders and row ends."""
    mask = np.eye(width, dtype=bool).reshape(width, 1, 1, width)
    distance = np.abs(np.arange(width)[:, None] - np.arange(width))
    for half_width in range(width + 2):
        expected = (distance <= half_width).reshape(mask.shape)
        np.testing.assert_array_equal(dilate(mask, [[(0, 0, half_width)]]), expected)


@needs_native
@pytest.mark.parametrize("width", [9, 64, 65, 200])
def test_empty_and_full_masks_stay_so(width):
    for value in (False, True):
        mask = np.full((2, 5, 6, width), value)
        assert (dilate(mask, [ball(3.5), ball(1)]) == value).all()


@needs_native
def test_masks_of_a_batch_do_not_mix():
    mask = np.zeros((3, 4, 5, 6), dtype=bool)
    mask[1] = True
    out = dilate(mask, [ball(3)])
    assert out[1].all()
    assert not out[[0, 2]].any()


@needs_native
def test_what_leaves_the_volume_does_not_come_back():
    mask = np.zeros((1, 1, 1, 70), dtype=bool)
    mask[..., 69] = True
    right = [(0, 0, 10)]
    away = [(0, 1, 0)]
    assert dilate(mask, [right, right]).sum() == 21
    assert not dilate(mask, [right, away, [(0, -1, 0)]]).any()


@needs_native
def test_leaves_the_mask_alone():
    mask = random_mask((2, 6, 7, 70))
    before = mask.copy()
    dilate(mask, [ball(3)])
    np.testing.assert_array_equal(mask, before)


@needs_native
@pytest.mark.parametrize(
    ("words", "runs", "passes", "message"),
    [
        (torch.zeros(1, 2, 3, 1), [(0, 0, 1)], [1], "words: expected .* torch.int64 tensor .* got torch.float32"),
        (torch.zeros(2, 3, 1, dtype=torch.int64), [(0, 0, 1)], [1], "words: expected .* 4-dimensional"),
        (torch.zeros(1, 2, 3, 8, dtype=torch.int64)[..., ::2], [(0, 0, 1)], [1], "words: expected a contiguous"),
        (torch.zeros(1, 2, 3, 1, dtype=torch.int64), [(0, 1)], [1], r"runs: expected shape \(R, 3\)"),
        (torch.zeros(1, 2, 3, 1, dtype=torch.int64), [(0, 0, 1)], [2], r"passes: \[2\] does not divide the 1 rows"),
        (torch.zeros(1, 2, 3, 1, dtype=torch.int64), [(0, 0, 1)], [2, -1], r"passes: \[2, -1\] does not divide"),
        (torch.zeros(1, 2, 3, 1, dtype=torch.int64), [(0, 0, -1)], [1], "runs: negative half width -1"),
    ],
)
def test_refuses(words, runs, passes, message):
    with pytest.raises(ValueError, match=message):
        native_dilate(words, 4, torch.tensor(runs, dtype=torch.int32), passes)


def test_works_without_the_compiled_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "rsuper_kernels._C", None)
    fresh = importlib.util.module_from_spec(native.__spec__)
    native.__spec__.loader.exec_module(fresh)
    can_run, reason = fresh.available()
    assert not can_run
    assert "was not built" in reason
    with pytest.raises(ImportError):
        native_dilate(torch.zeros(1, 1, 1, 1, dtype=torch.int64), 1, torch.zeros(0, 3, dtype=torch.int32), [])


def build_wheel(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """Build a wheel of a copy of the sources with this Python's build tools."""
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns(".*", "build", "runs", "*.so", "*.egg-info", "__pycache__", "tests", "examples")
    shutil.copytree(ROOT, source, ignore=skipped)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "-v"]
    return subprocess.run(
        [*command, "-w", str(tmp_path / "wheels")],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wheel_names(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "wheels").glob("*.whl")]


@pytest.mark.slow
def test_native_code_can_be_left_out(tmp_path):
    done = build_wheel(tmp_path, RSUPER_NO_NATIVE="1")
    assert done.returncode == 0, done.stdout
    assert wheel_names(tmp_path) == ["rsuper_kernels-0.1.0-py3-none-any.whl"]
    assert "was not built" not in done.stdout


@pytest.mark.slow
def test_no_compiler_means_one_warning_and_a_pure_wheel(tmp_path):
    done = build_wheel(tmp_path, CXX="/no/such/compiler")
    assert done.returncode == 0, done.stdout
    assert wheel_names(tmp_path) == ["rsuper_kernels-0.1.0-py3-none-any.whl"]
    assert done.stdout.count("the compiled CPU module was not built") == 1


@pytest.mark.slow
def test_no_compiler_is_an_error_where_native_code_is_required(tmp_path):
    done = build_wheel(tmp_path, CXX="/no/such/compiler", RSUPER_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "/no/such/compiler" in done.stdout
