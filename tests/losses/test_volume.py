# SPDX-License-Identifier: Apache-2.0
"""Volume Loss: the curve, and what it is applied to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import FindingGroup, Findings, Tumour, VolumeLoss, volume_curve, volume_loss
from tests.helpers import ball_mask, box_mask, logit, scene

UNIT = (1.0, 1.0, 1.0)
volumes = st.floats(0.0, 1e6)


def curve(predicted: float, reported: float, **options) -> float:
    return volume_curve(*torch.tensor([predicted, reported], dtype=torch.float64), **options).item()


def planes(*values: float, shape=(4, 4, 4)) -> torch.Tensor:
    """Logits (1, C, D, H, W) of one probability per channel."""
    return torch.stack([torch.full(shape, logit(p), dtype=torch.float64) for p in values])[None]


def one(tumours=(), region=None, count_known=True, **options) -> Findings:
    return Findings((FindingGroup(0, 0, region, tumours, count_known),), **options)


def sized(volume: float) -> tuple[Tumour, ...]:
    return (Tumour((5.0,), volume=volume),)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (1000, 0.625),  # 1000 / 1500 - 100 / 2400
        (200, 0.262987),  # 200 / 700 - 20 / 880
        (100, 0.166667),  # 100 / 600: below 100 mm3 nothing is tolerated
        (50, 0.090909),  # 50 / 550
        (0, 0.0),
    ],
)
def test_curve_at_nothing_predicted(reported, expected):
    assert curve(0, reported) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("reported", "low", "high"),
    # high: (P - Y) / (P + Y + 500) = 1/24, 1/44, 1/20
    [(1000, 900, 1108.6957), (200, 180, 220.9302), (5000, 4500, 5552.6316), (100, 100, 100), (50, 50, 50)],
)
def test_dead_zone(reported, low, high):
    for inside in (low, (low + high) / 2, high - 1e-3 * (high > low)):
        assert curve(inside, reported) == pytest.approx(0, abs=1e-12)
    # the shallowest of these slopes is 9e-5 per mm3
    assert curve(low - 0.1, reported) > 5e-6
    assert curve(high + 0.1, reported) > 5e-6


@given(predicted=volumes, reported=volumes, other=volumes)
def test_curve_is_between_0_and_1_and_grows_with_the_error(predicted, reported, other):
    near, far = sorted((predicted, other), key=lambda p: abs(p - reported))
    assert 0 <= curve(near, reported) <= 1
    if (near - reported) * (far - reported) > 0:  # on the same side
        assert curve(near, reported) <= curve(far, reported) + 1e-12


def test_curve_with_the_published_command_line():
    """tolerance 0.2: v = 800, 1000 / 1500 - 200 / 2300."""
    assert curve(0, 1000, tolerance=0.2) == pytest.approx(1000 / 1500 - 200 / 2300)
    assert curve(800, 1000, tolerance=0.2) == 0


def test_curve_gradcheck():
    predicted = torch.tensor([0.0, 500, 950, 1200, 9e5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: volume_curve(p, torch.full_like(p, 1000)), predicted)


def test_by_hand():
    """64 voxels of 2 x 1 x 1 mm at p = 0.5: P = 64 mm3 against 1000 mm3: 936 / 1564 - 100 / 2400."""
    loss = volume_loss(planes(0.5), one(sized(1000)), None, (2.0, 1.0, 1.0))
    assert loss.item() == pytest.approx(936 / 1564 - 100 / 2400)


def test_only_the_margin_around_the_region_counts():
    """A voxel, margin 1 mm on (2, 1, 1) mm: itself and 4 neighbours in its slice, 10 mm3, of which half: 5 / 505."""
    regions = box_mask((4, 5, 5), (1, 2), (2, 3), (2, 3))[None].int()
    logits = planes(0.5, shape=(4, 5, 5))
    arguments = (logits, one(region=1), regions, (2.0, 1.0, 1.0))
    assert volume_loss(*arguments, region_margin=1.0, neighbours="share").item() == pytest.approx(5 / 505)
    # the default of 15 mm takes the whole patch: 100 voxels
    assert volume_loss(*arguments, neighbours="share").item() == pytest.approx(100 / 600)
    # by default, a negative speaks of its own region alone
    assert volume_loss(*arguments).item() == pytest.approx(1 / 501)


def test_volumes_of_a_group_add_up():
    together = one((*sized(300), *sized(200), Tumour((10.0,))))
    assert together.groups[0].volume == pytest.approx(1023.599, abs=1e-3)
    expected = curve(32, 300 + 200 + 523.5987756)
    assert volume_loss(planes(0.5), together, None, UNIT).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.5, 34 / (32 + 66 + 500)),  # 32 mm3: pulled up to 66
        (0.9999, 0),  # 64 * 0.9999, times 2 mm3: within [66, 905,000]
        (1e-9, 66 / 566),
    ],
)
def test_unknown_size_below_the_range(probability, expected):
    spacing = (2.0, 1.0, 1.0) if probability > 0.9 else UNIT
    assert volume_loss(planes(probability), one((Tumour(),)), None, spacing).item() == pytest.approx(expected, abs=1e-6)


def test_unknown_size_above_the_range():
    """64 voxels of 1 mL x 20: 1,280,000 mm3 against 905,000."""
    loss = volume_loss(planes(1 - 1e-12), one((Tumour(),)), None, (20.0, 20.0, 50.0))
    assert loss.item() == pytest.approx((1_280_000 - 905_000) / (1_280_000 + 905_000 + 500), rel=1e-6)
    inside = volume_loss(planes(0.5), one((Tumour(),)), None, (20.0, 20.0, 50.0))
    assert inside.item() == 0


@pytest.mark.parametrize(
    ("width", "probability", "expected"),
    [
        (25.0, 0.5, 100 / 2200),  # 800 mm3, 100 short of the 900 that the tolerance leaves
        (30.0, 0.5, 0),  # 960 mm3
        (25.0, 1 - 1e-12, 0),  # 1600 mm3: there may be more than is described
    ],
)
def test_unknown_count_is_at_least_what_is_described(width, probability, expected):
    multiple = one(sized(1000), count_known=False)
    assert volume_loss(planes(probability), multiple, None, (width, 1.0, 1.0)).item() == pytest.approx(expected)
    if probability > 0.9:
        assert volume_loss(planes(probability), one(sized(1000)), None, (width, 1.0, 1.0)).item() > 0.1


def test_unknown_count_and_an_unknown_size_add_up():
    """One of 1000 mm3 and one unmeasured: at least 900 + 66; 800 mm3 are 166 short."""
    findings = one((*sized(1000), Tumour()), count_known=False)
    loss = volume_loss(planes(0.5), findings, None, (25.0, 1.0, 1.0))
    assert loss.item() == pytest.approx(166 / (966 + 800 + 500))


def test_negative_pushes_to_zero():
    leaf = planes(0.5).requires_grad_()
    loss = volume_loss(leaf, one(), None, UNIT)
    assert loss.item() == pytest.approx(32 / 532)
    loss.backward()
    assert (leaf.grad > 0).all()


@pytest.mark.parametrize(("reported", "sign"), [(1000, -1), (5, 1)], ids=["too small", "too large"])
def test_gradient_moves_the_volume_towards_the_report(reported, sign):
    leaf = planes(0.5).requires_grad_()
    volume_loss(leaf, one(sized(reported)), None, UNIT).backward()
    assert (leaf.grad.sign() == sign).all()


def test_gradient_stays_inside_the_margin_and_the_plane():
    shape = (7, 9, 8)
    regions = box_mask(shape, (2, 4), (3, 5), (1, 3))[None].int()
    leaf = planes(0.5, 0.5, shape=shape).requires_grad_()
    findings = Findings((FindingGroup(0, 0, 1, sized(900)),), channels=2)
    volume_loss(leaf, findings, regions, UNIT, region_margin=2.0).backward()
    around = torch.stack([ball_mask(shape, v, 2.0) for v in regions[0].nonzero().tolist()]).any(0)
    assert torch.equal(leaf.grad[0, 0] != 0, around)
    assert not leaf.grad[0, 1].any()


def test_no_gradient_in_the_dead_zone():
    leaf = planes(0.5).requires_grad_()
    volume_loss(leaf, one(sized(950)), None, (30.0, 1.0, 1.0)).backward()  # P = 960
    assert not leaf.grad.any()


def test_several_groups_on_one_plane():
    """Two organs of one channel, each held to its own report; the loss is their mean."""
    regions = torch.zeros(1, 4, 4, 40, dtype=torch.uint8)
    regions[..., :4], regions[..., 36:] = 1, 2
    logits = planes(0.5, shape=(4, 4, 40))
    first, second = FindingGroup(0, 0, 1, sized(1000)), FindingGroup(0, 0, 2)
    arguments = (regions, UNIT)
    both = volume_loss(logits, Findings((first, second)), *arguments, region_margin=3.0)
    alone = [volume_loss(logits, Findings((g,)), *arguments, region_margin=3.0) for g in (first, second)]
    # S+ of the first is 7 columns wide: 112 voxels, P = 56; the negative keeps its 64 voxels, P = 32
    torch.testing.assert_close(torch.stack(alone).tolist(), [curve(56, 1000), 32 / 532])
    torch.testing.assert_close(both, torch.stack(alone).mean())


def test_union_of_segments_is_one_region():
    regions = torch.zeros(1, 4, 4, 4, dtype=torch.int16)
    regions[..., 0], regions[..., 1] = 1, 2
    loss = volume_loss(planes(0.5), one(region=(1, 2)), regions, UNIT, region_margin=0.0)
    assert loss.item() == pytest.approx(16 / 516)


def test_region_outside_the_crop_and_annotated_planes_take_no_part():
    regions = torch.ones(2, 4, 4, 4, dtype=torch.int64)
    logits = torch.zeros(2, 2, 4, 4, 4, dtype=torch.float64)
    seen = FindingGroup(0, 0, 1, sized(1000))
    others = (FindingGroup(0, 1, 7, sized(500)), FindingGroup(1, 1, 1, sized(500)))
    findings = Findings((seen, *others), batch_size=2, channels=2, annotated={(1, 1)})
    alone = Findings((seen,), batch_size=2, channels=2)
    leaf = logits.clone().requires_grad_()
    loss = volume_loss(leaf, findings, regions, UNIT)
    assert loss.item() == volume_loss(logits, alone, regions, UNIT).item() == curve(32, 1000)
    loss.backward()
    assert not leaf.grad[0, 1].any()
    assert not leaf.grad[1].any()


def test_forty_tumours_in_one_sample():
    findings = one(tuple(Tumour((3.0 + 0.1 * n,)) for n in range(40)))
    total = sum(0.5235987756 * (3 + 0.1 * n) ** 3 for n in range(40))
    assert volume_loss(planes(0.5), findings, None, (3.0, 4.0, 5.0)).item() == pytest.approx(curve(32 * 60, total))


def test_the_same_scene_at_two_spacings():
    """A soft ball of 20 mm, sampled at 1 and at 2 mm: the volumes differ by discretisation alone."""
    losses = []
    for step in (1.0, 2.0):
        size = int(40 / step)
        middle = (size - 1) / 2
        axis = (torch.arange(size, dtype=torch.float64) - middle) * step
        distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
        logits = (10 - distance)[None, None]
        losses.append(volume_loss(logits, one(sized(9000)), None, (step,) * 3).item())
    assert losses[0] > 0.2
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_module_is_the_function():
    s = scene()
    for recipe in ("paper", "rsuper"):
        module = VolumeLoss(recipe, tolerance=0.2, region_margin=2.0)
        expected = volume_loss(
            s.logits, s.findings, s.regions, s.spacing, recipe=recipe, tolerance=0.2, region_margin=2.0
        )
        assert module(s.logits, s.findings, s.regions, s.spacing).item() == expected.item() > 0


def test_id_that_the_label_map_cannot_hold_is_not_in_the_crop():
    """300 is 44 in eight bits; the organ 44 must not stand for it."""
    regions = torch.full((1, 4, 4, 4), 44, dtype=torch.uint8)
    assert volume_loss(planes(0.5), one(region=300), regions, UNIT).item() == 0
    assert volume_loss(planes(0.5), one(region=44), regions, UNIT).item() > 0
