# SPDX-License-Identifier: Apache-2.0
"""A table of values that the public code gave for one analytic input: losses, voxel counts and gradients.

The logits of 40^3 voxels are two Gaussian blobs and ripples that leave no ties. The same numbers are asked of
`rsuper_kernels.compat` and of the recipe "rsuper" of the losses.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from rsuper_kernels import FindingGroup, Findings, Tumour, compat
from rsuper_kernels import ball_loss as native_ball_loss
from rsuper_kernels import volume_loss as native_volume_loss
from rsuper_kernels.losses.ball import pseudo_masks
from rsuper_kernels.losses.segmentation import known_voxels, segmentation_terms

CLASSES = ["kidney_lesion", "pancreas", "pancreatic_lesion"]
UNIT = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """Reported diameters (mm), the cube of the segment, and the public results."""

    diameters: tuple[tuple[float, ...], ...]
    cube: tuple[int, int]
    bce: float
    dice: float
    foreground: int
    border: int
    gradient: float
    volume_01: float
    volume_02: float


TABLE = {
    "A": Row(((11, 10),), (8, 30), 0.0602659, 0.8571076, 590, 2675, 0.192109, 0.3431403, 0.3234075),
    "B": Row(((6,), (11, 10)), (8, 32), 0.0600503, 0.8371581, 732, 3130, 0.212402, 0.3267149, 0.3059157),
    "C": Row(((9,),), (0, 3), 0.1069650, 0.9950130, 310, 2179, 0.090061, 0.0760302, 0.0594518),
    "D": Row(((20, 14, 9),), (8, 30), 0.0987525, 0.6029147, 3955, 10279, 0.348315, 0.2501123, 0.2261584),
    "E": Row(((1,),), (8, 30), 0.0816947, 0.9954408, 18, 453, 0.077017, 0.4549926, 0.4549926),
    "F": Row(((20, 4),), (8, 30), 0.0987525, 0.6029147, 3955, 10279, 0.348315, 0.3586986, 0.3401897),
    "G": Row((), (0, 0), 0.0686052, 1.0000000, 0, 0, 0.057353, 0.0, 0.0),
}
ROWS = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


def logits() -> torch.Tensor:
    """(1, 3, 40, 40, 40) float32."""
    z, y, x = torch.meshgrid(*[torch.arange(40, dtype=torch.float64)] * 3, indexing="ij")
    base = -3 + 6 * torch.exp(-((z - 18) ** 2 + (y - 21) ** 2 + (x - 17) ** 2) / 60)
    base += 2.5 * torch.exp(-((z - 27) ** 2 + (y - 12) ** 2 + (x - 25) ** 2) / 30)
    base += 0.3 * torch.sin(0.9 * z + 0.5 * y) + 0.2 * torch.cos(0.7 * x - 0.4 * y) + 1e-4 * (z + 1.7 * y + 2.3 * x)
    return torch.stack([base - 1, torch.zeros_like(base), base]).float()[None].requires_grad_()


def cube_mask(channel: int, first: int, end: int) -> torch.Tensor:
    """(1, 3, 40, 40, 40), 1 in [first, end)^3 of one channel."""
    mask = torch.zeros(1, 3, 40, 40, 40)
    mask[0, channel, first:end, first:end, first:end] = 1
    return mask


def report_tables(row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """Volumes (1, 10) and diameters (1, 10, 3), zero-padded."""
    volumes, diameters = torch.zeros(1, 10), torch.zeros(1, 10, 3)
    for t, reported in enumerate(row.diameters):
        a, b = reported[0], reported[1] if len(reported) > 1 else reported[0]
        c = reported[2] if len(reported) > 2 else (a + b) / 2
        diameters[0, t] = torch.tensor([a, b, c])
        volumes[0, t] = math.pi / 6 * a * b * c
    return volumes, diameters


def findings(row: Row) -> Findings:
    tumours = tuple(Tumour(tuple(float(d) for d in reported)) for reported in row.diameters)
    channels = (2,) if tumours else (0, 2)
    groups = tuple(FindingGroup(0, channel, tumours=tumours) for channel in channels)
    return Findings(groups, 1, tuple(CLASSES), lesion_channels=(0, 2))


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


@ROWS
def test_compat_ball_loss(row):
    x, segment = logits(), cube_mask(2, *row.cube)
    losses = compat.ball_loss(x, torch.zeros_like(segment), segment, segment, *report_tables(row), CLASSES, True)
    assert losses["ball_loss_bce"].item() == near(row.bce)
    assert losses["ball_loss_dice"].item() == near(row.dice)
    sum(losses.values()).backward()
    assert x.grad.abs().sum().item() == near(row.gradient)


@ROWS
def test_compat_counts(row):
    masks = compat.ball_pseudo_masks(logits(), cube_mask(2, *row.cube), *report_tables(row), CLASSES)[0]
    assert len(masks) == len(row.diameters)
    if masks:
        _, small, big = torch.stack(masks).any(0)
        assert small.sum() == row.foreground
        assert ((compat.dilate_volume(big, 7) > 0) & ~small).sum() == row.border


@ROWS
@pytest.mark.parametrize("tolerance", [0.1, 0.2])
def test_compat_volume_loss(row, tolerance):
    segment = cube_mask(2, *row.cube)
    volumes, _ = report_tables(row)
    labels = torch.zeros_like(segment)
    losses = compat.volume_loss_basic(logits(), segment, volumes, labels, segment, CLASSES, tolerance=tolerance)
    assert losses["dice_volume_loss"].item() == near(row.volume_01 if tolerance == 0.1 else row.volume_02)


@ROWS
def test_native_ball_loss(row):
    x, segment = logits(), cube_mask(2, *row.cube)
    regions = segment if row.diameters else None
    bce, dice = native_ball_loss(x, findings(row), regions, UNIT, known=segment == 0, recipe="rsuper")
    assert (bce.item(), dice.item()) == (near(row.bce), near(row.dice))
    (bce + dice).backward()
    assert x.grad.abs().sum().item() == near(row.gradient)


@ROWS
def test_native_counts(row):
    regions = cube_mask(2, *row.cube) if row.diameters else None
    placement = pseudo_masks(logits(), findings(row), regions, UNIT, recipe="rsuper")
    assert placement.core.sum() == row.foreground
    assert placement.tolerated.sum() == row.border


@ROWS
@pytest.mark.parametrize("tolerance", [0.1, 0.2])
def test_native_volume_loss(row, tolerance):
    regions = cube_mask(2, *row.cube) if row.diameters else None
    loss = native_volume_loss(logits(), findings(row), regions, UNIT, recipe="rsuper", tolerance=tolerance)
    assert loss.item() == near(row.volume_01 if tolerance == 0.1 else row.volume_02)


@pytest.mark.parametrize(("cube", "voxels", "volume"), [((8, 30), 64_000, 5065.7446), ((0, 3), 3727, 186.0721)])
def test_dilated_segment(cube, voxels, volume):
    dilated = compat.dilate_volume(cube_mask(2, *cube), 31)[0, 2]
    assert dilated.sum() == voxels
    assert (logits()[0, 2].sigmoid() * dilated).sum().item() == near(volume)


def test_segmentation_term():
    labels, segment = cube_mask(0, 2, 7) + cube_mask(1, 8, 30), cube_mask(2, 8, 30)
    known = known_voxels(segment)
    assert (~known).flatten(2).sum(2).tolist() == [[0, 0, 17280]]
    assert torch.equal(compat.get_known_voxels(labels, segment) > 0, known)
    bce, dice = segmentation_terms(logits(), labels, known, recipe="rsuper")
    assert (bce.item(), dice.item()) == (near(0.2602043), near(0.9355874))
    assert compat.DiceLossMultiClass(logits(), labels, known).item() == near(0.9355874)
