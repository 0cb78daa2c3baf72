# SPDX-License-Identifier: Apache-2.0
"""A tumour's most probable voxels inside its ball, and the weights of their ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.bits import BitMasks
from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.ball_select import ball_select, foreground_weights, rank_weights
from rsuper_kernels.ops.pack_bits import pack_masks
from tests.helpers import AXIS_ORDERS, LAYOUTS, SHAPES, SPACINGS, ball_mask, permuted, random_mask

SHAPE = (4, 5, 6)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everywhere(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def row(*values: float) -> torch.Tensor:
    """One plane (1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def indices(mask: torch.Tensor) -> list[int]:
    return mask.flatten().nonzero().flatten().tolist()


def test_table():
    """A row of 7 around voxel 3: radius 1 holds voxels 2 to 4, radius 2 holds 1 to 5.

    Four voxels are needed, so the ball is 1 to 5; by probability 4 (0.9), 1 (0.6), then 2, 5 (0.5 each), 3.
    """
    p = row(0.99, 0.6, 0.5, 0.1, 0.9, 0.5, 0.99)
    out = ball_select(p, everywhere(1, 1, 1, 7), torch.tensor([3]), [[1.0, 2.0, 3.0]], [4], [[1, 3, 4, 9, 0]])
    assert [indices(mask) for mask in out[0]] == [[1, 2, 3, 4, 5], [4], [1, 2, 4], [1, 2, 4, 5], [1, 2, 3, 4, 5], []]


@pytest.mark.parametrize(
    ("needed", "ball"),
    [(0, [2, 3, 4]), (3, [2, 3, 4]), (4, [1, 2, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5, 6]), (99, [0, 1, 2, 3, 4, 5, 6])],
)
def test_ball_grows_until_it_holds_enough(needed, ball):
    p = row(*[0.5] * 7)
    out = ball_select(p, everywhere(1, 1, 1, 7), torch.tensor([3]), [[1.0, 2.0, 3.0]], [needed], [[]])
    assert indices(out[0, 0]) == ball
    assert out.shape == (1, 1, 1, 1, 7)


def test_only_available_voxels_count_and_are_taken():
    """Voxels 2 and 4 are taken: radius 2 holds 1, 3, 5, radius 3 two more; four are needed."""
    available = torch.tensor([True, True, False, True, False, True, True]).reshape(1, 1, 1, 7)
    p = row(0.1, 0.2, 0.9, 0.3, 0.9, 0.4, 0.5)
    out = ball_select(p, available, torch.tensor([3]), [[1.0, 2.0, 3.0]], [4], [[2]])
    assert [indices(mask) for mask in out[0]] == [[0, 1, 3, 5, 6], [5, 6]]


def test_no_centre_selects_nothing():
    out = ball_select(uniform(1, *SHAPE), everywhere(1, *SHAPE), torch.tensor([-1]), [[2.0]], [1], [[1, 2]])
    assert not out.any()


def test_ties_go_to_the_lowest_index():
    p = row(*[0.5] * 7)
    out = ball_select(p, everywhere(1, 1, 1, 7), torch.tensor([3]), [[2.0]], [1], [[2, 4]])
    assert [indices(mask) for mask in out[0]] == [[1, 2, 3, 4, 5], [1, 2], [1, 2, 3, 4]]


def test_outside_competes_with_zeros():
    """Inside (1 to 5) only voxel 4 is above 0; then come zeros from index 0 on: 0 (outside, dropped), 1, 2."""
    p = row(0.9, 0.0, 0.0, 0.0, 0.7, 0.0, 0.9)
    arguments = (p, everywhere(1, 1, 1, 7), torch.tensor([3]), [[2.0]], [1], [[1, 2, 4]])
    out = ball_select(*arguments, outside_competes=True)
    assert [indices(mask) for mask in out[0, 1:]] == [[4], [4], [1, 2, 4]]
    alone = ball_select(*arguments)
    assert [indices(mask) for mask in alone[0, 1:]] == [[4], [1, 4], [1, 2, 3, 4]]


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    radius=st.floats(0.3, 6.0),
    spacing=st.sampled_from(SPACINGS),
    counts=st.lists(st.integers(0, 80), min_size=3, max_size=3).map(sorted),
    needed=st.integers(0, 60),
    seed=st.integers(0, 99),
    levels=st.sampled_from([3, 1000]),
)
def test_properties(shape, radius, spacing, counts, needed, seed, levels):
    """core within body within ring within ball; counts are exact; nothing better is left; ties by index."""
    probability = (uniform(*shape, seed=seed) * levels).floor() / levels  # few levels: many ties
    available = random_mask(*shape, density=0.7, seed=seed)
    centre = int(torch.randint(probability.numel(), (), generator=torch.Generator().manual_seed(seed)))
    radii = [radius, 1.5 * radius, 2.25 * radius]
    out = ball_select(probability[None], available[None], torch.tensor([centre]), [radii], [needed], [counts], spacing)[
        0
    ]
    at = [int(i) for i in torch.unravel_index(torch.tensor(centre), shape)]
    balls = [ball_mask(shape, at, r, spacing) & available for r in radii]
    ball = next((b for b in balls if b.sum() >= needed), balls[-1])
    assert torch.equal(out[0], ball)
    order = sorted(indices(ball), key=lambda i: (-float(probability.flatten()[i]), i))
    for mask, count in zip(out[1:], counts, strict=True):
        assert indices(mask) == sorted(order[:count])
        assert not (mask & ~ball).any()
    assert not (out[1] & ~out[2]).any()
    assert not (out[2] & ~out[3]).any()


@pytest.mark.parametrize("order", AXIS_ORDERS, ids=str)
def test_permuted_axes_agree(order):
    spacing, shape, at = (3.0, 0.8, 1.3), (5, 9, 7), (2, 3, 4)
    probability, available = uniform(1, *shape), random_mask(1, *shape, density=0.8)
    out = ball_select(
        probability, available, torch.tensor([2 * 63 + 3 * 7 + 4]), [[2.0, 4.0]], [40], [[10, 30]], spacing
    )
    other = tuple(shape[axis] for axis in order)
    moved = (at[order[0]] * other[1] + at[order[1]]) * other[2] + at[order[2]]
    got = ball_select(
        permuted(probability, order),
        permuted(available, order),
        torch.tensor([moved]),
        [[2.0, 4.0]],
        [40],
        [[10, 30]],
        tuple(spacing[axis] for axis in order),
    )
    assert torch.equal(got, permuted(out, order))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_odd_shapes_and_full_balls(shape):
    probability = uniform(1, *shape)
    voxels = probability.numel()
    out = ball_select(
        probability, everywhere(1, *shape), torch.tensor([voxels - 1]), [[1.0, 1e3]], [voxels], [[1, 10**6]]
    )
    assert out[0, 0].all()
    assert indices(out[0, 1]) == [int(probability.argmax())]
    assert out[0, 2].all()
    empty = ball_select(probability, ~everywhere(1, *shape), torch.tensor([0]), [[1.0]], [1], [[1]])
    assert not empty.any()


def test_planes_do_not_mix():
    probability, available = uniform(3, *SHAPE), random_mask(3, *SHAPE, density=0.8)
    centre, radii, needed = torch.tensor([0, 59, -1]), [[1.0], [1.0, 2.0, 5.0], [2.0]], [1, 30, 3]
    counts = [[1, 4], [20, 30], [2, 3]]
    together = ball_select(probability, available, centre, radii, needed, counts)
    for n in range(3):
        one = slice(n, n + 1)
        alone = ball_select(probability[one], available[one], centre[one], radii[one], needed[one], counts[one])
        assert torch.equal(alone[0], together[n])


def test_no_planes():
    nothing = uniform(0, *SHAPE)
    assert ball_select(nothing, nothing.bool(), torch.zeros(0, dtype=torch.int64), [], [], []).shape == (0, 1, *SHAPE)
    assert rank_weights(nothing, nothing.bool(), []).shape == (0, *SHAPE)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    probability, available = uniform(2, *SHAPE), random_mask(2, *SHAPE, density=0.8)
    tables = (torch.tensor([70, 10]), [[2.0], [3.0]], [5, 5], [[3, 9], [4, 8]])
    expected = ball_select(probability, available, *tables)
    assert torch.equal(ball_select(layout(probability), layout(available), *tables), expected)
    expected = rank_weights(probability, available, [120, 120])
    assert torch.equal(rank_weights(layout(probability), layout(available), [120, 120]), expected)


def test_deterministic_and_without_gradient():
    probability, available = uniform(1, 17, 23, 9).requires_grad_(), random_mask(1, 17, 23, 9)
    before = probability.detach().clone(), available.clone()
    runs = [
        (
            ball_select(probability, available, torch.tensor([1700]), [[4.0]], [1], [[20, 90]]),
            rank_weights(probability, available, [2000]),
        )
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert torch.equal(probability, before[0])
    assert torch.equal(available, before[1])


def test_opcheck():
    probability, available = uniform(2, *SHAPE), random_mask(2, *SHAPE)
    tables = ([1.0, 2.0, 3.0], [1, 2], [4, 5], [3, 9, 4, 8], [1.0, 2.0, 0.5])
    for competes in (True, False):
        arguments = (probability, available, torch.tensor([70, 10]), *tables, competes, "auto")
        torch.library.opcheck(torch.ops.rsuper.ball_select.default, arguments)
    torch.library.opcheck(torch.ops.rsuper.rank_weights.default, (probability, available, 0.5, [90, 90], "auto"))


def test_compile():
    torch._dynamo.reset()
    probability, available = uniform(1, *SHAPE), random_mask(1, *SHAPE)

    def weigh(p: torch.Tensor) -> torch.Tensor:
        chosen = ball_select(p, available, torch.tensor([70]), [[3.0]], [5], [[9]])
        return rank_weights(p, chosen[:, 1], [9])

    assert torch.equal(torch.compile(weigh, fullgraph=True, backend="aot_eager")(probability), weigh(probability))


def test_table_of_rank_weights():
    """Two voxels at c = 0.5: d = 0.5^(1/2) = 0.7071; 2 / 1.7071 = 1.1716 and 2 * 0.7071 / 1.7071 = 0.8284."""
    weights = rank_weights(row(0.2, 0.9, 0.5, 0.7), row(1, 0, 1, 0).bool(), [2])
    torch.testing.assert_close(weights, row(0.8284271, 0, 1.1715729, 0), atol=1e-7, rtol=0)


def test_rank_weights_of_many_voxels_fall_from_1386_to_0693():
    """n d^rank / sum -> 2 ln 2 = 1.386 at the surest and ln 2 = 0.693 at the least sure voxel, mean 1."""
    probability = torch.linspace(0.9, 0.1, 12 * 15 * 20, dtype=torch.float64).reshape(1, 12, 15, 20)
    weights = rank_weights(probability, everywhere(1, 12, 15, 20), [3600]).flatten()
    assert weights[0].item() == pytest.approx(2 * math.log(2), abs=5e-4)
    assert weights[-1].item() == pytest.approx(math.log(2), abs=5e-4)
    assert weights.mean().item() == pytest.approx(1, abs=1e-12)
    assert (weights.diff() < 0).all()


@given(seed=st.integers(0, 99), concentration=st.floats(0.0, 0.9), density=st.sampled_from([0.02, 0.5, 1.0]))
def test_rank_weights_have_mean_one_and_fall_with_probability(seed, concentration, density):
    probability, mask = uniform(1, *SHAPE, seed=seed), random_mask(1, *SHAPE, density=density, seed=seed)
    weights = rank_weights(probability, mask, [120], concentration=concentration)
    assert not weights[~mask].any()
    if mask.any():
        assert weights[mask].mean().item() == pytest.approx(1, abs=1e-12)
        ordered = weights[mask][probability[mask].argsort(descending=True)]
        assert (ordered.diff() <= 0).all()
        assert (ordered[-1] / ordered[0]).item() >= 1 - concentration - 1e-6


def test_rank_weights_of_nothing_of_one_and_of_equals():
    probability = row(0.5, 0.5, 0.5, 0.5)
    assert not rank_weights(probability, row(0, 0, 0, 0).bool(), [4]).any()
    assert rank_weights(probability, row(0, 1, 0, 0).bool(), [4]).flatten().tolist() == [0, 1, 0, 0]
    equal = rank_weights(probability, row(1, 1, 1, 1).bool(), [4]).flatten()
    assert (equal.diff() < 0).all()  # ties rank by index
    flat = rank_weights(uniform(1, *SHAPE), everywhere(1, *SHAPE), [120], concentration=0.0)
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_rank_weights_do_not_depend_on_a_generous_limit():
    probability, mask = uniform(1, *SHAPE), random_mask(1, *SHAPE, density=0.2)
    exact = rank_weights(probability, mask, [int(mask.sum())])
    # the sum runs over more zeros, in another order
    torch.testing.assert_close(rank_weights(probability, mask, [10**6]), exact, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"probability": torch.ones(SHAPE)}, ValueError, r"probability: expected \(N, D, H, W\)"),
        ({"probability": torch.ones(1, *SHAPE).long()}, TypeError, "probability: expected a floating-point tensor"),
        ({"probability": torch.ones(1, *SHAPE).half()}, TypeError, "probability: expected float32 or float64"),
        (
            {"available": torch.ones(1, 2, 3, 4)},
            ValueError,
            r"available: expected .* = \(1, 4, 5, 6\), got shape \(1, 2",
        ),
        ({"centre": torch.tensor([1, 2])}, ValueError, r"centre: expected \(N,\) = \(1,\), got shape \(2,\)"),
        ({"centre": torch.tensor([1.0])}, TypeError, "centre: expected an integer tensor, got torch.float32"),
        ({"centre": torch.zeros(1, device="meta").long()}, ValueError, r"centre: .* probability \(cpu\), got meta"),
        ({"radii": []}, ValueError, "radii: expected one entry for each of 1 planes, got 0"),
        ({"radii": [[2.0, 1.0]]}, ValueError, "radii: expected at least one radius .* ascending order"),
        ({"radii": [[]]}, ValueError, "radii: expected at least one radius .* ascending order"),
        ({"needed": [1, 2]}, ValueError, "needed: expected one entry for each of 1 planes, got 2"),
        ({"counts": [[-1]]}, ValueError, "counts: expected equally many numbers of at least 0"),
        ({"spacing": (1.0, -1.0, 1.0)}, ValueError, "spacing: expected three positive numbers"),
        ({"impl": "cuda"}, BackendError, 'ball_select: impl="cuda" cannot run: '),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    arguments = {
        "probability": torch.ones(1, *SHAPE),
        "available": torch.ones(1, *SHAPE),
        "centre": torch.tensor([0]),
        "radii": [[1.0]],
        "needed": [1],
        "counts": [[1]],
    }
    with pytest.raises(error, match=message):
        ball_select(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mask": torch.ones(1, 2, 3, 4)}, ValueError, r"mask: expected .* = \(1, 4, 5, 6\)"),
        ({"mask": torch.ones(1, *SHAPE, device="meta")}, ValueError, r"mask: .* probability \(cpu\), got meta"),
        ({"limits": []}, ValueError, "limits: expected one number of at least 0 for each of 1 planes"),
        ({"limits": [-1]}, ValueError, "limits: expected one number of at least 0 for each of 1 planes"),
        ({"concentration": 1.0}, ValueError, r"concentration: expected a number in \[0, 1\), got 1.0"),
        ({"concentration": math.nan}, ValueError, r"concentration: expected a number in \[0, 1\), got nan"),
        ({"probability": torch.ones(1, *SHAPE).bfloat16()}, TypeError, "probability: expected float32 or float64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_rank_weights_refusals(changes, error, message):
    arguments = {"probability": torch.ones(1, *SHAPE), "mask": torch.ones(1, *SHAPE), "limits": [120]}
    with pytest.raises(error, match=message):
        rank_weights(**(arguments | changes))


def test_table_of_foreground_weights():
    """As test_table_of_rank_weights, voxels 0 and 2 of one plane, 3 of another; zeros past the last."""
    logits = torch.logit(torch.tensor([[0.2, 0.9, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4]])).reshape(1, 2, 1, 1, 4)
    masks = pack_masks(torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).reshape(2, 1, 1, 4))
    weights = foreground_weights(logits, masks, [0, 0], [0, 1], [3, 2])
    expected = torch.tensor([[0.8284271, 1.1715729, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    nothing = foreground_weights(logits, masks[:0], [], [], [])
    assert nothing.shape == (0, 0)
    assert foreground_weights(logits, BitMasks.zeros(1, (1, 1, 4), logits.device), [0], [0], [0]).shape == (1, 0)


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 2, st.sampled_from([1, 5, 16, 63, 70])),
    seed=st.integers(0, 99),
    concentration=st.floats(0.0, 0.9),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    levels=st.sampled_from([3, 1000]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    layout=st.sampled_from([None, *LAYOUTS]),
)
def test_foreground_weights_are_rank_weights(shape, seed, concentration, density, levels, dtype, layout):
    """The rank weights of the masked voxels, in the order of their index, in float32 for what is less."""
    probability = ((uniform(2, 2, *shape, seed=seed) * levels).floor() / levels).to(dtype)
    mask = random_mask(2, *shape, density=density, seed=seed)
    limits = [int(inside.sum()) + extra for inside, extra in zip(mask, (0, 3), strict=True)]
    dense = rank_weights(probability[[1, 0], [0, 1]].double(), mask, limits, concentration=concentration)
    given_ = LAYOUTS[layout](probability) if layout else probability
    weights = foreground_weights(
        given_, pack_masks(mask), [1, 0], [0, 1], limits, concentration=concentration, activation="identity"
    )
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert weights.shape == (2, max(limits))
    for row_, inside, expected in zip(weights, mask, dense, strict=True):
        torch.testing.assert_close(row_[: inside.sum()].double(), expected[inside], rtol=1e-6, atol=0)
        assert not row_[inside.sum() :].any()


def test_foreground_weights_of_many_voxels():
    """Beyond a block of ranks, and where the float32 of d is felt."""
    # probabilities, since two sigmoids may round differently and so swap neighbours
    arguments = (
        uniform(1, 1, 30, 41, 37).float(),
        BitMasks.full(1, (30, 41, 37), torch.device("cpu")),
        [0],
        [0],
        [45510],
    )
    weights = foreground_weights(*arguments, activation="identity")
    truth = foreground_weights(*arguments, activation="identity", impl="reference")
    torch.testing.assert_close(weights, truth, rtol=1e-6, atol=0)
    assert weights.double().mean().item() == pytest.approx(1, abs=1e-6)


def test_foreground_weights_opcheck():
    words = pack_masks(random_mask(2, *SHAPE)).words
    for dtype in (torch.float32, torch.float64):
        arguments = (uniform(2, 2, *SHAPE).to(dtype), words, [0, 1], [1, 0], 120, 0.5, "sigmoid", "auto")
        torch.library.opcheck(torch.ops.rsuper.foreground_weights.default, arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": torch.ones(SHAPE)}, ValueError, r"logits: expected \(B, C, D, H, W\)"),
        ({"sample": [1]}, ValueError, r"sample\[0\]: expected 0 to 0"),
        ({"masks": BitMasks.full(2, SHAPE, torch.device("cpu"))}, ValueError, r"masks: expected .* = \(1, 4, 5, 6\)"),
        ({"masks": BitMasks.full(1, SHAPE, torch.device("meta"))}, ValueError, r"masks: .* logits \(cpu\), got meta"),
        ({"limits": []}, ValueError, "limits: expected one number of at least 0 for each of 1 planes"),
        ({"concentration": 1.0}, ValueError, r"concentration: expected a number in \[0, 1\), got 1.0"),
        ({"activation": "tanh"}, ValueError, "activation: expected one of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_foreground_weights_refusals(changes, error, message):
    arguments = {
        "logits": torch.ones(1, 1, *SHAPE),
        "masks": BitMasks.full(1, SHAPE, torch.device("cpu")),
        "sample": [0],
        "channel": [0],
        "limits": [120],
    }
    with pytest.raises(error, match=message):
        foreground_weights(**(arguments | changes))
