# SPDX-License-Identifier: Apache-2.0
"""Where a ball of a given size holds the most probability."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.ball_search import ball_search
from tests.helpers import AXIS_ORDERS, LAYOUTS, SHAPES, SPACINGS, ball_mask, box_mask, permuted, random_mask

SHAPE = (4, 5, 6)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores_by_hand(probability, available, diameter, spacing, sigma) -> torch.Tensor:
    """The score of every voxel of one plane, term by term: sum of k(r) q(x + r) over all pairs of voxels."""
    shape = probability.shape
    reach = [int(diameter / 2 / step) + 1 for step in spacing]

    def weight(offset) -> float:
        squared = sum((o * step) ** 2 for o, step in zip(offset, spacing, strict=True))
        if squared > (diameter / 2) ** 2 * (1 + 1e-6):
            return 0.0
        return 1.0 if sigma is None else math.exp(-squared / (2 * (sigma * diameter / 2) ** 2))

    total = sum(weight(offset) for offset in itertools.product(*(range(-r, r + 1) for r in reach)))
    voxels = list(itertools.product(*map(range, shape)))
    q = torch.where(available, probability, 0)
    held = [(v, float(q[v])) for v in voxels if q[v] > 0]
    out = torch.zeros(shape, dtype=torch.float64)
    for centre in voxels:
        out[centre] = sum(weight([a - b for a, b in zip(v, centre, strict=True)]) * p for v, p in held) / total
    return out


def in_box(available) -> torch.Tensor:
    """The bounding box of the available voxels."""
    found = available.nonzero()
    bounds = [(int(lo), int(hi) + 1) for lo, hi in zip(found.amin(0), found.amax(0), strict=True)]
    return box_mask(available.shape, *bounds)


def best(scores: torch.Tensor, available: torch.Tensor) -> tuple[int, float]:
    """The documented choice: within 1e-6 of the highest score, the lowest index of the box."""
    inside = torch.where(in_box(available), scores, -1)
    return int((inside >= inside.max() * (1 - 1e-6)).flatten().nonzero()[0]), float(inside.max())


def test_table():
    """A row of 5 voxels, p = 0.1 0.9 0.2 0.8 0.7, a flat ball of 3 voxels (its other offsets see nothing, but weigh).

    The ball of radius 1.5 has 19 offsets; the sums of three in a row are 1.0 1.2 1.9 1.7 1.5: voxel 2 scores 1.9 / 19.
    """
    p = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7], dtype=torch.float64).reshape(1, 1, 1, 5)
    centre, score = ball_search(p, torch.ones_like(p, dtype=torch.bool), [3.0], sigma=None)
    assert centre.tolist() == [2]
    assert score.item() == pytest.approx(1.9 / 19)


def test_table_gaussian():
    """The same row at sigma 0.5: neighbours weigh exp(-1 / (2 * 0.75^2)) = 0.411.

    Voxel 1 has 0.9 + 0.411 * 0.3 = 1.023, voxel 2 has 0.2 + 0.411 * 1.7 = 0.899,
    and voxel 3 wins with 0.8 + 0.411 * 0.9 = 1.170.
    """
    p = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7], dtype=torch.float64).reshape(1, 1, 1, 5)
    centre, score = ball_search(p, torch.ones_like(p, dtype=torch.bool), [3.0], sigma=0.5)
    near, far = math.exp(-1 / 1.125), math.exp(-2 / 1.125)
    assert centre.tolist() == [3]
    assert score.item() == pytest.approx((0.8 + near * 0.9) / (1 + 6 * near + 12 * far))


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    diameter=st.floats(0.5, 9.0),
    spacing=st.sampled_from(SPACINGS),
    sigma=st.sampled_from([None, 0.5, 1.5]),
    density=st.sampled_from([0.2, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
def test_equals_brute_force(shape, diameter, spacing, sigma, density, seed):
    probability, available = uniform(*shape, seed=seed), random_mask(*shape, density=density, seed=seed)
    centre, score = ball_search(probability[None], available[None], [diameter], spacing, sigma=sigma)
    if not available.any():
        assert (centre.item(), score.item()) == (-1, 0)
        return
    scores = scores_by_hand(probability, available, diameter, spacing, sigma)
    assert (centre.item(), score.item()) == (best(scores, available)[0], pytest.approx(best(scores, available)[1]))
    # no voxel outside the box is better, as the reference claims
    assert scores.max() <= score.item() * (1 + 1e-9)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_finds_a_ball(spacing):
    shape, centre = (17, 23, 19), (8, 9, 10)
    probability = torch.where(ball_mask(shape, centre, 5.0, spacing), 0.9, 0.05)[None]
    found, score = ball_search(probability, torch.ones_like(probability, dtype=torch.bool), [10.0], spacing)
    assert found.item() == (centre[0] * shape[1] + centre[1]) * shape[2] + centre[2]
    assert score.item() == pytest.approx(0.9)


@pytest.mark.parametrize("order", AXIS_ORDERS, ids=str)
def test_permuted_axes_agree(order):
    spacing, shape = (3.0, 0.8, 1.3), (5, 11, 9)
    probability, available = uniform(1, *shape), random_mask(1, *shape, density=0.7)
    centre, score = ball_search(probability, available, [6.0], spacing)
    other, other_score = ball_search(
        permuted(probability, order), permuted(available, order), [6.0], tuple(spacing[axis] for axis in order)
    )
    position = torch.unravel_index(centre[0], shape)
    expected = [int(position[axis]) for axis in order]
    assert [int(i) for i in torch.unravel_index(other[0], tuple(shape[axis] for axis in order))] == expected
    torch.testing.assert_close(other_score, score)


def test_unavailable_voxels_count_as_zero():
    """The bright corner is taken: the search goes to the rest, and does not even see the corner."""
    probability = torch.full((1, *SHAPE), 0.1, dtype=torch.float64)
    probability[0, :2, :2, :2] = 1.0
    available = ~box_mask(SHAPE, (0, 2), (0, 2), (0, 2))[None]
    centre, score = ball_search(probability, available, [1.0])
    assert centre.item() == 2  # the first voxel of the box that is available
    assert score.item() == pytest.approx(0.1)


def test_ties_go_to_the_lowest_index():
    flat = torch.full((3, *SHAPE), 0.5)
    centre, _ = ball_search(flat, torch.ones(3, *SHAPE, dtype=torch.bool), [1.0, 0.5, 1.5])
    assert centre.tolist() == [0, 0, 0]
    two = torch.zeros(1, *SHAPE)
    two[0, 1, 2, 3], two[0, 3, 0, 0] = 1 - 5e-7, 1.0  # within 1e-6 of each other: a tie
    assert ball_search(two, torch.ones_like(two, dtype=torch.bool), [1.0])[0].item() == (1 * 5 + 2) * 6 + 3
    two[0, 1, 2, 3] = 1 - 1e-5
    assert ball_search(two, torch.ones_like(two, dtype=torch.bool), [1.0])[0].item() == 3 * 30


def test_zero_probabilities_take_the_first_voxel_of_the_box():
    available = box_mask(SHAPE, (1, 3), (2, 4), (3, 5))[None]
    centre, score = ball_search(torch.zeros(1, *SHAPE), available, [3.0])
    assert (centre.item(), score.item()) == (1 * 30 + 2 * 6 + 3, 0)


@pytest.mark.parametrize("tiny", [1e-26, 1e-38])
def test_probabilities_of_very_negative_logits_still_rank(tiny):
    probability = torch.zeros(1, *SHAPE)
    probability[0, 2, 3, 4] = tiny
    centre, _ = ball_search(probability, torch.ones(1, *SHAPE, dtype=torch.bool), [1.0])
    assert centre.item() == 2 * 30 + 3 * 6 + 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("diameter", [0.5, 4.0, 60.0], ids=["below a voxel", "small", "larger than the patch"])
def test_odd_shapes(shape, diameter):
    probability, available = uniform(2, *shape), torch.ones(2, *shape, dtype=torch.bool)
    available[1] = False
    centre, score = ball_search(probability, available, [diameter] * 2, (1.0, 0.8, 1.2))
    assert 0 <= centre[0] < probability[0].numel()
    assert 0 < score[0] <= 1
    assert (centre[1], score[1]) == (-1, 0)


def test_planes_do_not_mix():
    probability, available = uniform(4, *SHAPE), random_mask(4, *SHAPE, density=0.8)
    diameters = [1.0, 3.0, 5.0, 7.0]
    centres, scores = ball_search(probability, available, diameters)
    for n in range(4):
        centre, score = ball_search(probability[n : n + 1], available[n : n + 1], diameters[n : n + 1])
        assert (centre.item(), score.item()) == (centres[n].item(), scores[n].item())


def test_no_planes():
    centre, score = ball_search(torch.zeros(0, *SHAPE), torch.zeros(0, *SHAPE, dtype=torch.bool), [])
    assert (centre.shape, centre.dtype, score.shape) == ((0,), torch.int64, (0,))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    probability, available = uniform(2, *SHAPE), random_mask(2, *SHAPE)
    expected = ball_search(probability, available, [3.0, 4.0])
    got = ball_search(layout(probability), layout(available), [3.0, 4.0])
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_single_precision_agrees_with_double():
    probability, available = uniform(1, 17, 23, 9), random_mask(1, 17, 23, 9, density=0.8)
    expected = ball_search(probability, available, [6.0])
    centre, score = ball_search(probability.float(), available, [6.0])
    assert torch.equal(centre, expected[0])
    assert score.dtype == torch.float32
    # rounding the input moves a mean by at most one float32 step
    torch.testing.assert_close(score.double(), expected[1], rtol=2e-7, atol=0)


def test_deterministic_and_without_gradient():
    probability, available = uniform(2, 17, 23, 9), random_mask(2, 17, 23, 9)
    before = probability.clone(), available.clone()
    leaf = probability.clone().requires_grad_()
    first, second = ball_search(leaf, available, [5.0, 9.0]), ball_search(probability, available, [5.0, 9.0])
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert torch.equal(probability, before[0])
    assert torch.equal(available, before[1])


def test_opcheck():
    arguments = (uniform(2, *SHAPE), random_mask(2, *SHAPE), [3.0, 4.0], [1.0, 2.0, 0.5], 1.5, "auto")
    torch.library.opcheck(torch.ops.rsuper.ball_search.default, arguments)


def test_compile():
    torch._dynamo.reset()
    probability, available = uniform(2, *SHAPE), random_mask(2, *SHAPE)
    compiled = torch.compile(lambda p: ball_search(p, available, [3.0, 4.0]), fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(probability), ball_search(probability, available, [3.0, 4.0]), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"probability": torch.ones(SHAPE)},
            ValueError,
            r"probability: expected \(N, D, H, W\), got shape \(4, 5, 6\)",
        ),
        (
            {"probability": torch.ones(1, *SHAPE, dtype=torch.int32)},
            TypeError,
            "probability: expected a floating-point",
        ),
        (
            {"probability": torch.ones(1, *SHAPE).half()},
            TypeError,
            "probability: expected float32 or float64, got torch.float16",
        ),
        ({"available": torch.ones(2, *SHAPE)}, ValueError, r"available: expected .* = \(1, 4, 5, 6\), got shape \(2,"),
        (
            {"available": torch.ones(1, *SHAPE, device="meta")},
            ValueError,
            r"available: .* probability \(cpu\), got meta",
        ),
        ({"diameters": [1.0, 2.0]}, ValueError, "diameters: expected one for each of 1 planes, got 2"),
        ({"diameters": [-1.0]}, ValueError, r"diameters\[0\]: expected a positive, finite length in mm, got -1.0"),
        ({"diameters": [math.nan]}, ValueError, r"diameters\[0\]: expected a positive, finite length in mm, got nan"),
        ({"spacing": (1.0, 1.0)}, ValueError, "spacing: expected three positive numbers"),
        ({"impl": "triton"}, BackendError, 'ball_search: impl="triton" cannot run: '),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    arguments = {"probability": torch.ones(1, *SHAPE), "available": torch.ones(1, *SHAPE), "diameters": [2.0]}
    with pytest.raises(error, match=message):
        ball_search(**(arguments | changes))
