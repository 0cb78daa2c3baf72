# SPDX-License-Identifier: Apache-2.0
"""Turns that image, labels and findings follow alike, and changes of intensity that touch the input alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.layers import AffineTransform
from scipy import ndimage

from rsuper_kernels import FindingGroup, Findings, Tumour
from rsuper_train.augment import Crop, Turn, change_intensities, draw_turn, scale_findings
from rsuper_train.cases import Cases
from rsuper_train.config import Augmentation, Config, Data, Sampling, Stage
from rsuper_train.samples import TrainingCrops
from tests.train.prepared import IDS, PreparedCase, ball, write_prepared

ALWAYS = Augmentation(affine=1.0, rotation=(30.0, 30.0, 30.0), transpose=True)
SPACING = (2.5, 0.8, 1.0)


def turn(seed: int, augmentation: Augmentation = ALWAYS) -> Turn:
    return draw_turn(augmentation, np.random.default_rng(seed))


def test_probabilities_of_turns() -> None:
    drawn = [turn(seed, Augmentation(affine=0.2, flip=("D", "W"))) for seed in range(400)]
    assert np.mean([t.matrix is not None for t in drawn]) == pytest.approx(0.2, abs=0.08)
    assert {t.flip for t in drawn} == {(), (0,), (2,), (0, 2)}
    assert not any(t.transpose for t in drawn)
    assert np.mean([turn(seed).transpose for seed in range(400)]) == pytest.approx(0.5, abs=0.1)


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_turned_crop_holds_its_box_and_counts_what_it_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 30, 3)
    box = tuple((int(a), int(a + s)) for a, s in zip(first, rng.integers(1, 12, 3), strict=True))
    size = (16, 20, 24)
    crop = Crop.at(first - rng.integers(0, 6, 3), size)
    turned = crop.turned(turn(seed).matrix, SPACING, box)
    if turned.matrix is None:
        assert turned is crop
        return
    half = (np.array(size) - 1) / 2
    corners = np.array(np.meshgrid(*[(a, b - 1) for a, b in box])).reshape(3, -1)
    patch = turned.matrix @ (corners - turned.middle[:, None]) + half[:, None]
    assert (patch >= -1e-6).all()
    assert (patch <= 2 * half[:, None] + 1e-6).all()
    voxels = np.indices([b - a for a, b in turned.box]).reshape(3, -1) + np.array(turned.box)[:, :1]
    ends = turned.matrix @ (voxels - turned.middle[:, None])
    expected = (np.abs(ends) <= half[:, None] + 0.5).all(0)
    inside = turned.inside()
    assert inside is not None
    assert (inside.ravel() != expected).mean() < 1e-3


def test_the_patch_is_made_of_the_box_alone() -> None:
    crop = Crop.at((5, 6, 7), (12, 14, 16)).turned(turn(3).matrix, SPACING, None)
    volume = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    shifted = [slice(a + 10, b + 10) for a, b in crop.box]
    padded = np.pad(volume, 10, mode="edge")[tuple(shifted)]
    theta = np.eye(4)
    inverse = np.linalg.inv(crop.matrix)
    theta[:3, :3], theta[:3, 3] = inverse, crop.middle - [a for a, _ in crop.box] - inverse @ [5.5, 6.5, 7.5]
    monai = AffineTransform(crop.size, normalized=False, mode="bilinear", padding_mode="border", align_corners=True)
    expected = monai(torch.from_numpy(padded)[None, None], torch.from_numpy(theta)[None].float())[0, 0].numpy()
    np.testing.assert_allclose(crop.resample(padded, 1), expected, atol=1e-4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_a_ball_stays_one_of_the_scaled_diameter(spacing: tuple[float, float, float]) -> None:
    shape, middle, radius = (60, 80, 80), np.array([30, 40, 40]), 16.0
    offsets = (np.indices(shape) - middle[:, None, None, None]) * np.reshape(spacing, (3, 1, 1, 1))
    source = ((offsets**2).sum(0) <= radius**2).astype(np.uint8)
    for seed in range(4):
        crop = Crop.at(middle - [20, 30, 30], (41, 61, 61)).turned(turn(seed).matrix, spacing, None)
        part = np.pad(source, 60)[tuple(slice(a + 60, b + 60) for a, b in crop.box)]
        found = np.argwhere(crop.resample(part, 0)) * spacing
        extent = found.max(0) - found.min(0)
        assert 0.8 <= crop.scale <= 1.25
        np.testing.assert_allclose(extent, 2 * radius * crop.scale, atol=2 * max(spacing))
        assert len(found) == pytest.approx(source.sum() * crop.scale**3, rel=0.03)


def test_scaled_findings() -> None:
    tumours = (Tumour((10.0, 20.0), 900.0, "hypo"), Tumour(), Tumour((490.0,)))
    findings = Findings([FindingGroup(0, 0, (1, 2), tumours, count_known=False), FindingGroup(0, 0, (3,))], 1, 1)
    assert scale_findings(findings, 1.0) is findings
    first, negative = scale_findings(findings, 1.25).groups
    assert first.region == (1, 2)
    assert not first.count_known
    assert first.tumours[0] == Tumour((12.5, 25.0, 18.75), 900 * 1.25**3, "hypo")
    assert first.tumours[1] == Tumour()
    assert first.tumours[2].diameters == (500.0,) * 3
    assert negative.negative


def _one_case(folder: Path, augmentation: Augmentation, marker: np.ndarray, **data: object) -> TrainingCrops:
    """Crops of a case where the marker is bright in the CT, an organ of its own, and a tumour."""
    ct = np.where(marker, 900, 0).astype(np.int16)
    labels = np.where(marker, IDS["spleen"], 0).astype(np.uint8)
    write_prepared(folder, {"case": PreparedCase(ct, labels, {"spleen_lesion": marker}, SPACING)}, spacing=None)
    values = {"prepared": folder, "channels": ("spleen_lesion", "spleen"), "patch": (16, 20, 28), **data}
    config = Config(
        data=Data(**values),
        sampling=Sampling(tumour_share=1.0, organ_share=0.0),
        augmentation=augmentation,
        stages=(Stage(report_ratio=0.0),),
    )
    return TrainingCrops(Cases(config.data), config)


def test_flips_and_exchanges_reach_everything_alike(tmp_path: Path) -> None:
    marker = np.zeros((24, 36, 36), bool)
    marker[9, 20, 15] = True
    still = Augmentation(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0, transpose=True)
    crops = _one_case(tmp_path, still, marker, inputs=("ct", "organs"))
    spacings, places = set(), set()
    for n in range(24):
        sample = crops[n]
        (place,) = np.argwhere(sample.ct[0].numpy() == 900).tolist()
        for found in (sample.image[0] > 1, sample.image[1] > 0, sample.regions, *sample.labels):
            assert np.argwhere(found.numpy()).tolist() == [place]
        spacings.add(sample.spacing)
        places.add(tuple(place))
    assert spacings == {(2.5, 0.8, 1.0), (2.5, 1.0, 0.8)}
    assert len(places) > 12


def test_rotation_and_scale_reach_everything_alike(tmp_path: Path) -> None:
    crops = _one_case(
        tmp_path, Augmentation(affine=1, noise=0, blur=0, low_resolution=0), ball((24, 36, 36), (12, 18, 18), 4)
    )
    for n in range(8):
        sample = crops[n]
        middle = ndimage.center_of_mass(np.maximum(sample.ct[0].numpy(), 0))
        for found in (sample.regions, *sample.labels):
            np.testing.assert_allclose(ndimage.center_of_mass(found.numpy() > 0), middle, atol=0.4)


def test_intensities_change_the_cts_of_the_input_alone_and_alike() -> None:
    image = np.random.default_rng(0).normal(size=(3, 12, 14, 16)).astype(np.float32)
    image[2] = image[0]
    inputs = ("ct", "organs", "contrast")
    everything = Augmentation(noise=1, blur=1, brightness=1, gamma=1, low_resolution=1)
    changed, again = image.copy(), image.copy()
    change_intensities(changed, inputs, everything, np.random.default_rng(1))
    change_intensities(again, inputs, everything, np.random.default_rng(1))
    np.testing.assert_array_equal(changed, again)
    np.testing.assert_array_equal(changed[1], image[1])
    np.testing.assert_array_equal(changed[0], changed[2])
    assert np.isfinite(changed).all()
    for name in ("noise", "blur", "brightness", "gamma", "low_resolution"):
        alone = {n: float(n == name) for n in ("noise", "blur", "brightness", "gamma", "low_resolution")}
        one = image.copy()
        change_intensities(one, inputs, Augmentation(**alone), np.random.default_rng(2))
        assert not np.array_equal(one[0], image[0]), name
    flat = np.zeros_like(image)
    change_intensities(flat, inputs, everything, np.random.default_rng(3))
    assert np.isfinite(flat).all()


def test_the_ct_in_hu_keeps_its_values(tmp_path: Path) -> None:
    loud = Augmentation(affine=0, noise=1, blur=1, brightness=1, gamma=1, low_resolution=1)
    sample = _one_case(tmp_path, loud, ball((24, 36, 36), (12, 18, 18), 4))[0]
    assert set(np.unique(sample.ct)) == {0.0, 900.0}


def test_an_axis_of_one_voxel_is_mirrored():
    """NumPy leaves it a negative stride, which torch refuses."""
    turned = Turn(flip=(0, 2)).apply(np.arange(3.0).reshape(1, 1, 3))
    assert torch.from_numpy(turned).tolist() == [[[2, 1, 0]]]
