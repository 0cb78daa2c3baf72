# SPDX-License-Identifier: Apache-2.0
"""Sums of probabilities over regions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.region_sums import region_sums
from tests.helpers import (
    LAYOUTS,
    LOW_PRECISION,
    SHAPES,
    assert_compiles,
    assert_low_precision,
    assert_no_double_backward,
    assert_repeatable,
    logit,
    random_logits,
    random_mask,
    value_and_grad,
)

SAMPLE, CHANNEL = [0, 1, 1, 0, 1], [2, 0, 0, 2, 1]
IDS = [(1,), (2, 3), (1, 2, 3, 4), (), (99,)]
SHAPE = (5, 4, 6)


def label_map(*shape: int) -> torch.Tensor:
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(3), dtype=torch.int32)


def in_regions(labels: torch.Tensor, ids=IDS, sample=SAMPLE) -> torch.Tensor:
    """The masks (G, D, H, W) that `ids` stand for, voxel by voxel."""
    wanted = [[value in group for value in labels[b].flatten().tolist()] for group, b in zip(ids, sample, strict=True)]
    return torch.tensor(wanted).reshape(len(ids), *labels.shape[1:])


def of_masks(masks: torch.Tensor, sample=SAMPLE, channel=CHANNEL, **options):
    return lambda logits: region_sums(logits, masks, sample, channel, **options)


def test_table():
    """p = 0.1 to 0.6 in six voxels; ids 1, 2, 1 | 0, 2, 3."""
    probabilities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    logits = torch.tensor([logit(p) for p in probabilities], dtype=torch.float64).reshape(1, 1, 1, 2, 3)
    labels = torch.tensor([1, 2, 1, 0, 2, 3]).reshape(1, 1, 2, 3)
    ids = [(1,), (2,), (1, 3), (0,), (7,), (1, 1)]
    out = region_sums(logits, labels, [0] * 6, [0] * 6, ids)
    # 0.1 + 0.3; 0.2 + 0.5; 0.4 + 0.6; 0.4; absent; an id named twice counts once
    torch.testing.assert_close(out, torch.tensor([0.4, 0.7, 1.0, 0.4, 0, 0.4], dtype=torch.float64))


def test_table_of_gradients():
    """d/dx = grad * weight * p (1 - p); two groups on one plane add up: 2 * 0.25 * 1 + 3 * 0.25 * 0.5 = 0.875."""
    logits = torch.zeros(1, 1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0], [0.5, 1.0]]).reshape(2, 1, 1, 2)
    region_sums(logits, weights, [0, 0], [0, 0]).backward(torch.tensor([2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.875, 0.75], dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_label_map_equals_masks(shape):
    logits, labels = random_logits(2, 3, *shape), label_map(2, *shape)
    by_ids = value_and_grad(lambda x: region_sums(x, labels, SAMPLE, CHANNEL, IDS), logits)
    by_masks = value_and_grad(of_masks(in_regions(labels)), logits)
    for got, expected in zip(by_ids, by_masks, strict=True):
        assert torch.equal(got, expected)
    assert by_ids[0].tolist()[3:] == [0, 0]  # no ids, and an id that does not occur


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_and_empty_regions(shape):
    logits = random_logits(2, 3, *shape)
    full, empty = torch.ones(5, *shape), torch.zeros(5, *shape)
    expected = torch.stack([logits[b, c].sigmoid().sum() for b, c in zip(SAMPLE, CHANNEL, strict=True)])
    torch.testing.assert_close(region_sums(logits, full, SAMPLE, CHANNEL), expected)
    value, grad = value_and_grad(of_masks(empty), logits)
    assert not value.any()
    assert not grad.any()


@given(seed=st.integers(0, 1000), cut=st.floats(0.0, 1.0))
def test_adds_up_over_disjoint_regions(seed, cut):
    logits = random_logits(1, 1, *SHAPE, seed=seed)
    draw = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    parts = torch.stack([draw < cut, draw >= cut, torch.ones_like(draw, dtype=torch.bool)])
    first, second, whole = region_sums(logits, parts, [0] * 3, [0] * 3)
    torch.testing.assert_close(first + second, whole)


@given(st.permutations(range(5)))
def test_follows_the_order_of_the_groups(order):
    logits, masks = random_logits(2, 3, *SHAPE), random_mask(5, *SHAPE)
    sums = region_sums(logits, masks, SAMPLE, CHANNEL)
    shuffled = region_sums(logits, masks[order], [SAMPLE[i] for i in order], [CHANNEL[i] for i in order])
    assert torch.equal(shuffled, sums[order])


def test_identity_takes_probabilities():
    logits, masks = random_logits(2, 3, *SHAPE), random_mask(5, *SHAPE)
    expected = region_sums(logits, masks, SAMPLE, CHANNEL)
    torch.testing.assert_close(region_sums(logits.sigmoid(), masks, SAMPLE, CHANNEL, activation="identity"), expected)


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("by", ["masks", "ids"])
def test_gradcheck(activation, by):
    shape = (2, 3, 2)
    labels = label_map(2, *shape)
    logits = random_logits(2, 3, *shape).requires_grad_()
    regions, ids = (labels, IDS) if by == "ids" else (torch.rand(5, *shape), None)
    assert torch.autograd.gradcheck(
        lambda x: region_sums(x, regions, SAMPLE, CHANNEL, ids, activation=activation), logits
    )


def test_opcheck():
    logits = random_logits(2, 3, 2, 3, 2, dtype=torch.float32).requires_grad_()
    labels = label_map(2, 2, 3, 2)
    ids, counts = [i for group in IDS for i in group], [len(group) for group in IDS]
    for regions, tables in ((in_regions(labels), ([], [])), (labels, (ids, counts))):
        arguments = (logits, regions, SAMPLE, CHANNEL, *tables, "sigmoid", "auto")
        torch.library.opcheck(torch.ops.rsuper.region_sums.default, arguments)
        grad = torch.rand(5)
        torch.library.opcheck(torch.ops.rsuper.region_sums_backward.default, (grad, logits.detach(), *arguments[1:]))


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(dtype):
    assert_low_precision(of_masks(random_mask(5, 17, 23, 9)), random_logits(2, 3, 17, 23, 9, scale=4), dtype)


def test_half_precision_sums_do_not_overflow():
    """80,000 voxels of p = 1 are more than float16 can hold."""
    logits = torch.full((1, 1, 40, 40, 50), 30.0, dtype=torch.float16)
    assert region_sums(logits, torch.ones(1, 40, 40, 50), [0], [0]).item() == 80_000


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    logits, labels = random_logits(2, 3, *SHAPE), label_map(2, *SHAPE)
    masks = in_regions(labels)
    expected = value_and_grad(of_masks(masks), logits)
    by_masks = value_and_grad(of_masks(layout(masks)), layout(logits))
    by_ids = value_and_grad(lambda x: region_sums(x, layout(labels), SAMPLE, CHANNEL, IDS), layout(logits))
    for got in (by_masks, by_ids):
        for tensor, truth in zip(got, expected, strict=True):
            torch.testing.assert_close(tensor, truth, rtol=1e-13, atol=1e-13)  # another order of summing


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_label_maps_of_any_integer_type(dtype):
    logits, labels = random_logits(2, 3, *SHAPE), label_map(2, *SHAPE)
    expected = region_sums(logits, labels, SAMPLE, CHANNEL, IDS)
    assert torch.equal(region_sums(logits, labels.to(dtype), SAMPLE, CHANNEL, IDS), expected)


def test_no_groups():
    logits = random_logits(2, 3, *SHAPE)
    value, grad = value_and_grad(of_masks(torch.ones(0, *SHAPE), [], []), logits)
    assert value.shape == (0,)
    assert not grad.any()


def test_deterministic():
    masks = random_mask(5, 17, 23, 9)
    before = masks.clone()
    assert_repeatable(of_masks(masks), random_logits(2, 3, 17, 23, 9, dtype=torch.float32))
    assert torch.equal(masks, before)


def test_compile():
    assert_compiles(of_masks(random_mask(5, *SHAPE)), random_logits(2, 3, *SHAPE))


def test_refuses_what_has_no_gradient():
    logits, masks = random_logits(2, 3, *SHAPE), torch.rand(5, *SHAPE)
    assert_no_double_backward(of_masks(masks), logits, "region_sums")
    assert not region_sums(logits, masks, SAMPLE, CHANNEL).requires_grad
    for leaf in (logits, logits.clone().requires_grad_()):
        out = region_sums(leaf, masks.clone().requires_grad_(), SAMPLE, CHANNEL)
        with pytest.raises(NotImplementedError, match="region_sums: gradients reach logits only; detach regions"):
            out.sum().backward()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"logits": torch.ones(2, 3, *SHAPE, dtype=torch.int64)},
            TypeError,
            "logits: expected a floating-point .* got torch.int64",
        ),
        (
            {"logits": torch.ones(2, *SHAPE)},
            ValueError,
            r"logits: expected \(B, C, D, H, W\), got shape \(2, 5, 4, 6\)",
        ),
        ({"logits": [[1.0]]}, TypeError, "logits: expected a torch.Tensor, got list"),
        (
            {"regions": torch.ones(4, *SHAPE)},
            ValueError,
            r"regions: expected masks .* = \(5, 5, 4, 6\), got shape \(4, 5",
        ),
        (
            {"regions": torch.ones(5, *SHAPE, device="meta")},
            ValueError,
            r"regions: .* device of logits \(cpu\), got meta",
        ),
        ({"sample": [0, 1]}, ValueError, "sample, channel: expected equally many, got 2 and 5"),
        ({"sample": [0, 1, 1, 0, 2]}, ValueError, r"sample\[4\]: expected 0 to 1 .* got 2"),
        ({"channel": [2, 0, -1, 2, 1]}, ValueError, r"channel\[2\]: expected 0 to 2 .* got -1"),
        (
            {"ids": IDS, "regions": label_map(5, *SHAPE)},
            ValueError,
            r"regions: expected a label map \(B, D, H, W\) = \(2, 5, 4, 6\), got shape \(5,",
        ),
        (
            {"ids": IDS, "regions": torch.ones(2, *SHAPE)},
            TypeError,
            "regions: expected an integer tensor, got torch.float32",
        ),
        ({"ids": IDS[:2], "regions": label_map(2, *SHAPE)}, ValueError, "ids: expected one list .* 5 groups, got 2"),
        ({"activation": "softmax"}, ValueError, "activation: expected one of sigmoid, identity, got 'softmax'"),
        ({"impl": "fast"}, ValueError, "impl: expected one of auto, cuda, triton, cpu, reference, got 'fast'"),
        ({"impl": "cuda"}, BackendError, 'region_sums: impl="cuda" cannot run: '),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    arguments = {
        "logits": torch.ones(2, 3, *SHAPE),
        "regions": torch.ones(5, *SHAPE),
        "sample": SAMPLE,
        "channel": CHANNEL,
    }
    with pytest.raises(error, match=message):
        region_sums(**(arguments | changes))


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(("dtype", "wrapped"), [(torch.uint8, 300), (torch.uint8, -212), (torch.int16, 65580)])
def test_ids_that_the_label_map_cannot_hold_match_nothing(impl, dtype, wrapped):
    """All three are 44 when cut to the dtype, and 44 is what the map holds."""
    labels = torch.full((1, 2, 2, 2), 44, dtype=dtype)
    sums = region_sums(torch.zeros(1, 1, 2, 2, 2), labels, [0, 0], [0, 0], [[44], [wrapped]], impl=impl)
    assert sums.tolist() == [4.0, 0.0]
