# SPDX-License-Identifier: Apache-2.0
"""Grids: the way to (D, H, W) and back, for every order and direction of axes, and what resampling does to a volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("nibabel")

import nibabel as nib

from rsuper_train.grids import resample, shape_at, to_source_grid
from rsuper_train.manifest import CaseRecord, Source
from rsuper_train.nifti import grid_of, to_axes

AXES = ("LR", "PA", "IS")
CODES = ["".join(code) for axes in itertools.permutations(AXES) for code in itertools.product(*axes)]
SHAPE, STEPS = (7, 5, 4), (0.9, 1.3, 3.1)


def affine_of(code: str, turn: float = 0.0, skew: float = 0.0) -> np.ndarray:
    """Of a file whose axes run to these directions, turned about the axis to the head, with slices shifted along H."""
    affine = np.zeros((4, 4))
    for axis, direction in enumerate(code):
        (row,) = (row for row, names in enumerate(AXES) if direction in names)
        affine[row, axis] = STEPS[axis] if direction in "RAS" else -STEPS[axis]
    affine[:, 3] = 11, -5, 3, 1
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return np.array([[c, -s, 0, 0], [s, c, skew, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine


def record_of(affine: np.ndarray, shape=SHAPE, spacing=None) -> CaseRecord:
    grid = grid_of(shape, affine)
    spacing = spacing or grid.spacing
    source = Source(shape=shape, affine=tuple(map(tuple, affine.tolist())), files={})
    return CaseRecord(id="a", shape=shape_at(grid.shape, grid.spacing, spacing), spacing=spacing, source=source)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_axes(code, turn):
    """What lies to the head, to anterior and to patient right comes last along D, H and W; the way back is exact."""
    affine = affine_of(code, turn)
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    ours = to_axes(volume, affine)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume.astype(np.int32), affine))
    assert np.array_equal(ours, np.asarray(canonical.dataobj).transpose(2, 1, 0))
    grid = grid_of(SHAPE, affine)
    assert grid.shape == ours.shape
    assert grid.spacing == pytest.approx(canonical.header.get_zooms()[::-1])
    assert grid.affine[:, [2, 1, 0, 3]] == pytest.approx(canonical.affine)
    record = record_of(affine)
    assert np.array_equal(to_source_grid(ours, record, 0), volume)
    assert np.array_equal(to_source_grid(ours.astype(np.float32), record, 1), volume)


def test_a_tilted_gantry_keeps_volumes():
    affine = affine_of("RAS", skew=0.4)
    grid = grid_of(SHAPE, affine)
    assert np.prod(grid.spacing) == pytest.approx(abs(np.linalg.det(affine[:3, :3])))
    assert grid.spacing == pytest.approx(STEPS[::-1])


@pytest.mark.parametrize("code", CODES[::5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 1.1)])
def test_round_trip_of_a_ball(code, spacing):
    """A ball in mm of the file comes back to where it was, whatever its axes and its spacing."""
    shape, affine = (31, 27, 13), affine_of(code)
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = voxels @ affine[:3, :3].T
    ball = np.linalg.norm(mm - mm[18, 12, 6], axis=-1) < 7.5
    record = record_of(affine, shape, spacing)
    grid = grid_of(shape, affine)
    there = resample(to_axes(ball.astype(np.float32), affine), grid.spacing, spacing, record.shape, 1)
    assert there.shape == record.shape
    assert (there >= 0.5).sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 7.5**3, rel=0.1)
    back = {0: to_source_grid(there >= 0.5, record, 0), 1: to_source_grid(there, record, 1) >= 0.5}
    for order, values in back.items():
        assert values.shape == shape
        overlap = 2 * (values & ball).sum() / (values.sum() + ball.sum())
        assert overlap > (0.88, 0.95)[order]
        centre = [np.mean(mm[mask], axis=0) for mask in (values, ball)]
        assert np.abs(centre[0] - centre[1]).max() < 0.3


@pytest.mark.parametrize("n", [1, 2, 7, 50])
@pytest.mark.parametrize("step", [0.3, 0.5, 1.7, 4.0])
def test_resampling_keeps_places(n, step):
    """A ramp of mm stays one inside: exactly, or to a tenth where voxels are averaged; constants stay everywhere."""
    spacing, target = (1.0, 1.0, 1.0), (step, 1.0, 1.0)
    mm = np.broadcast_to((np.arange(n) - (n - 1) / 2)[:, None, None], (n, 2, 3)).astype(np.float32)
    shape = shape_at(mm.shape, spacing, target)
    expected = (np.arange(shape[0]) - (shape[0] - 1) / 2) * step
    inside = np.abs(expected) <= (n - 1) / 2 - max(step, 1)
    linear, nearest = (resample(mm, spacing, target, shape, order)[:, 0, 0] for order in (1, 0))
    assert linear[inside] == pytest.approx(expected[inside], abs=1e-4 if step <= 1 else 0.1)
    assert np.abs(nearest - expected)[inside].max(initial=0) <= 0.5 + 1e-6
    ones = resample(np.full((n, 2, 3), 77, np.int16), spacing, target, shape, 1)
    assert ones.dtype == np.int16
    assert (ones == 77).all()


def test_larger_voxels_average():
    stripes = np.tile(np.int16([-100, 100]), 32)[:, None, None]
    means = resample(stripes, (1, 1, 1), (4, 1, 1), (16, 1, 1), 1)
    assert np.abs(means[1:-1]).max() < 10


def test_the_same_grid_is_not_touched():
    volume = np.zeros((4, 5, 6), np.uint8)
    assert resample(volume, (1, 1, 1), (1, 1.001, 1), (4, 5, 6), 1) is volume


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="a: expected a volume of"):
        to_source_grid(np.zeros((1, 2, 3)), record_of(affine_of("RAS")), 0)


def test_finer_voxels_lose_nothing():
    """What is interpolated to a third of the spacing comes back as it was."""
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])
    record = record_of(affine, spacing=(1.0, 1.0, 1.0))
    volume = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    finer = resample(to_axes(volume, affine), (3, 3, 3), (1, 1, 1), record.shape, 1)
    assert np.array_equal(to_source_grid(finer, record, 1), volume)
