# SPDX-License-Identifier: Apache-2.0
"""What holds for every report loss: invariances, dtypes, layouts, degenerate input, and what is refused."""

import math

import pytest
import torch

from rsuper_kernels import (
    BackendError,
    FindingGroup,
    Findings,
    ReportSupervisedLoss,
    Tumour,
    attenuation_loss,
    ball_loss,
    volume_loss,
)
from tests.helpers import AXIS_ORDERS, LAYOUTS, LOW_PRECISION, permuted, random_logits, scene, value_and_grad

RECIPES = ("paper", "rsuper")


def volume(s, **options):
    return volume_loss(s.logits, s.findings, s.regions, s.spacing, **options)


def ball_bce(s, **options):
    return ball_loss(s.logits, s.findings, s.regions, s.spacing, **options)[0]


def ball_dice(s, **options):
    return ball_loss(s.logits, s.findings, s.regions, s.spacing, **options)[1]


def attenuation(s, **options):
    options = {"attenuation_delta": 20.0, **options}
    return attenuation_loss(s.logits, s.ct, s.findings, s.regions, s.spacing, **options)


def report(s, **options):
    options = {"attenuation_delta": 20.0, **options}
    criterion = ReportSupervisedLoss(report_weight=1.0, attenuation_weight=1.0, **options)
    return criterion(s.logits, s.findings, s.regions, s.spacing, ct=s.ct, labels=s.labels)["total"]


LOSSES = {"volume": volume, "ball_bce": ball_bce, "ball_dice": ball_dice, "attenuation": attenuation, "report": report}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request):
    return request.param


@pytest.fixture(params=RECIPES)
def recipe(request):
    return request.param


def of_logits(loss, s, **options):
    return lambda x: loss(s.with_(logits=x), **options)


@pytest.mark.parametrize("order", AXIS_ORDERS, ids=str)
def test_permuted_axes_with_permuted_spacing_agree(loss, order):
    s = scene()
    moved = s.with_(
        **{name: permuted(getattr(s, name), order) for name in ("logits", "regions", "ct", "labels")},
        spacing=tuple(s.spacing[axis] for axis in order),
    )
    value, grad = value_and_grad(of_logits(loss, s, region_margin=3.0), s.logits)
    other, other_grad = value_and_grad(of_logits(loss, moved, region_margin=3.0), moved.logits)
    assert value.item() > 0
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_grad, permuted(grad, order))


def test_flipped_scenes_agree(loss):
    s = scene()
    flipped = s.with_(**{name: getattr(s, name).flip(-1, -3) for name in ("logits", "regions", "ct", "labels")})
    torch.testing.assert_close(loss(flipped), loss(s))


@pytest.mark.parametrize("name", ["volume", "ball_bce"])
def test_a_batch_is_the_mean_of_its_samples(name):
    """Weighted by how many groups, or planes, each sample has."""
    s = scene()
    together, parts = LOSSES[name](s, region_margin=3.0), []
    for sample in range(2):
        own = [g for g in s.findings.groups if g.sample == sample]
        findings = Findings([FindingGroup(0, g.channel, g.region, g.tumours) for g in own], channels=3)
        one = slice(sample, sample + 1)
        part = s.with_(logits=s.logits[one], regions=s.regions[one], findings=findings)
        count = len(own) if name == "volume" else len(findings.planes())
        parts.append((count, LOSSES[name](part, region_margin=3.0)))
    expected = sum(count * value for count, value in parts) / sum(count for count, _ in parts)
    torch.testing.assert_close(together, expected)


def test_label_map_and_masks_agree(loss, recipe):
    """One group per plane, its region as ids of a label map or as a mask (B, C, D, H, W)."""
    s = scene()
    groups = [g for g in s.findings.groups if g.region != (2,)]
    masks = torch.zeros(2, 3, *s.regions.shape[1:], dtype=torch.bool)
    for g in groups:
        masks[g.sample, g.channel] = torch.isin(s.regions[g.sample], torch.tensor(g.region or (0, 1, 2)))
    unplaced = [FindingGroup(g.sample, g.channel, None, g.tumours) for g in groups]
    by_ids = s.with_(findings=Findings(groups, batch_size=2, channels=3, lesion_channels=(0, 1)))
    by_masks = by_ids.with_(
        findings=Findings(unplaced, batch_size=2, channels=3, lesion_channels=(0, 1)), regions=masks
    )
    assert loss(by_ids, recipe=recipe).item() > 0
    # negatives of a region and of the whole patch differ in what the ball loss lowers outside of it
    if loss is volume or loss is attenuation:
        assert torch.equal(loss(by_ids, recipe=recipe), loss(by_masks, recipe=recipe))
    positive = [g for g in groups if not g.negative]
    by_ids = s.with_(findings=Findings(positive, batch_size=2, channels=3, lesion_channels=(0, 1)))
    unplaced = [FindingGroup(g.sample, g.channel, None, g.tumours) for g in positive]
    by_masks = by_masks.with_(findings=Findings(unplaced, batch_size=2, channels=3, lesion_channels=(0, 1)))
    assert torch.equal(loss(by_ids, recipe=recipe), loss(by_masks, recipe=recipe))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(loss, recipe, layout):
    s = scene()
    laid = s.with_(**{name: layout(getattr(s, name)) for name in ("logits", "regions", "ct", "labels")})
    value, grad = value_and_grad(of_logits(loss, s, recipe=recipe), s.logits)
    got, got_grad = value_and_grad(of_logits(loss, laid, recipe=recipe), laid.logits)
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_grad, grad)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(loss, recipe, dtype):
    """Loss in float32, gradient in the dtype of the logits, both those of the rounded logits in float64."""
    s = scene()
    rounded = s.logits.to(dtype)
    value, grad = value_and_grad(of_logits(loss, s, recipe=recipe), rounded)
    truth, true_grad = value_and_grad(of_logits(loss, s, recipe=recipe), rounded.double())
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-6)
    # rounded once to `dtype`; float16 also loses what is below its smallest step. Of several losses each gradient is
    # rounded, and torch adds them in `dtype`: where they cancel, the error is that of the terms
    info = torch.finfo(dtype)
    relative = info.eps if loss is report else 1e-5
    atol = relative * float(true_grad.abs().max()) + info.smallest_normal * info.eps
    torch.testing.assert_close(grad.double(), true_grad, rtol=info.eps, atol=atol)


def test_deterministic_and_leaves_its_inputs_alone(loss, recipe):
    s = scene(dtype=torch.float32)
    before = {name: getattr(s, name).clone() for name in ("logits", "regions", "ct", "labels")}
    first, second = (value_and_grad(of_logits(loss, s, recipe=recipe), s.logits) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(getattr(s, name), value) for name, value in before.items())


@pytest.mark.parametrize("size", [60.0, 1e4])
@pytest.mark.parametrize("which", ["all one", "all zero", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_extreme_logits(loss, recipe, size, which, dtype):
    s = scene(dtype=torch.float32)
    signs = {"all one": torch.ones_like(s.logits), "all zero": -torch.ones_like(s.logits), "mixed": s.logits.sign()}
    value, grad = value_and_grad(of_logits(loss, s, recipe=recipe), (signs[which] * size).to(dtype))
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 6, 5), (6, 1, 5), (6, 5, 1), (1, 1, 7), (1, 1, 1)], ids=str)
def test_one_voxel_axes(loss, recipe, shape):
    s = scene()
    small = s.with_(
        logits=random_logits(2, 3, *shape),
        regions=torch.ones(2, *shape, dtype=torch.int64),
        ct=random_logits(2, 1, *shape, scale=40),
        labels=torch.ones(2, 3, *shape),
    )
    value, grad = value_and_grad(of_logits(loss, small, recipe=recipe), small.logits)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_no_findings(recipe):
    s = scene().with_(findings=Findings(batch_size=2, channels=3))
    for name in ("volume", "ball_bce", "ball_dice", "attenuation"):
        value, grad = value_and_grad(of_logits(LOSSES[name], s, recipe=recipe), s.logits)
        assert value.item() == 0
        assert not grad.any()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"logits": torch.ones(2, 3, 9, 14, 11).int()},
            TypeError,
            ": expected a floating-point tensor .* got torch.int32",
        ),
        ({"logits": torch.ones(3, 9, 14, 11)}, ValueError, r": expected \(B, C, D, H, W\), got shape \(3, 9, 14, 11\)"),
        (
            {"logits": torch.ones(2, 4, 9, 14, 11)},
            ValueError,
            r": the findings are for \(B, C\) = \(2, 3\), got shape \(2, 4,",
        ),
        ({"regions": torch.ones(2, 9, 14, 12).int()}, ValueError, r"regions: expected a label map .*\(2, 9, 14, 12\)"),
        (
            {"regions": torch.ones(2, 1, 9, 14, 11)},
            ValueError,
            r"regions: expected masks .*, got shape \(2, 1, 9, 14, 11\)",
        ),
        ({"regions": torch.ones(2, 9, 14, 11)}, TypeError, "regions: expected an integer tensor, got torch.float32"),
        (
            {"regions": torch.ones(2, 9, 14, 11).bool()},
            TypeError,
            "regions: expected an integer tensor, got torch.bool",
        ),
        (
            {"regions": torch.ones(2, 3, 9, 14, 11)},
            ValueError,
            r"groups\[\d\] \(sample \d, lesion .\): it names label ids, but",
        ),
        (
            {"regions": None},
            ValueError,
            r"groups\[\d\] \(sample \d, lesion .\): it names label ids \(.*\), but regions is None",
        ),
        (
            {"regions": torch.ones(2, 9, 14, 11, device="meta").int()},
            ValueError,
            r"regions: .* logits \(cpu\), got meta",
        ),
        (
            {"spacing": (1.0, 0.0, 1.0)},
            ValueError,
            r"spacing: expected three positive numbers .* got \(1.0, 0.0, 1.0\)",
        ),
        ({"spacing": 1.0}, ValueError, "spacing: expected three positive numbers .* got 1.0"),
        ({"spacing": (1.0, 1.0, math.nan)}, ValueError, "spacing: expected three positive numbers"),
    ],
    ids=[
        "logits dtype",
        "logits axes",
        "logits channels",
        "regions shape",
        "masks shape",
        "regions float",
        "regions bool",
        "masks with ids",
        "no regions",
        "regions device",
        "zero spacing",
        "one spacing",
        "NaN spacing",
    ],
)
def test_refusals(loss, changes, error, message):
    name = r"(logits|heads\[0\])" if "logits" in changes else ""
    # a group that the attenuation loss listens to names its region too
    with pytest.raises(error, match=name + message):
        loss(scene().with_(**changes))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recipe": "best"}, ValueError, "recipe: expected one of paper, rsuper or a Recipe, got 'best'"),
        ({"tolerance": 1.5}, ValueError, r"tolerance: expected a number in \[0, 1\), got 1.5"),
        ({"margins": 1}, TypeError, "unknown option 'margins'; the options of a recipe are"),
        ({"impl": "triton"}, BackendError, 'impl="triton" cannot run: '),
        ({"impl": "fastest"}, ValueError, "impl: expected one of auto, cuda, triton, cpu, reference, got 'fastest'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_option_refusals(loss, options, error, message):
    with pytest.raises(error, match=message):
        loss(scene(), **options)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_check_names_sample_and_channel(loss, bad):
    s = scene()
    s.logits[1, 1, 4, 5, 6] = bad
    message = r"(logits|heads\[0\]): NaN or infinity in sample 1, lesion b$"
    with pytest.raises(ValueError, match=message):
        loss(s, check=True)
    s.logits[0, 2, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in sample 0, organ, and 1 more$"):
        loss(s, check=True)
    assert loss(scene(), check=True).isfinite()


def test_findings_of_another_batch_are_refused(loss):
    s = scene()
    with pytest.raises(ValueError, match=r"the findings are for \(B, C\) = \(5, 3\), got shape \(2, 3, 9, 14, 11\)"):
        loss(s.with_(findings=Findings((FindingGroup(4, 0, 1, (Tumour((5.0,)),)),), batch_size=5, channels=3)))


def test_known_is_checked():
    s = scene()
    with pytest.raises(ValueError, match=r"known: expected .* = \(2, 3, 9, 14, 11\), got shape \(2, 9, 14, 11\)"):
        ball_bce(s, known=torch.ones(2, 9, 14, 11))
    with pytest.raises(ValueError, match=r"known: expected on the device of logits \(cpu\), got meta"):
        ball_bce(s, known=torch.ones(2, 3, 9, 14, 11, device="meta"))
