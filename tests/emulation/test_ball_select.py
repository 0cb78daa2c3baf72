# SPDX-License-Identifier: Apache-2.0
"""The kernels of the selection and of the rank weights against the reference."""

import pytest
import torch

from rsuper_kernels.bits import BitMasks, pack, unpack
from rsuper_kernels.geometry import growth_radii
from rsuper_kernels.ops.ball_select import ball_select, foreground_weights, rank_weights
from rsuper_kernels.ops.ball_select.cuda import Selection, select_in_balls
from tests.helpers import random_mask

KINDS = ["noise", "ties", "zeros"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def probabilities(kind: str, *shape: int) -> torch.Tensor:
    values = noise(*shape)
    if kind == "ties":
        return (values * 4).round() / 4
    return values * (values > 0.9) if kind == "zeros" else values


def agree(probability, available, centre, radii, needed, counts, spacing=(1.0, 1.0, 1.0), outside_competes=False):
    got, expected = (
        ball_select(
            probability,
            available,
            torch.tensor(centre, dtype=torch.int64),
            radii,
            needed,
            counts,
            spacing,
            outside_competes=outside_competes,
            impl=impl,
        )
        for impl in ("cuda", "reference")
    )
    assert torch.equal(got, expected)
    return got


@pytest.mark.parametrize("width", [5, 63, 64, 65, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_ball_select(cuda, kind, width):
    """A ball at the border and one that grows; counts of 0, within, and above what is there."""
    shape = (3, 4, width)
    radii = [growth_radii(3.0, 0.1, shape, (1.0, 1.0, 1.0))[:2], growth_radii(4.0, 0.1, shape, (1.0, 1.0, 1.0))]
    agree(
        probabilities(kind, 2, *shape),
        random_mask(2, *shape, density=0.7),
        [0, 5 * width + width // 2],
        radii,
        [30, 60],
        [[0, 5, 10**6], [3, 3, 17]],
    )


@pytest.mark.parametrize("outside_competes", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_many_tiles_of_rows(cuda, kind, outside_competes):
    """More rows than threads, and so many equal probabilities that indices decide to their last bit."""
    shape = (30, 31, 34)
    agree(
        probabilities(kind, 1, *shape),
        random_mask(1, *shape, density=0.9),
        [15 * 31 * 34 + 15 * 34 + 16],
        [[9.0, 26.0, 31.0]],
        [9000],
        [[900, 4001, 12000]],
        outside_competes=outside_competes,
    )


def test_odd_selections(cuda):
    """No centre, nothing available, a ball that never holds enough; one count, and spacing."""
    shape, spacing = (4, 9, 20), (3.0, 0.7, 1.0)
    available = random_mask(3, *shape, density=0.5)
    available[1] = False
    radii = growth_radii(2.0, 0.1, shape, spacing)
    got = agree(
        probabilities("ties", 3, *shape), available, [-1, 30, 400], [radii] * 3, [5, 5, 10**6], [[4]] * 3, spacing
    )
    assert got.flatten(1).sum(1)[:2].tolist() == [0, 0]
    agree(probabilities("ties", 3, *shape), available, [3, 30, 400], [[2.0]] * 3, [5] * 3, [[4, 9, 1, 0, 99]] * 3)
    agree(probabilities("ties", 3, *shape), available, [3, 30, 400], [[2.0]] * 3, [5] * 3, [[]] * 3)


def test_strides_and_no_planes(cuda):
    shape = (2, 70, 3, 4)
    probability, available = (
        x.transpose(1, 3) for x in (probabilities("noise", *shape), random_mask(*shape, density=0.5))
    )
    agree(probability, available, [100, 500], [[2.0], [9.0]], [5, 5], [[4, 9], [50, 3]])
    got, expected = (rank_weights(probability, available, [700] * 2, impl=impl) for impl in ("cuda", "reference"))
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)
    agree(probability[:0], available[:0], [], [], [], [])


def test_select_in_balls(cuda):
    """One tumour on each of two planes: what it adds, what it takes, and the box that it leaves to the next."""
    shape = (3, 15, 70)  # words for several warps
    allowed = random_mask(2, *shape, density=0.8)
    taken = random_mask(3, 2, *shape, density=0.2, seed=1)
    available = allowed[[0, 1]] & ~taken[1]
    probability = noise(2, *shape) * available
    # plane 0 has a second field, of mask 1, from which its body disappears, too
    fields = torch.cat([probability, noise(1, *shape, seed=2)])
    tumours = [
        Selection(0, 3, 0, 0, 0, 1, (2.0, 3.0), 20, (4, 10, 20), next_tumour=1, next_mask=1),
        Selection(1, 0, 1, 1, 1, 2, (2.5,), 5, (2, 6, 40), next_tumour=-1, next_mask=0),
    ]
    centres = [35 + 70 * 2, 69]
    expected = ball_select(
        probability,
        available,
        torch.tensor(centres),
        [tumour.radii for tumour in tumours],
        [tumour.needed for tumour in tumours],
        [tumour.counts for tumour in tumours],
        impl="reference",
    )
    words, unions = pack(allowed), pack(taken)
    bodies = torch.full((4, *words.shape[1:]), -1)
    boxes = torch.full((4, 6), 7, dtype=torch.int32)
    left = fields.clone()
    select_in_balls(left, words, unions, bodies, boxes, torch.tensor(centres), tumours, shape, (1.0, 1.0, 1.0))

    assert torch.equal(unpack(unions, 70), taken | expected[:, 1:].transpose(0, 1))
    assert torch.equal(unpack(bodies[[3, 0]], 70), expected[:, 2])
    assert (bodies[1:3] == -1).all()
    body = expected[:, 2]
    assert torch.equal(left, fields * ~body[[0, 1, 1]])
    places = (allowed[1] & ~taken[1, 0] & ~body[0]).nonzero()
    assert boxes[1].tolist() == [*(-places.amin(0)).tolist(), *(places.amax(0) + 1).tolist()]
    assert (boxes[[0, 2, 3]] == 7).all()


def test_box_of_nothing_and_bodies_that_are_not_kept(cuda):
    shape = (2, 3, 65)
    words, fields = pack(torch.ones(1, *shape, dtype=torch.bool)), noise(1, *shape)
    words = torch.cat([words, torch.zeros_like(words)])
    unions, boxes = torch.zeros(3, 1, *words.shape[1:], dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int32)
    tumours = [Selection(0, 0, 0, 0, 0, 1, (9.0,), 1, (1, 10**9, 0), next_tumour=1, next_mask=1)]
    select_in_balls(fields, words, unions, words[:0], boxes, torch.tensor([64]), tumours, shape, (1.0, 1.0, 1.0))
    assert boxes.tolist() == [[0] * 6, [-(2**30)] * 6]
    assert unpack(unions, 65).flatten(1).sum(1).tolist() == [1, int((fields == 0).sum()), 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("width", "activation"), [(5, "sigmoid"), (64, "identity"), (65, "sigmoid"), (130, "identity")]
)
def test_foreground_weights(cuda, dtype, width, activation):
    """Three masks on two planes, one of them empty; ties among 100 values; limits from what is there upwards."""
    values = torch.linspace(-6, 6, 100) if activation == "sigmoid" else torch.linspace(0, 1, 100)
    which = torch.randint(0, 100, (2, 2, 3, 4, width), generator=torch.Generator().manual_seed(width))
    # equal logits give equal probabilities, which vectors of torch's and what they leave over do not
    values = values.to(dtype)
    truth = (values.double().sigmoid() if activation == "sigmoid" else values.double())[which]
    masks = random_mask(3, 3, 4, width, density=0.6)
    masks[1] = False
    packed, most = BitMasks(pack(masks), width), int(masks.flatten(1).sum(1).max())
    for limit, concentration in ((most, 0.5), (most + 70, 0.9)):
        planes = ([0, 1, 1], [1, 0, 1], [limit] * 3)
        got = foreground_weights(
            values[which], packed, *planes, concentration=concentration, activation=activation, impl="cuda"
        )
        expected = foreground_weights(
            truth, packed, *planes, concentration=concentration, activation="identity", impl="reference"
        )
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=0)


def test_a_limit_that_the_mask_exceeds(cuda):
    """Against the contract: the first voxels are weighed, and nothing is written behind the end."""
    logits = noise(1, 2, 2, 3, 40).round(decimals=2)
    mask = random_mask(2, 2, 3, 40, density=0.5)
    fits = mask & (mask.flatten(1).cumsum(1).view(mask.shape) <= 70)
    got, expected = (
        foreground_weights(logits, BitMasks(pack(m), 40), [0, 0], [0, 1], [70] * 2, activation="identity", impl="cuda")
        for m in (mask, fits)
    )
    assert torch.equal(got, expected)


def test_foreground_weights_of_the_smallest_halves(cuda):
    """Halves below their smallest normal number still rank, though GPUs may take floats of that kind for 0."""
    probability = torch.arange(8, dtype=torch.int16).view(torch.float16)
    masks = BitMasks.full(1, (1, 1, 8), probability.device)
    got, expected = (
        foreground_weights(x.view(1, 1, 1, 1, 8), masks, [0], [0], [8], activation="identity", impl=impl)
        for x, impl in ((probability, "cuda"), (probability.double(), "reference"))
    )
    torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=0)


def test_foreground_weights_beyond_float(cuda):
    """Logits so large that probabilities are 0 or 1, all alike."""
    logits = torch.tensor([1e4, 50.0, 200.0, -500.0, -1e4, 0.0]).view(1, 1, 1, 1, 6)
    masks = BitMasks.full(1, (1, 1, 6), logits.device)
    got, expected = (foreground_weights(logits, masks, [0], [0], [6], impl=impl) for impl in ("cuda", "reference"))
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("shape", [(5, 9, 70), (30, 40, 3)])
def test_many_tiles(cuda, shape):
    """More voxels, and more words, than threads."""
    probability = probabilities("ties", 1, *shape)
    mask = random_mask(1, *shape, density=0.9)
    got, expected = (rank_weights(probability, mask, [4000], impl=impl) for impl in ("cuda", "reference"))
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)


def test_rank_weights(cuda):
    probability = probabilities("noise", 2, 2, 3, 40)
    mask = random_mask(2, 2, 3, 40, density=0.3)
    mask[1] = False
    for limits, concentration in (([90, 90], 0.5), ([240, 1], 0.0)):
        got, expected = (
            rank_weights(probability, mask, limits, concentration=concentration, impl=impl)
            for impl in ("cuda", "reference")
        )
        torch.testing.assert_close(got, expected, rtol=2e-6, atol=0)
    nothing = torch.zeros_like(mask)
    assert not rank_weights(probability, nothing, [0, 0], impl="cuda").any()
