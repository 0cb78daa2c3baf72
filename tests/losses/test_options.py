# SPDX-License-Identifier: Apache-2.0
"""One test for each option that separates the recipes, named after it, showing the difference it makes."""

from dataclasses import fields

import pytest
import torch

from rsuper_kernels import (
    PAPER,
    RSUPER,
    FindingGroup,
    Findings,
    Recipe,
    ReportSupervisedLoss,
    Tumour,
    ball_loss,
    pseudo_masks,
    segmentation_loss,
    volume_loss,
)
from tests.helpers import ball_mask, box_mask, logit

UNIT = (1.0, 1.0, 1.0)
SEPARATE = [option.name for option in fields(Recipe) if getattr(PAPER, option.name) != getattr(RSUPER, option.name)]


def flat(probability: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, logit(probability), dtype=torch.float64)


def row(*lifted: tuple[int, float], length: int = 15) -> torch.Tensor:
    """One plane (1, 1, 1, 1, W) of p = 0.2, but for some voxels."""
    logits = flat(0.2, 1, 1, 1, 1, length)
    for voxel, probability in lifted:
        logits[..., voxel] = logit(probability)
    return logits


# three voxels of a tumour of 3 mm3, seen at 6 to 8: see test_ball.py for the numbers
SEEN = row((6, 0.7), (7, 0.9), (8, 0.8))
SMALL = Tumour((3.0, 1.0, 1.0), volume=3.0)


def body(logits: torch.Tensor, tumour: Tumour, spacing=UNIT, regions=None, **options) -> torch.Tensor:
    findings = Findings((FindingGroup(0, 0, None if regions is None else 1, (tumour,)),))
    return pseudo_masks(logits, findings, regions, spacing, **options).body[0]


@pytest.mark.parametrize("option", SEPARATE)
def test_every_option_that_separates_the_recipes_has_a_test(option):
    assert callable(globals()[f"test_{option}"])


def test_neighbours():
    """Voxels 0 to 4 and 5 to 9 are two organs; p = 0.5 at voxel 5 is in reach of both, and is the second one's."""
    regions = torch.ones(1, 1, 1, 10, dtype=torch.long)
    regions[..., 5:] = 2
    logits = flat(1e-9, 1, 1, 1, 1, 10)
    logits[..., 5] = 0.0
    reported = FindingGroup(0, 0, 1, (Tumour((5.0,), volume=50.0),))
    findings = Findings((reported, FindingGroup(0, 0, 2)))
    negative = 0.5 / 500.5
    losses = {}
    for neighbours in ("exclude", "share"):
        losses[neighbours] = volume_loss(
            logits, findings, regions, UNIT, neighbours=neighbours, region_margin=2.0, tolerance=0.0
        ).item()
    assert losses["exclude"] == pytest.approx((50 / 550 + negative) / 2, rel=1e-6)
    assert losses["share"] == pytest.approx((49.5 / 550.5 + negative) / 2, rel=1e-6)


def test_units():
    """64 voxels of 8 mm3 at p = 0.5 are 256 mm3, or 32 where every voxel counts as 1 mm3; 256 are reported."""
    findings = Findings((FindingGroup(0, 0, None, (Tumour((5.0,), volume=256.0),)),))
    losses = [
        volume_loss(flat(0.5, 1, 1, 4, 4, 4), findings, None, (2.0, 2.0, 2.0), units=units).item()
        for units in ("mm", "voxels")
    ]
    # 224 / 788 - 25.6 / (230.4 + 256 + 500)
    assert losses == pytest.approx([0, 224 / 788 - 25.6 / 986.4])


def test_dilation():
    """15 mm around one voxel: 14,147 voxels of the ball or 16,251 of the cascade; half of each, as a negative."""
    regions = box_mask((37, 37, 37), (18, 19), (18, 19), (18, 19))[None].int()
    findings = Findings((FindingGroup(0, 0, 1),))
    losses = [
        volume_loss(flat(0.5, 1, 1, 37, 37, 37), findings, regions, UNIT, dilation=dilation, neighbours="share").item()
        for dilation in ("ball", "cascade")
    ]
    assert losses == pytest.approx([7073.5 / 7573.5, 8125.5 / 8625.5])


def test_negatives():
    findings = Findings((FindingGroup(0, 0),))
    losses = [
        volume_loss(flat(0.5, 1, 1, 4, 4, 4), findings, None, UNIT, negatives=choice).item()
        for choice in ("push", "ignore")
    ]
    assert losses == pytest.approx([32 / 532, 0])


def test_volume_mean():
    """One group among 2 samples x 3 lesion channels."""
    findings = Findings((FindingGroup(1, 2),), batch_size=2, channels=4, lesion_channels=(0, 1, 2))
    losses = [
        volume_loss(flat(0.5, 2, 4, 4, 4, 4), findings, None, UNIT, volume_mean=mean).item()
        for mean in ("groups", "channels")
    ]
    assert losses == pytest.approx([32 / 532, 32 / 532 / 6])


def test_diameters():
    """10.4 mm take a ball of radius 6.24, or of 11 -> 13.2 -> 15 voxels: a sure voxel 7 away is in the second only."""
    shape = (25, 25, 25)
    logits = torch.where(ball_mask(shape, (12, 12, 12), 4.0), logit(0.9), logit(0.1)).double()
    logits[12, 12, 19] = logit(0.85)
    found = [body(logits[None, None], Tumour((10.4,)), diameters=choice) for choice in ("exact", "odd")]
    assert [int(mask.sum()) for mask in found] == [589, 589]  # pi / 6 * 10.4^3
    assert [bool(mask[12, 12, 19]) for mask in found] == [False, True]
    # a tumour of half a voxel is one voxel, or the nine of the public code
    counts = [int(body(logits[None, None], Tumour((1.0,)), diameters=choice).sum()) for choice in ("exact", "odd")]
    assert counts == [1, 9]


def test_voxel_count():
    """20 x 4 mm are 503 mm3; raised to the ball of 21 voxels, less one, they are 4,944: nothing is left of the 4 mm."""
    logits = torch.where(ball_mask((40, 40, 40), (20, 20, 20), 8.0), logit(0.9), logit(0.1)).double()[None, None]
    found = [body(logits, Tumour((20.0, 4.0)), voxel_count=c, diameters="odd") for c in ("reported", "ball")]
    assert [int(mask.sum()) for mask in found] == [503, 4944]


def test_voxel_count_in_mm():
    """On 2 mm voxels the ball of 8 mm holds n(4) = 33 voxels of 8 mm3, not the 257 of 1 mm voxels."""
    logits = torch.where(ball_mask((12, 12, 12), (6, 6, 6), 3.0), logit(0.9), logit(0.1)).double()[None, None]
    assert int(body(logits, Tumour((8.0, 2.0)), (2.0, 2.0, 2.0), voxel_count="ball").sum()) == 32


def test_placement():
    """A 9 mm tumour (382 voxels) reported in 27 voxels of a corner: it keeps to them, or fills up outside."""
    regions = box_mask((20, 20, 20), (0, 3), (0, 3), (0, 3))[None].int()
    logits = flat(0.3, 1, 1, 20, 20, 20)
    options = {"region_margin": 0.0, "regions": regions}
    inside, anywhere = (body(logits, Tumour((9.0,)), placement=p, **options) for p in ("region", "patch"))
    assert torch.equal(inside, regions[0].bool())
    assert (anywhere & regions[0].bool()).sum() == 27
    assert (anywhere & ~regions[0].bool()).sum() > 100


def test_bce_mean():
    """Foreground 0.627759 over 3 voxels and background 6 * 0.223144 over 6, or both over the 15 of the patch."""
    findings = Findings((FindingGroup(0, 0, None, (SMALL,)),))
    own, patch = (ball_loss(SEEN, findings, None, UNIT, bce_mean=mean)[0].item() for mean in ("own", "patch"))
    assert own == pytest.approx(0.627759 / 3 + 0.223144, abs=1e-5)
    assert patch == pytest.approx((0.627759 + 6 * 0.223144) / 15, abs=1e-5)


def test_ball_mean():
    """Sample 0 has a reported and a negative plane, sample 1 nothing.

    planes: the mean of both, 0.432397 and -ln 0.8 = 0.223144; samples: the reported plane alone, over 2 samples.
    """
    logits = torch.stack([torch.cat([SEEN[0], row()[0]]), torch.cat([row()[0], row()[0]])])
    findings = Findings((FindingGroup(0, 0, None, (SMALL,)), FindingGroup(0, 1)), batch_size=2, channels=2)
    planes, samples = (
        ball_loss(logits, findings, None, UNIT, ball_mean=mean)[0].item() for mean in ("planes", "samples")
    )
    assert planes == pytest.approx((0.432397 + 0.223144) / 2, abs=1e-5)
    assert samples == pytest.approx(0.432397 / 2, abs=1e-5)


def test_rim():
    """The reported region is columns 0 to 4 of 40, S+ reaches to 19, labels are not trusted within 2 voxels (to 6)."""
    regions = box_mask((3, 3, 40), (0, 3), (0, 3), (0, 5))[None].int()
    findings = Findings((FindingGroup(0, 0, 1, (Tumour((3.0,)),)),))
    taught = {}
    for rim in ("unknown", "background"):
        leaf = flat(0.3, 1, 1, 3, 3, 40).requires_grad_()
        criterion = ReportSupervisedLoss(report_weight=0.0, attenuation_weight=0.0, rim=rim)
        criterion(leaf, findings, regions, UNIT, labels=torch.zeros(1, 1, 3, 3, 40))["total"].backward()
        taught[rim] = (leaf.grad[0, 0] > 0).all(0).all(0).nonzero().flatten().tolist()
    assert taught == {"unknown": list(range(20, 40)), "background": list(range(7, 40))}


def test_empty_dice():
    """p = 0.5 on 64 voxels without a target: BCE ln 2, and a Dice loss of nothing or of the constant 1."""
    logits = flat(0.5, 1, 1, 4, 4, 4)
    labels = torch.zeros(1, 1, 4, 4, 4)
    skip, one = (segmentation_loss(logits, labels, empty_dice=empty).item() for empty in ("skip", "one"))
    assert skip == pytest.approx(0.693147, abs=1e-6)
    assert one == pytest.approx(1.693147, abs=1e-6)


def test_single_head():
    findings = Findings((FindingGroup(0, 0, None, (SMALL,)),))
    parts = [
        set(ReportSupervisedLoss(attenuation_weight=0.0, single_head=choice)(SEEN, findings, None, UNIT))
        for choice in ("both", "ball")
    ]
    assert parts == [{"total", "ball_bce", "ball_dice", "volume"}, {"total", "ball_bce", "ball_dice"}]
