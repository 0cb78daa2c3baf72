# SPDX-License-Identifier: Apache-2.0
"""All reported tumours of all planes, placed one after another."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.geometry import growth_radii
from rsuper_kernels.ops.pack_bits import pack_masks, unpack_masks
from rsuper_kernels.ops.place_balls import Ball, Placed, place_balls
from tests.helpers import LAYOUTS, SHAPES, SPACINGS, box_mask, random_logits, random_mask

IMPLS = [
    impl
    for impl in dispatch.IMPLEMENTATIONS
    if dispatch.refusal("place_balls", impl, torch.device("cpu"), torch.float32) is None
]
SHAPE = (9, 14, 11)
SPACING = (2.0, 0.8, 1.1)


def ball(mask: int, diameter: float, voxels: int, shape=SHAPE, spacing=SPACING) -> Ball:
    """A tumour of so many voxels, with a core and a ring a fifth smaller and larger."""
    radii = tuple(growth_radii(diameter, 0.2, shape, spacing))
    return Ball(mask, diameter, radii, voxels, (int(0.8 * voxels), voxels, int(1.2 * voxels)))


def bits(placed: Placed) -> list[torch.Tensor]:
    """Core, body and ring (P, D, H, W) and bodies (T, D, H, W) as bools."""
    return [unpack_masks(masks) for masks in (placed.core, placed.body, placed.ring, placed.bodies)]


def assert_equal(one: Placed, other: Placed) -> None:
    for got, expected in zip(bits(one), bits(other), strict=True):
        assert torch.equal(got, expected)


def places(mask: torch.Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize("impl", IMPLS)
def test_table(impl):
    """Two tumours in a row of 9 voxels, p = .1 .6 .9 .7 .2 .2 .8 .9 .1, flat balls of 3 voxels; voxel 0 is not allowed.

    Threes in a row sum to 1.5 2.2 1.8 1.1 1.2 1.9 1.8 1.0 at voxels 1 to 8: the first tumour is at 2, and its ball of
    voxels 1 to 3 holds enough: core 2, body 2 and 3, ring 1 to 3. Without the body .6 .2 .8 .9 are left at 1, 5, 6, 7
    (and .2, .1 at 4, 8): 1.9 at 6 is the best. Its ball of radius 1 has 5, 6, 7, but 4 are needed, so it grows to 4 to
    8: core 7, body 6 and 7, ring 4, 6 and 7, the tie of 4 and 5 going to the lower.
    """
    p = torch.tensor([0.1, 0.6, 0.9, 0.7, 0.2, 0.2, 0.8, 0.9, 0.1]).reshape(1, 1, 1, 1, 9)
    allowed = torch.arange(9).reshape(1, 1, 1, 9) > 0
    tumours = [Ball(0, 2.0, (1.0, 2.0), 3, (1, 2, 3)), Ball(0, 2.0, (1.0, 2.0), 4, (1, 2, 3))]
    placed = place_balls(p, pack_masks(allowed), [0], [0], [tumours], sigma=None, activation="identity", impl=impl)
    core, body, ring, bodies = bits(placed)
    assert [places(mask) for mask in (core, body, ring)] == [[2, 7], [2, 3, 6, 7], [1, 2, 3, 4, 6, 7]]
    assert [places(mask) for mask in bodies] == [[2, 3], [6, 7]]
    assert placed.core.shape == (1, 1, 1, 9)
    logits = torch.logit(p)
    by_logits = place_balls(logits, pack_masks(allowed), [0], [0], [tumours], sigma=None, impl=impl)
    assert_equal(by_logits, placed)


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_is_left_for_the_last(impl):
    """Six voxels are allowed: the first tumour takes four, the second two of the three it has, the third none."""
    allowed = box_mask(SHAPE, (3, 4), (5, 7), (4, 7))
    tumours = [ball(0, 3.0, 4), ball(0, 3.0, 3), ball(0, 3.0, 2)]
    placed = place_balls(
        random_logits(1, 1, *SHAPE, dtype=torch.float32),
        pack_masks(allowed[None]),
        [0],
        [0],
        [tumours],
        SPACING,
        impl=impl,
    )
    core, body, ring, bodies = bits(placed)
    assert bodies.flatten(1).sum(1).tolist() == [4, 2, 0]
    assert torch.equal(body[0], allowed)
    assert torch.equal(ring[0], allowed)
    assert torch.equal(bodies.any(0), allowed)
    assert core.sum() == 3 + 2


@pytest.mark.parametrize("impl", IMPLS)
def test_masks_that_overlap_share_what_is_taken(impl):
    """Both groups see one bright spot where their masks overlap: the first tumour takes it, whichever mask it has."""
    logits = torch.full((1, 1, *SHAPE), -3.0)
    spot = box_mask(SHAPE, (3, 6), (5, 8), (4, 7))
    logits[0, 0, spot] = 3.0
    masks = torch.stack([box_mask(SHAPE, (0, 9), (0, 9), (0, 11)), box_mask(SHAPE, (0, 9), (4, 14), (0, 11))])
    for order in ([0, 1], [1, 0]):
        tumours = [ball(mask, 8.0, 27) for mask in order]
        placed = place_balls(logits, pack_masks(masks), [0], [0], [tumours], SPACING, impl=impl)
        bodies = unpack_masks(placed.bodies)
        assert torch.equal(bodies[0], spot)
        assert bodies[1].sum() == 27
        assert not (bodies[1] & (spot | ~masks[order[1]])).any()


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_to_place(impl):
    logits = torch.zeros(2, 2, *SHAPE)
    masks = BitMasks.full(1, SHAPE, torch.device("cpu"))
    without_tumours = place_balls(logits, masks, [0, 1], [1, 0], [[], []], impl=impl)
    assert [masks.shape for masks in (without_tumours.core, without_tumours.bodies)] == [(2, *SHAPE), (0, *SHAPE)]
    assert not any(mask.any() for mask in bits(without_tumours))
    without_planes = place_balls(logits, masks[:0], [], [], [], impl=impl)
    assert [masks.shape for masks in (without_planes.ring, without_planes.bodies)] == [(0, *SHAPE), (0, *SHAPE)]
    without_groups = place_balls(logits, masks[:0], [0], [0], [[]], impl=impl)
    assert without_groups.body.shape == (1, *SHAPE)


KINDS = ["noise", "flat", "untrained", "blobs", "faint", "saturated"]


def draw_logits(kind: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """(2, 2, D, H, W) float32."""
    noise = random_logits(2, 2, *shape, scale=1.0, seed=seed, dtype=torch.float32)
    if kind == "blobs":
        return torch.where(random_mask(2, 2, *shape, density=0.02, seed=seed + 1), 3.0, -5.0) + 0.5 * noise
    scale, shift = {"flat": (0, 0.3), "untrained": (0.01, 0), "faint": (5, -70), "saturated": (3, 30)}.get(kind, (2, 0))
    return scale * noise + shift


@pytest.mark.skipif(IMPLS == ["reference"], reason="no backend beside the reference works here")
@given(
    seed=st.integers(0, 2**31 - 1),
    shape=st.tuples(*[st.sampled_from([1, 2, 7, 17, 24])] * 2, st.sampled_from([1, 5, 16, 33, 70])),
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (1.0, 2.0, 0.5)]),
    sigma=st.sampled_from([1.5, 0.5, None]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    density=st.sampled_from([0.02, 0.6, 1.0]),
    layout=st.sampled_from([None, *LAYOUTS]),
    diameters=st.lists(st.sampled_from([0.5, 1.0, 3.0, 5.5, 9.0, 17.0, 60.0]), min_size=1, max_size=4),
)
def test_backends_equal_the_reference(seed, shape, kind, spacing, sigma, dtype, density, layout, diameters):
    probability = draw_logits(kind, seed, shape).sigmoid().to(dtype)
    masks = pack_masks(random_mask(3, *shape, density=density, seed=seed + 2))
    tumours = [
        ball((seed + i) % 3, d, max(1, round(math.pi / 6 * d**3 / math.prod(spacing))), shape, spacing)
        for i, d in enumerate(diameters)
    ]
    # two sigmoids may round differently, which decides between equals, so both get probabilities
    arguments = (masks, [1, 0, 1], [1, 0, 0], [tumours, tumours[:1], tumours[::-1]], spacing)
    for impl in IMPLS:
        given_ = LAYOUTS[layout](probability) if layout else probability
        got = place_balls(given_, *arguments, sigma=sigma, activation="identity", impl=impl)
        assert_equal(got, place_balls(probability, *arguments, sigma=sigma, activation="identity", impl="reference"))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_agree_where_they_hold_the_logits(impl, dtype):
    """Logits in steps of 1/8 are the same numbers in every dtype."""
    logits = (8 * random_logits(1, 2, 17, 23, 19, dtype=torch.float32)).round() / 8
    masks = pack_masks(random_mask(1, 17, 23, 19, density=0.7))
    tumours = [[ball(0, d, n, (17, 23, 19), (1, 1, 1)) for d, n in ((9.0, 380), (5.0, 65))]]
    expected = place_balls(logits.double(), masks, [0], [1], tumours)
    assert_equal(place_balls(logits.to(dtype), masks, [0], [1], tumours, impl=impl), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_odd_shapes(impl, shape, spacing):
    logits = random_logits(1, 1, *shape, dtype=torch.float32)
    masks = BitMasks.full(1, shape, logits.device)
    tumours = [
        [ball(0, 4.0, 5, shape, spacing), ball(0, 100.0, 10**6, shape, spacing), ball(0, 1.0, 1, shape, spacing)]
    ]
    core, body, ring, bodies = bits(place_balls(logits, masks, [0], [0], tumours, spacing, impl=impl))
    assert body.all()  # the second takes what is left
    assert ring.all()
    assert torch.equal(bodies.long().sum(0), torch.ones(shape, dtype=torch.long))
    assert not bodies[2].any()
    assert not (core & ~body).any()


def test_planes_do_not_mix():
    logits = random_logits(2, 2, *SHAPE, dtype=torch.float32)
    masks = pack_masks(random_mask(2, *SHAPE, density=0.8))
    tumours = [[ball(0, 5.0, 40)], [ball(1, 6.0, 60), ball(0, 3.0, 9)]]
    both = bits(place_balls(logits, masks, [0, 1], [1, 1], tumours, SPACING))
    for p in range(2):
        alone = bits(place_balls(logits, masks, [p], [1], tumours[p : p + 1], SPACING))
        for together, single in zip(both[:3], alone[:3], strict=True):
            assert torch.equal(together[p], single[0])
        assert torch.equal(both[3][p : 2 * p + 1], alone[3])


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("kind", ["noise", "untrained", "flat"])
def test_threads_do_not_change_anything(planes, kind):
    shape = (30, 41, 37)
    logits = draw_logits(kind, 3, shape)
    masks = pack_masks(random_mask(1, *shape, density=0.9))
    tumours = [[ball(0, d, round(0.5 * d**3), shape, (1, 1, 1)) for d in (15.0, 9.0, 4.0)]] * planes
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(place_balls(logits, masks, [0] * planes, [1] * planes, tumours))
    torch.set_num_threads(1)
    assert_equal(*results)


def test_deterministic_and_without_gradient():
    logits = random_logits(1, 1, *SHAPE, dtype=torch.float32).requires_grad_()
    before = logits.detach().clone()
    masks = pack_masks(random_mask(1, *SHAPE, density=0.8))
    words = masks.words.clone()
    first, second = (place_balls(logits, masks, [0], [0], [[ball(0, 5.0, 40)]], SPACING) for _ in range(2))
    assert_equal(first, second)
    assert torch.equal(logits, before)
    assert torch.equal(masks.words, words)


def operands(dtype: torch.dtype, keep_bodies: bool) -> tuple:
    words = pack_masks(random_mask(2, *SHAPE)).words
    logits = random_logits(2, 2, *SHAPE, dtype=dtype)
    tables = ([0, 1], [1, 1], [2, 1], [0, 1, 0], [4.0, 5.0, 3.0], [3.0, 4.0, 5.0, 2.0], [1, 2, 1], [9, 20, 5])
    return (logits, words, *tables, [8, 9, 10, 16, 20, 24, 4, 5, 6], list(SPACING), 1.5, keep_bodies, "sigmoid", "auto")


@pytest.mark.parametrize("keep_bodies", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype, keep_bodies):
    torch.library.opcheck(torch.ops.rsuper.place_balls.default, operands(dtype, keep_bodies))


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_bodies_need_not_be_kept(impl):
    """The unions are the same, and no body comes back."""
    logits = random_logits(1, 2, *SHAPE, dtype=torch.float32)
    masks = pack_masks(random_mask(2, *SHAPE, density=0.8))
    balls = [[ball(0, 5.0, 40), ball(1, 4.0, 20)], [ball(1, 3.0, 9)]]
    arguments = (logits, masks, [0, 0], [0, 1], balls, SPACING)
    kept = place_balls(*arguments, impl=impl)
    without = place_balls(*arguments, keep_bodies=False, impl=impl)
    assert without.bodies.shape == (0, *SHAPE)
    for name in ("core", "body", "ring"):
        assert torch.equal(getattr(without, name).words, getattr(kept, name).words)


def test_compile():
    torch._dynamo.reset()
    logits = random_logits(1, 1, *SHAPE, dtype=torch.float32)
    masks = pack_masks(random_mask(1, *SHAPE))

    def place(x: torch.Tensor) -> torch.Tensor:
        return place_balls(x, masks, [0], [0], [[ball(0, 5.0, 40)]], SPACING).body.words

    assert torch.equal(torch.compile(place, fullgraph=True, backend="aot_eager")(logits), place(logits))


GOOD = Ball(0, 4.0, (2.0, 3.0), 5, (4, 5, 6))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": torch.ones(SHAPE)}, ValueError, r"logits: expected \(B, C, D, H, W\)"),
        ({"channel": [1]}, ValueError, r"channel\[0\]: expected 0 to 0"),
        (
            {"masks": BitMasks.zeros(1, (2, 3, 4), torch.device("cpu"))},
            ValueError,
            r"masks: expected .* got shape \(1, 2",
        ),
        ({"masks": BitMasks.zeros(1, SHAPE, torch.device("meta"))}, ValueError, r"masks: .* logits \(cpu\), got meta"),
        ({"balls": []}, ValueError, "balls: expected a list of tumours for each of 1 planes, got 0"),
        (
            {"balls": [[Ball(1, 4.0, (2.0,), 5, (4, 5, 6))]]},
            ValueError,
            "balls, tumour 0: expected a mask from 0 to 0, got 1",
        ),
        (
            {"balls": [[GOOD, Ball(0, 0.0, (2.0,), 5, (4, 5, 6))]]},
            ValueError,
            "tumour 1: expected a positive, finite diam",
        ),
        (
            {"balls": [[Ball(0, 4.0, (), 5, (4, 5, 6))]]},
            ValueError,
            "tumour 0: expected at least one radius, in ascending",
        ),
        ({"balls": [[Ball(0, 4.0, (3.0, 2.0), 5, (4, 5, 6))]]}, ValueError, "tumour 0: expected at least one radius"),
        (
            {"balls": [[Ball(0, 4.0, (2.0,), 5, (-1, 5, 6))]]},
            ValueError,
            "tumour 0: expected three counts of at least 0",
        ),
        ({"spacing": (1.0, 1.0)}, ValueError, "spacing: expected three positive numbers"),
        ({"activation": "tanh"}, ValueError, "activation: expected one of sigmoid, identity, got 'tanh'"),
        ({"impl": "triton"}, BackendError, 'place_balls: impl="triton" cannot run: '),
    ],
)
def test_refusals(changes, error, message):
    arguments = {
        "logits": torch.ones(1, 1, *SHAPE),
        "masks": BitMasks.full(1, SHAPE, torch.device("cpu")),
        "sample": [0],
        "channel": [0],
        "balls": [[GOOD]],
    }
    with pytest.raises(error, match=message):
        place_balls(**(arguments | changes))
