# SPDX-License-Identifier: Apache-2.0
"""Every op on a GPU, with each backend there, against the reference on the CPU in float64."""

from __future__ import annotations

import pytest
import torch

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.geometry import ball_element, cascade_element, growth_radii
from rsuper_kernels.ops.attenuation_stats import attenuation_stats
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_select import ball_select, foreground_weights, rank_weights
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, combine
from rsuper_kernels.ops.curves import bce_dice, volume
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import AttenuationStats, BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks, unpack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls
from rsuper_kernels.ops.region_sums import region_sums
from tests.helpers import LAYOUTS
from tests.ops.test_backends import FLOATS, compact, noise, outcome, probabilities

SHAPE = (3, 5, 70)
IMPLS = ["auto", "cuda", "triton", "reference"]
impls = pytest.mark.parametrize("impl", IMPLS)


def serving(op: str, impl: str, dtype: torch.dtype = torch.float32) -> str:
    """`impl`, or a skipped test where it does not serve this op."""
    if impl != "auto":
        reason = dispatch.refusal(op, impl, torch.device("cuda:0"), dtype)
        if reason is not None:
            pytest.skip(reason)
    return impl


def bits(masks: BitMasks, device: str) -> BitMasks:
    return BitMasks(masks.words.to(device), masks.width)


def close(function, logits: torch.Tensor, impl: str, atol: float = 1e-13) -> None:
    """Value and gradient of `function(logits, device, impl)`; in low precision, one rounding of the gradient."""
    ours = outcome(lambda x: function(x, "cuda", impl), [logits.to("cuda")], 0)
    truth = outcome(lambda x: function(x, "cpu", "reference"), [logits.double()], 0)
    assert ours[1].dtype == logits.dtype
    torch.testing.assert_close(ours[0].cpu().double(), truth[0], rtol=2e-6, atol=atol)
    info, expected = torch.finfo(logits.dtype), truth[1]
    rounding = 0 if logits.dtype == torch.float32 else info.eps
    allowed = 2e-6 * expected.abs().max() + rounding * expected.abs() + info.smallest_normal * info.eps + atol
    assert ((ours[1].cpu().double() - expected).abs() <= allowed).all()


def equal(function, impl: str) -> None:
    """What `function(device, impl)` gives, bit for bit."""
    for ours, truth in zip(function("cuda", impl), function("cpu", "reference"), strict=True):
        assert ours.is_cuda
        assert torch.equal(ours.cpu(), truth)


@impls
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_loss_sums(impl, dtype, layout):
    if layout is not None and dtype != torch.float32:
        pytest.skip("layouts in float32")
    serving("loss_sums", impl, dtype)
    logits, ct = (2 * noise(0, 2, 3, *SHAPE)).to(dtype), 40 + 20 * noise(1, 2, *SHAPE)
    masks = [noise(seed, 3, *SHAPE) > 0 for seed in (2, 3)]
    weights = compact(masks[0], 4)
    targets, known = (pack_masks(mask, impl="reference") for mask in masks)

    def function(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        here = [bits(targets, device), bits(known, device)]
        planes = ([0, 1, 1], [1, 2, 0])
        terms = [
            RegionSums(here[0], *planes),
            BceDice(*here, *planes, weights.to(device, x.dtype if x.dtype == torch.float64 else torch.float32)),
            BceDice(here[1], here[0], *planes),
            AttenuationStats(ct.to(device), *here, *planes, (-30.0, 90.0)),
        ]
        x = LAYOUTS[layout](x) if layout else x
        return torch.cat([part.flatten() for part in loss_sums(x, terms, impl=impl)])

    close(function, logits, impl, atol=1e-6 * 100)


@impls
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rooms_of_sums(impl, dtype):
    """What the joint op does in one pass, room by room."""
    logits, ct, masks = (2 * noise(0, 2, 2, *SHAPE)).to(dtype), 40 + 20 * noise(1, 2, *SHAPE), noise(2, 2, *SHAPE) > 0
    planes = {"sample": [0, 1], "channel": [1, 0]}

    def region(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        return region_sums(x, masks.to(device), *planes.values(), impl=impl)

    def entropy(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        return masked_bce_dice(x, masks.to(device), ~masks.to(device), **planes, impl=impl)

    def attenuation(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        return attenuation_stats(ct.to(device), x, masks.to(device), masks.to(device), *planes.values(), impl=impl)

    for op, function in {
        "region_sums": region,
        "masked_bce_dice": entropy,
        "attenuation_stats": attenuation,
    }.items():
        if impl in ("cuda", "triton") and dispatch.refusal(op, impl, torch.device("cuda:0"), dtype) is not None:
            continue
        close(function, logits, impl, atol=1e-4)


@impls
def test_bits(impl):
    serving("pack_masks", impl, torch.uint8)
    masks, labels = noise(0, 3, *SHAPE) > 0.5, noise(1, 2, *SHAPE).abs().mul(2).to(torch.uint8)

    def function(device: str, impl: str):
        packed = pack_masks(masks.to(device), [[0, 2], [], [1]], impl=impl)
        yield packed.words
        yield pack_labels(labels.to(device), [0, 1, 1], [[1], [0, 2], [257]], impl=impl).words
        yield unpack_masks(packed, impl=impl)
        yield (packed & packed.complement()).words

    equal(function, impl)


@impls
@pytest.mark.parametrize("element", [ball_element(4.5, (3.0, 0.8, 0.8)), cascade_element(7)], ids=["ball", "cascade"])
def test_dilate(impl, element):
    serving("dilate", impl)
    masks = pack_masks(noise(0, 2, *SHAPE) > 2, impl="reference")
    equal(lambda device, impl: [dilate(bits(masks, device), element, impl=impl).words], impl)


@impls
@pytest.mark.parametrize("kind", ["noise", "flat", "zero"])
def test_search_and_select(impl, kind):
    probability, available = probabilities(kind, 0, SHAPE), noise(1, 1, *SHAPE) > -1
    spacing, diameter = (1.0, 1.0, 1.0), 5.0

    def select(device: str, impl: str):
        here = (probability.to(device), available.to(device))
        centre = torch.tensor([500]).to(device)
        radii = [growth_radii(diameter, 0.2, SHAPE, spacing)]
        selected = ball_select(*here, centre, radii, [60], [(30, 60, 90)], spacing, impl=impl)
        yield selected
        yield rank_weights(here[0], selected[:, 1], [200], impl=impl)

    if impl not in ("cuda", "triton") or not dispatch.refusal("ball_search", impl, torch.device("cuda:0")):
        equal(
            lambda device, impl: [
                ball_search(probability.to(device), available.to(device), [diameter], spacing, impl=impl)[0]
            ],
            impl,
        )
    if impl not in ("cuda", "triton") or not dispatch.refusal("ball_select", impl, torch.device("cuda:0")):
        equal(select, impl)


@impls
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_place_balls(impl, dtype):
    serving("place_balls", impl, dtype)
    logits = (2 * noise(0, 2, 2, *SHAPE)).to(dtype)
    masks = pack_masks(noise(1, 2, *SHAPE) > -0.5, impl="reference")
    radii = tuple(growth_radii(5.0, 0.2, SHAPE, (1.0, 1.0, 1.0)))
    balls = [[Ball(0, 5.0, radii, 60, (30, 60, 90)), Ball(1, 3.0, radii, 14, (14, 14, 20))], []]
    planes = ([0, 1], [1, 0])

    def function(device: str, impl: str):
        placed = place_balls(logits.to(device), bits(masks, device), *planes, balls, impl=impl)
        return [getattr(placed, name).words for name in ("core", "body", "ring", "bodies")]

    equal(function, impl)


@impls
def test_foreground_weights(impl):
    serving("foreground_weights", impl)
    logits, masks = 2 * noise(0, 2, 2, *SHAPE), pack_masks(noise(1, 2, *SHAPE) > 1, impl="reference")
    weights = [
        foreground_weights(logits.to(device), bits(masks, device), [0, 1], [1, 0], [400, 400], impl=how).cpu()
        for device, how in (("cuda", impl), ("cpu", "reference"))
    ]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=0)


@impls
def test_combine(impl):
    serving("combine", impl)
    masks = pack_masks(noise(0, 3, *SHAPE) > 0, impl="reference")
    outputs = [[], [(OR, ALL), (MINUS, 2)], [(OR, 0), (AND, 3)], [(OR, 4), (OR, 1)]]

    def function(device: str, impl: str):
        here = bits(masks, device)
        return [combine([here[[0]], here[[1, 2]]], outputs, impl=impl).words]

    equal(function, impl)


@impls
def test_curves(impl):
    serving("volume", impl)
    sums = 100 * noise(0, 2, 3, 6).abs()

    def volumes(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        options = {"voxel": 1.5, "most": 5e4, "tolerance": 0.1, "smoothing": 500.0, "impl": impl}
        return volume(x.flatten(0, 1)[:, :2], [200.0] * 6, [50.0] * 6, [False, True] * 3, **options).view(1)

    def entropies(x: torch.Tensor, device: str, impl: str) -> torch.Tensor:
        return torch.stack(bce_dice(x, [0.5] * 6, [0.25] * 6, voxels=1000, impl=impl))

    for function in (volumes, entropies):
        results = []
        for x, device, how in ((sums.cuda(), "cuda", impl), (sums.double(), "cpu", "reference")):
            results.append([one.cpu().double() for one in outcome(lambda y: function(y, device, how), [x], 0)])  # noqa: B023
        for ours, truth in zip(*results, strict=True):
            torch.testing.assert_close(ours, truth, rtol=2e-5, atol=1e-6)
