# SPDX-License-Identifier: Apache-2.0
"""Every backend that works here against the reference, on inputs that hypothesis draws.

The truth is the reference in float64 on the same numbers. Sums may be off by float32 rounding (2e-6 relative),
gradients by 2e-6 of the largest and one rounding to their dtype. Masks, centres and dilations must be equal.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsuper_kernels import dispatch
from rsuper_kernels.geometry import ball_element, ball_voxels, cascade_element, growth_radii
from rsuper_kernels.ops.attenuation_stats import attenuation_stats
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_select import ball_select, rank_weights
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.loss_sums import AttenuationStats, BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls
from rsuper_kernels.ops.region_sums import region_sums

CPU = torch.device("cpu")
BACKENDS = [
    (op, impl)
    for op in dispatch.ops()
    for impl in dispatch.IMPLEMENTATIONS
    if impl != "reference" and dispatch.refusal(op, impl, CPU) is None
]
SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (1.0, 2.0, 0.5)]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def backends(op: str) -> pytest.MarkDecorator:
    """Run a test with every backend of `op` that works here."""
    return pytest.mark.parametrize(
        "impl",
        [impl for name, impl in BACKENDS if name == op]
        or [pytest.param(None, marks=pytest.mark.skip("no backend beside the reference works here"))],
    )


shapes = st.tuples(*[st.sampled_from([1, 2, 5, 9, 17, 33, 70])] * 3)
seeds = st.integers(0, 2**31 - 1)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def strided(tensor: torch.Tensor, turned: bool) -> torch.Tensor:
    """The same numbers, with the last two axes swapped in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if turned else tensor


def outcome(function, inputs: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """What a function returns, and its gradients for a random grad_output."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, noise(seed, *out.shape).to(out))]


def compare(impl: str, function, inputs: list[torch.Tensor], seed: int, atol: float = 1e-30) -> None:
    """Hold a backend against the reference in float64."""
    ours = outcome(lambda *leaves: function(*leaves, impl=impl), inputs, seed)
    truth = outcome(lambda *leaves: function(*leaves, impl="reference"), [x.double() for x in inputs], seed)
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=2e-6, atol=atol)
    for gradient, expected, leaf in zip(ours[1:], truth[1:], inputs, strict=True):
        assert gradient.dtype == leaf.dtype
        rounding = 0 if leaf.dtype == torch.float32 else torch.finfo(leaf.dtype).eps
        smallest = torch.finfo(leaf.dtype).smallest_normal * torch.finfo(leaf.dtype).eps
        allowed = 2e-6 * expected.abs().max() + rounding * expected.abs() + smallest + atol
        assert ((gradient.double() - expected).abs() <= allowed).all()


@backends("region_sums")
@given(seed=seeds, shape=shapes, dtype=st.sampled_from(FLOATS), turned=st.booleans(), by_labels=st.booleans())
def test_region_sums(impl, seed, shape, dtype, turned, by_labels):
    logits = strided((5 * noise(seed, 2, 3, *shape)).to(dtype), turned)
    sample, channel = [0, 1, 1, 0], [0, 2, 2, 1]
    if by_labels:
        # 257 and 256 are 1 and 0 to whoever forgets that a uint8 cannot hold them
        regions, ids = noise(seed + 1, 2, *shape).abs().mul(2).to(torch.uint8), [[1], [0, 2], [7, 257, -256], []]
    else:
        regions, ids = noise(seed + 1, 4, *shape) > 0.5, None
    compare(impl, lambda x, impl: region_sums(x, regions, sample, channel, ids, impl=impl), [logits], seed)


@backends("masked_bce_dice")
@given(
    seed=seeds,
    shape=shapes,
    dtype=st.sampled_from(FLOATS),
    turned=st.booleans(),
    weighted=st.booleans(),
    activation=st.sampled_from(["sigmoid", "identity"]),
)
def test_masked_bce_dice(impl, seed, shape, dtype, turned, weighted, activation):
    logits = strided((8 * noise(seed, 2, 2, *shape)).to(dtype), turned)
    if activation == "identity":
        # probabilities that are neither 0 nor 1 in half precision, where slopes overflow
        logits = logits.sigmoid().clamp(0.05, 0.95)
    targets, known = noise(seed + 1, *logits.shape) > 0, noise(seed + 2, *logits.shape) > -0.3
    weights = noise(seed + 3, *logits.shape).abs() if weighted else None
    compare(
        impl,
        lambda x, impl: masked_bce_dice(x, targets, known, weights, activation=activation, impl=impl),
        [logits],
        seed,
        # 1 - p of a float32 probability carries the rounding of 1
        atol=1e-6 if activation == "identity" else 1e-30,
    )


@backends("attenuation_stats")
@given(seed=seeds, shape=shapes, turned=st.booleans(), centre=st.sampled_from([0.0, 40.0, 1000.0]))
def test_attenuation_stats(impl, seed, shape, turned, centre):
    logits = strided(2 * noise(seed, 2, 2, *shape), turned)
    ct = centre + 20 * noise(seed + 1, 2, *shape)
    tumour, organ = noise(seed + 2, 3, *shape) > 0, noise(seed + 3, 3, *shape).abs()
    # sds and means are known to float32 rounding of the CT's size
    compare(
        impl,
        lambda x, o, impl: attenuation_stats(ct.to(x.dtype), x, tumour, o, [0, 1, 1], [1, 0, 0], impl=impl),
        [logits, organ],
        seed,
        atol=1e-6 * (centre + 60),
    )


KINDS_OF_CHUNKS = ["noise", "background", "unknown", "targets", "thirds"]


def targets_and_known(kind: str, seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, everywhere known background, nowhere known, everywhere known target, or the first three by thirds."""
    targets, known = noise(seed, 3, *shape) > 0.5, noise(seed + 1, 3, *shape) > -0.3
    if kind == "thirds":
        third = targets[0].numel() // 3
        for masks, value in ((targets, False), (known, True)):
            masks.flatten(1)[:, :third] = value
        known.flatten(1)[:, third : 2 * third] = False
    elif kind != "noise":
        targets, known = torch.full_like(targets, kind == "targets"), torch.full_like(known, kind != "unknown")
    return targets, known


def compact(targets: torch.Tensor, seed: int) -> torch.Tensor:
    """A weight for each target voxel of a group, and one to spare."""
    return noise(seed, len(targets), int(targets.flatten(1).sum(1).max()) + 1).abs()


# rows of a part of a word, of whole words, of both, and longer than a chunk of 2048 voxels
rows_and_widths = st.tuples(*[st.sampled_from([1, 2, 5, 17])] * 2, st.sampled_from([1, 5, 63, 64, 65, 96, 130]))
long_rows = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 3]), st.sampled_from([2049, 4160]))
activations = st.sampled_from(["sigmoid", "identity"])


@backends("loss_sums")
@given(
    seed=seeds,
    shape=rows_and_widths | long_rows,
    dtype=st.sampled_from(FLOATS),
    turned=st.booleans(),
    kind=st.sampled_from(KINDS_OF_CHUNKS),
    weighted=st.booleans(),
    activation=activations,
    scale=st.sampled_from([1.0, 8.0, 100.0, 1e4]),
)
@settings(max_examples=60)
def test_loss_sums(impl, seed, shape, dtype, turned, kind, weighted, activation, scale):
    logits = (scale * noise(seed, 2, 3, *shape).clamp(-1, 1)).to(dtype)
    if activation == "identity":
        logits = logits.sigmoid().clamp(0.05, 0.95)
    targets, known = targets_and_known(kind, seed + 1, shape)
    regions = pack_masks(noise(seed + 3, 2, *shape) > 0.5)
    packed = pack_masks(targets), pack_masks(known)
    weights = compact(targets, seed + 4) if weighted else None
    # plane (1, 2) serves all terms, planes (0, 2) and (1, 1) none
    terms = [RegionSums(regions, [1, 0], [2, 0]), BceDice(*packed, [0, 1, 1], [1, 2, 0], weights)]
    terms.append(BceDice(packed[0].complement(), packed[1], [1, 1, 0], [2, 2, 0]))
    compare(
        impl,
        lambda x, impl: torch.cat([part.flatten() for part in loss_sums(x, terms, activation=activation, impl=impl)]),
        [strided(logits, turned)],
        seed,
        # 1 - p of a float32 probability carries the rounding of 1; exp(-|x|) loses relative digits beyond |x| = 30
        atol=1e-6 if activation == "identity" else 1e-13,
    )


@backends("loss_sums")
@given(
    seed=seeds,
    # dozens of voxels: of one or two, the sd is what rounding leaves of squares that cancel
    shape=st.tuples(st.sampled_from([5, 17]), st.sampled_from([9, 17]), st.sampled_from([1, 5, 63, 64, 65, 130]))
    | long_rows,
    dtype=st.sampled_from(FLOATS),
    turned=st.booleans(),
    activation=activations,
    centre=st.sampled_from([0.0, 40.0, 1000.0]),
    window=st.sampled_from([(-30.0, 50.0), (-1000.0, 1010.0)]),
)
def test_loss_sums_with_ct(impl, seed, shape, dtype, turned, activation, centre, window):
    logits = (2 * noise(seed, 2, 2, *shape)).to(dtype)
    logits = logits if activation == "sigmoid" else logits.sigmoid()
    ct = strided(centre + 20 * noise(seed + 1, 2, *shape), turned)
    tumour, organ = (pack_masks(noise(seed + i, 3, *shape) > 0) for i in (2, 3))
    planes = ([0, 1, 1], [1, 0, 0])
    terms = [RegionSums(organ, *planes), AttenuationStats(ct, tumour, organ, *planes, window)]
    compare(
        impl,
        lambda x, impl: torch.cat([part.flatten() for part in loss_sums(x, terms, activation=activation, impl=impl)]),
        [strided(logits, turned)],
        seed,
        # as in test_attenuation_stats
        atol=1e-6 * (centre + 60),
    )


def test_small_sd_on_large_numbers():
    """1000 HU with an sd of 1 keep both to 1e-3."""
    ct = 1000 + noise(0, 1, 20, 20, 20)
    everywhere = torch.ones(1, 20, 20, 20)
    for _, impl in [pair for pair in BACKENDS if pair[0] == "attenuation_stats"]:
        stats = attenuation_stats(ct, torch.full((1, 1, 20, 20, 20), 30.0), everywhere, everywhere, [0], [0], impl=impl)
        assert stats[0, 0, 1].item() == pytest.approx(ct.double().mean().item(), abs=1e-3)
        assert stats[0, 0, 2].item() == pytest.approx(ct.double().std(correction=0).item(), abs=1e-3)


@backends("dilate")
@given(seed=seeds, shape=shapes, spacing=st.sampled_from(SPACINGS), radius=st.sampled_from([0.0, 1.0, 4.5, 20.0]))
def test_dilate(impl, seed, shape, spacing, radius):
    mask = noise(seed, 2, *shape) > 2
    for element in (ball_element(radius, spacing), cascade_element(2 * int(radius) + 1)):
        assert torch.equal(dilate(mask, element, impl=impl), dilate(mask, element, impl="reference"))


KINDS = ["noise", "sparse", "flat", "faint", "blob", "zero"]


def probabilities(kind: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    values = noise(seed, 1, *shape).sigmoid()
    if kind == "sparse":
        return values * (values > 0.95)
    if kind == "faint":
        return values * 1e-20
    if kind == "blob":
        axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in shape], indexing="ij")
        return 0.9 * torch.exp(-8 * sum((axis - 0.2) ** 2 for axis in axes))[None] + 0.01 * values
    return {"noise": values, "flat": torch.full_like(values, 0.5), "zero": torch.zeros_like(values)}[kind]


@backends("ball_search")
@given(
    seed=seeds,
    shape=st.tuples(*[st.sampled_from([1, 3, 9, 17, 24])] * 3),
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from(SPACINGS),
    diameter=st.sampled_from([1.0, 2.0, 5.0, 7.5, 11.0, 33.0]),
    sigma=st.sampled_from([1.5, 0.5, None]),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_ball_search(impl, seed, shape, kind, spacing, diameter, sigma, share):
    probability = probabilities(kind, seed, shape)
    available = noise(seed + 1, 1, *shape).sigmoid() <= share
    arguments = (probability, available, [diameter], spacing)
    centre, score = ball_search(*arguments, sigma=sigma, impl=impl)
    expected_centre, expected_score = ball_search(*arguments, sigma=sigma, impl="reference")
    assert torch.equal(centre, expected_centre)
    torch.testing.assert_close(score, expected_score, rtol=1e-6, atol=0)


@pytest.mark.slow  # half a minute: ten thousand searches, each against the reference's FFT
@backends("ball_search")
def test_ten_thousand_placements(impl):
    draw = random.Random(0)
    for seed in range(10_000):
        shape = tuple(draw.choice([1, 3, 7, 12, 17, 20]) for _ in range(3))
        probability = probabilities(draw.choice(KINDS), seed, shape)
        available = noise(seed + 1, 1, *shape).sigmoid() <= draw.choice([0.05, 0.5, 1.0])
        arguments = (probability, available, [draw.choice([1.0, 3.0, 5.0, 8.5, 14.0, 25.0])], draw.choice(SPACINGS))
        assert torch.equal(ball_search(*arguments, impl=impl)[0], ball_search(*arguments, impl="reference")[0]), seed


@backends("ball_select")
@given(
    seed=seeds,
    shape=st.tuples(*[st.sampled_from([1, 3, 9, 17])] * 3),
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from(SPACINGS),
    counts=st.tuples(*[st.integers(0, 700)] * 3),
    outside=st.booleans(),
)
def test_ball_select(impl, seed, shape, kind, spacing, counts, outside):
    probability = probabilities(kind, seed, shape)
    available = noise(seed + 1, 1, *shape) > -1
    voxels = probability[0].numel()
    centre = torch.tensor([seed % (voxels + 1) - 1])
    radii = [growth_radii(5.0, 0.2, shape, spacing)]
    arguments = (probability, available, centre, radii, [counts[1]], [counts], spacing)
    selected = ball_select(*arguments, outside_competes=outside, impl=impl)
    assert torch.equal(selected, ball_select(*arguments, outside_competes=outside, impl="reference"))
    weights = [rank_weights(probability, selected[:, 1], [voxels], impl=name) for name in ("reference", impl)]
    torch.testing.assert_close(*weights, rtol=1e-6, atol=0)


@backends("place_balls")
@given(
    seed=seeds,
    shape=st.tuples(*[st.sampled_from([1, 3, 17, 24])] * 2, st.sampled_from([1, 9, 33, 70])),
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from(SPACINGS),
    diameters=st.lists(st.sampled_from([1.0, 2.0, 5.0, 7.5, 11.0, 33.0]), max_size=4),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_place_balls(impl, seed, shape, kind, spacing, diameters, share):
    probability = probabilities(kind, seed, shape)[None]
    masks = pack_masks(noise(seed + 1, 2, *shape).sigmoid() <= share)
    tumours = []
    for i, diameter in enumerate(diameters):
        count = ball_voxels(diameter, spacing)
        radii = tuple(growth_radii(diameter, 0.2, shape, spacing))
        tumours.append(Ball((seed + i) % 2, diameter, radii, count, (count // 2, count, 2 * count)))
    arguments = (probability, masks, [0], [0], [tumours], spacing)
    ours = place_balls(*arguments, activation="identity", impl=impl)
    truth = place_balls(*arguments, activation="identity", impl="reference")
    for name in ("core", "body", "ring", "bodies"):
        assert torch.equal(getattr(ours, name).words, getattr(truth, name).words), name


@pytest.mark.skipif(not BACKENDS, reason="no backend beside the reference works here")
def test_threads_do_not_change_anything():
    """One and two threads give the same bits."""
    logits = noise(0, 2, 2, 30, 41, 37)
    organ = noise(1, 2, 30, 41, 37) > -1
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = logits.clone().requires_grad_()
        sums = region_sums(leaf, organ, [0, 1], [1, 0])
        terms = masked_bce_dice(leaf, organ, organ, sample=[0, 1], channel=[1, 0])
        stats = attenuation_stats(logits[:, 0], leaf, organ, organ, [0, 1], [1, 0])
        centre, score = ball_search(logits[:, 0].sigmoid(), organ, [9.0, 5.0])
        (sums.sum() + terms.sum() + stats.sum()).backward()
        results.append([sums, terms, stats, centre, score, leaf.grad])
    torch.set_num_threads(1)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
