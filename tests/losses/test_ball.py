# SPDX-License-Identifier: Apache-2.0
"""Ball Loss: where tumours are placed, what is raised, lowered and left alone."""

import pytest
import torch

from rsuper_kernels import BallLoss, FindingGroup, Findings, Tumour, ball_loss, pseudo_masks
from rsuper_kernels.losses.placement import selection_counts
from tests.helpers import ball_mask, box_mask, logit, random_logits, scene

UNIT = (1.0, 1.0, 1.0)
RECIPES = ("paper", "rsuper")
SMALL = Tumour((3.0, 1.0, 1.0), volume=3.0)


def flat(probability: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, logit(probability), dtype=torch.float64)


def row(*lifted: tuple[int, float], length: int = 15) -> torch.Tensor:
    """One plane (1, 1, 1, 1, W) of p = 0.2, but for some voxels."""
    logits = flat(0.2, 1, 1, 1, 1, length)
    for voxel, probability in lifted:
        logits[..., voxel] = logit(probability)
    return logits


SEEN = row((6, 0.7), (7, 0.9), (8, 0.8))


def one(*tumours: Tumour, region=None, **options) -> Findings:
    return Findings((FindingGroup(0, 0, region, tumours, **options),))


def voxels(mask: torch.Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def blobs(shape, *seen: tuple[tuple[int, ...], float, float]) -> torch.Tensor:
    """Logits (1, 1, D, H, W) of p = 0.05, with balls of (centre, radius, probability)."""
    logits = flat(0.05, *shape)
    for centre, radius, probability in seen:
        logits[ball_mask(shape, centre, radius)] = logit(probability)
    return logits[None, None]


@pytest.mark.parametrize(
    ("tumour", "patch", "counts"),
    [
        (738, 64000, (590, 738, 885)),  # 11 x 10 mm raised to the ball of 11: 0.8 and 1.2 times 738
        (605, 64000, (484, 605, 726)),
        (100, 64000, (100, 100, 120)),  # up to 100 voxels the core is not shrunk
        (101, 64000, (100, 101, 121)),
        (1, 64000, (1, 1, 1)),
        (500, 60, (60, 59, 59)),  # more than the patch
        (5, 1, (1, 1, 1)),
    ],
)
def test_counts(tumour, patch, counts):
    assert selection_counts(tumour, 0.2, patch) == counts


def test_by_hand():
    """A tumour of 3 voxels in a row of 15 (p = 0.2), seen at 6, 7, 8 (0.7 0.9 0.8).

    Core 6 to 8; 3 mm around it (3 to 5, 9 to 11) are left alone; six voxels are background.
    Rank weights: d = 0.5^(1/3): 1.23780, 0.98244, 0.77976 for 0.9, 0.8, 0.7:
    (1.23780 * 0.105361 + 0.98244 * 0.223144 + 0.77976 * 0.356675) / 3 = 0.627759 / 3, background -ln 0.8 = 0.223144.
    tp 2.4, fn 0.6, fp 6 * 0.2: alpha = 2/3, dice = 1 - 2.4 / (2.4 + 0.8 + 0.2).
    """
    targets = pseudo_masks(SEEN, one(SMALL), None, UNIT)
    assert voxels(targets.core) == voxels(targets.body) == [6, 7, 8]
    assert voxels(targets.tolerated) == [3, 4, 5, 9, 10, 11]
    assert voxels(targets.penalised) == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    bce, dice = ball_loss(SEEN, one(SMALL), None, UNIT)
    assert bce.item() == pytest.approx(0.627759 / 3 + 0.223144, abs=1e-5)
    assert dice.item() == pytest.approx(1 - 2.4 / 3.4, abs=1e-5)


def test_rank_weights_can_be_left_out():
    bce, _ = ball_loss(SEEN, one(SMALL), None, UNIT, rank_concentration=None)
    assert bce.item() == pytest.approx((0.105361 + 0.223144 + 0.356675) / 3 + 0.223144, abs=1e-5)


def test_gradient_raises_the_core_lowers_the_background_and_leaves_the_rest():
    for recipe in RECIPES:
        leaf = blobs((20, 20, 20), ((9, 10, 8), 3.0, 0.6)).requires_grad_()
        tumour = one(Tumour((6.0,)))
        targets = pseudo_masks(leaf, tumour, None, UNIT, recipe=recipe)
        for loss in ball_loss(leaf, tumour, None, UNIT, recipe=recipe):
            (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            core, tolerated = targets.core[0], targets.tolerated[0]
            assert core.sum() > 80
            assert (grad[0, 0][core] < 0).all()
            assert not grad[0, 0][tolerated].any()
            assert (grad[0, 0][~core & ~tolerated] > 0).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_finds_what_is_seen(recipe):
    """Two blobs, two tumours: the larger tumour takes the larger blob, the smaller the other."""
    logits = blobs((24, 24, 24), ((7, 7, 7), 4.0, 0.8), ((17, 16, 18), 2.5, 0.7))
    targets = pseudo_masks(logits, one(Tumour((5.0,)), Tumour((8.0,))), None, UNIT, recipe=recipe)
    large, small = targets.bodies
    assert [t.tumour.largest_diameter for t in targets.tumours] == [8.0, 5.0]
    assert ball_mask((24, 24, 24), (7, 7, 7), 5.5)[large].all()
    assert ball_mask((24, 24, 24), (17, 16, 18), 4.0)[small].all()
    assert not (large & small).any()


def test_counts_follow_the_voxel_size():
    """268 mm3 are 268, 34 or 134 voxels."""
    for spacing, expected in ((UNIT, 268), ((2.0, 2.0, 2.0), 34), ((4.0, 1.0, 0.5), 134)):
        targets = pseudo_masks(random_logits(1, 1, 20, 20, 20), one(Tumour((8.0,))), None, spacing)
        assert int(targets.body.sum()) == expected


@pytest.mark.parametrize("spacing", [UNIT, (3.0, 0.8, 0.8)], ids=str)
def test_body_lies_within_the_ball_and_the_dilated_region(spacing):
    shape = (12, 20, 16)
    regions = box_mask(shape, (2, 9), (3, 12), (4, 12))[None].int()
    targets = pseudo_masks(
        random_logits(1, 1, *shape), one(Tumour((7.0,)), region=1), regions, spacing, region_margin=2.0
    )
    s_plus = torch.stack([ball_mask(shape, v, 2.0, spacing) for v in regions[0].nonzero().tolist()]).any(0)
    body = targets.body[0]
    assert body.any()
    assert not (body & ~s_plus).any()
    near = torch.stack([ball_mask(shape, v, 8.4, spacing) for v in body.nonzero().tolist()]).all(0)
    assert near.any()  # one centre reaches all of it: 7 mm * 1.2, twice a radius


def test_bodies_of_forty_tumours_are_apart():
    tumours = [Tumour((3.0 + 0.02 * n,)) for n in range(40)]
    for recipe in RECIPES:
        leaf = random_logits(1, 1, 17, 16, 18).requires_grad_()
        targets = pseudo_masks(leaf, one(*tumours), None, UNIT, recipe=recipe)
        assert len(targets.tumours) == 40
        if recipe == "paper":
            assert int(targets.bodies.sum()) == int(targets.body.sum())
        sum(ball_loss(leaf, one(*tumours), None, UNIT, recipe=recipe)).backward()
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any()


def test_larger_than_region_organ_and_patch():
    """60 mm in a patch of 10 x 9 x 8 = 720 mm3: the surest 0.8 * 719 voxels are raised, and none is lowered."""
    logits = random_logits(1, 1, 10, 9, 8)
    huge = Tumour((60.0,))
    whole = pseudo_masks(logits, one(huge), None, UNIT)
    assert int(whole.core.sum()) == 575
    assert torch.equal(whole.penalised, whole.core)
    regions = box_mask((10, 9, 8), (2, 5), (2, 5), (2, 5))[None].int()
    confined = pseudo_masks(logits, one(huge, region=1), regions, UNIT, region_margin=0.0)
    assert torch.equal(confined.core[0], regions[0].bool())
    for recipe in RECIPES:
        for loss in ball_loss(logits, one(huge, region=1), regions, UNIT, recipe=recipe):
            assert loss.isfinite()


@pytest.mark.parametrize("recipe", RECIPES)
def test_region_outside_the_crop_makes_the_plane_background(recipe):
    regions = torch.ones(1, 6, 7, 8, dtype=torch.int64)
    leaf = random_logits(1, 1, 6, 7, 8).requires_grad_()
    bce, _ = ball_loss(leaf, one(Tumour((4.0,)), region=9), regions, UNIT, recipe=recipe, placement="region")
    bce.backward()
    assert (leaf.grad > 0).all()


def test_zero_probabilities_are_placed_all_the_same():
    """Nothing is seen: the first ball of the region, all ties by index, and a gradient that raises it."""
    for recipe in RECIPES:
        leaf = torch.full((1, 1, 9, 10, 11), -1e4).requires_grad_()
        tumour = one(Tumour((4.0,)))
        targets = pseudo_masks(leaf, tumour, None, UNIT, recipe=recipe)
        assert targets.core.any()
        bce, dice = ball_loss(leaf, tumour, None, UNIT, recipe=recipe)
        assert dice.isfinite()
        bce.backward()
        core = targets.core[0]
        assert (leaf.grad[0, 0][core] < 0).all()
        assert not leaf.grad[0, 0][~core].any()


def test_unknown_size_pushes_nothing_down_inside_the_dilated_region():
    """Region columns 0 to 4, S+ to 9 (margin 5): one 5 mm tumour is raised, columns 0 to 9 are never lowered."""
    regions = box_mask((5, 5, 20), (0, 5), (0, 5), (0, 5))[None].int()
    leaf = random_logits(1, 1, 5, 5, 20).requires_grad_()
    sum(ball_loss(leaf, one(Tumour(), region=1), regions, UNIT, region_margin=5.0)).backward()
    inside, outside = leaf.grad[..., :10], leaf.grad[..., 10:]
    assert int((inside < 0).sum()) == 66  # the 66 mm3 of a 5 mm ball
    assert not (inside > 0).any()
    assert (outside > 0).all()


def test_unknown_count_raises_the_described_ones_and_lowers_nothing_else():
    regions = box_mask((5, 5, 20), (0, 5), (0, 5), (0, 5))[None].int()
    grads = []
    for count_known in (True, False):
        leaf = random_logits(1, 1, 5, 5, 20).requires_grad_()
        findings = one(Tumour((4.0,)), region=1, count_known=count_known)
        sum(ball_loss(leaf, findings, regions, UNIT, region_margin=5.0, tolerated_margin=0.0)).backward()
        grads.append(leaf.grad[0, 0])
    assert torch.equal(grads[0] < 0, grads[1] < 0)
    assert (grads[0][..., :10] > 0).any()
    assert not (grads[1][..., :10] > 0).any()
    assert (grads[1][..., 10:] > 0).all()


def test_negatives_with_and_without_a_region():
    """Without a region the plane is background; with one, that region alone is."""
    regions = box_mask((5, 5, 20), (0, 5), (0, 5), (0, 5))[None].int()
    for region, background in ((None, torch.ones(5, 5, 20)), (1, regions[0])):
        leaf = flat(0.2, 1, 1, 5, 5, 20).requires_grad_()
        bce, dice = ball_loss(leaf, one(region=region), regions, UNIT)
        assert bce.item() == pytest.approx(0.223144, abs=1e-6)  # -ln 0.8
        assert dice.item() == 0
        bce.backward()
        assert torch.equal(leaf.grad[0, 0] > 0, background.bool())
        assert not (leaf.grad < 0).any()


def test_two_groups_on_one_plane_keep_to_their_regions():
    """Two organs of one channel: each tumour is placed in its own, although both are brightest in the first."""
    shape = (8, 8, 24)
    regions = torch.zeros(1, *shape, dtype=torch.int64)
    regions[..., :8], regions[..., 16:] = 1, 2
    logits = blobs(shape, ((4, 4, 4), 3.0, 0.9), ((4, 4, 20), 2.0, 0.4))
    findings = Findings((FindingGroup(0, 0, 1, (Tumour((4.0,)),)), FindingGroup(0, 0, 2, (Tumour((4.2,)),))))
    targets = pseudo_masks(logits, findings, regions, UNIT, region_margin=0.0)
    for tumour, body in zip(targets.tumours, targets.bodies, strict=True):
        columns = body.nonzero()[:, 2]
        where = (16, 24) if tumour.group == 1 else (0, 8)
        assert ((columns >= where[0]) & (columns < where[1])).all()
    assert len(targets.tumours) == 2
    assert len(targets.sample) == 1  # one plane, trained on the union


def test_known_voxels_limit_the_background_outside_the_dilated_region():
    regions = box_mask((5, 5, 20), (0, 5), (0, 5), (0, 5))[None].int()
    known = torch.ones(1, 1, 5, 5, 20, dtype=torch.bool)
    known[..., 3:15] = False
    leaf = flat(0.2, 1, 1, 5, 5, 20).requires_grad_()
    bce, _ = ball_loss(leaf, one(SMALL, region=1), regions, UNIT, known=known, region_margin=5.0, tolerated_margin=0.0)
    bce.backward()
    touched = (leaf.grad[0, 0] != 0).any(0).any(0)
    assert voxels(touched) == [*range(10), *range(15, 20)]


def test_annotated_planes_and_no_findings_cost_nothing():
    s = scene()
    annotated = Findings(
        s.findings.groups,
        batch_size=2,
        channels=3,
        lesion_channels=(0, 1),
        annotated={(b, c) for b in (0, 1) for c in (0, 1)},
    )
    for findings in (annotated, Findings(batch_size=2, channels=3)):
        for recipe in RECIPES:
            leaf = s.logits.clone().requires_grad_()
            bce, dice = ball_loss(leaf, findings, s.regions, s.spacing, recipe=recipe)
            assert (bce.item(), dice.item()) == (0, 0)
            (bce + dice).backward()
            assert not leaf.grad.any()


def test_the_same_scene_at_two_spacings_finds_the_same_place():
    """A blob of 10 mm at (20, 24, 16) mm, on 1 mm and on 2 mm voxels."""
    centres = []
    for step in (1.0, 2.0):
        size = int(40 / step)
        at = [v / step for v in (20, 24, 16)]
        logits = torch.where(ball_mask((size,) * 3, at, 5.0, (step,) * 3), 2.0, -3.0).double()[None, None]
        body = pseudo_masks(logits, one(Tumour((10.0,))), None, (step,) * 3).body[0]
        centres.append([float(c) for c in body.nonzero().double().mean(0) * step])
        # 523.6 mm3, to half a voxel
        assert int(body.sum()) * step**3 == pytest.approx(523.6, abs=step**3 / 2)
    assert centres[0] == pytest.approx([20, 24, 16], abs=0.5)
    assert centres[1] == pytest.approx([20, 24, 16], abs=1.0)


def test_pseudo_masks_are_constants():
    leaf = random_logits(1, 1, 4, 5, 9).requires_grad_()
    targets = pseudo_masks(leaf, one(Tumour((3.0,))), None, UNIT)
    masks = (targets.penalised, targets.core, targets.tolerated)
    assert not any(mask.requires_grad for mask in masks)
    tumour = one(Tumour((3.0,)))
    assert torch.autograd.gradcheck(lambda x: ball_loss(x, tumour, None, UNIT), leaf)


def test_module_is_the_weighted_sum():
    s = scene()
    for recipe in RECIPES:
        bce, dice = ball_loss(s.logits, s.findings, s.regions, s.spacing, recipe=recipe)
        module = BallLoss(recipe, bce_weight=2.0, dice_weight=0.5)
        torch.testing.assert_close(module(s.logits, s.findings, s.regions, s.spacing), 2 * bce + 0.5 * dice)
