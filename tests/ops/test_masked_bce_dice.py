# SPDX-License-Identifier: Apache-2.0
"""The sums that masked cross-entropy and Dice are made of."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.masked_bce_dice import SUMS, masked_bce_dice
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

SHAPE = (4, 5, 6)
SAMPLE, CHANNEL = [0, 1, 1, 0], [2, 0, 0, 1]  # a plane twice, two planes not at all


def masks(*shape: int, groups: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weights = torch.rand(groups, *shape, generator=torch.Generator().manual_seed(5)) * 2
    return random_mask(groups, *shape, seed=1), random_mask(groups, *shape, density=0.7, seed=2), weights


def of_logits(targets, known, weights=None, sample=SAMPLE, channel=CHANNEL, **options):
    return lambda x: masked_bce_dice(x, targets, known, weights, sample=sample, channel=channel, **options)


def test_table():
    """Four voxels with p = 0.8 0.4 0.5 0.3, targets 1 0 1 1, the last unknown, weights 2 3 1 9.

    -ln 0.8 = 0.22314, -ln 0.5 = 0.69315, -ln (1 - 0.4) = 0.51083:
    positive 2 * 0.22314 + 0.69315 = 1.13943, negative 3 * 0.51083 = 1.53248, tp 1.3, fp 0.4, fn 0.2 + 0.5, known 3.
    """
    logits = torch.tensor([logit(p) for p in (0.8, 0.4, 0.5, 0.3)], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    targets, known = torch.tensor([1, 0, 1, 1]), torch.tensor([1, 1, 1, 0])
    weights = torch.tensor([2.0, 3.0, 1.0, 9.0])
    out = masked_bce_dice(logits, *(mask.reshape(logits.shape) for mask in (targets, known, weights)))
    expected = torch.tensor([[1.13943, 1.53248, 1.3, 0.4, 0.7, 3]], dtype=torch.float64)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    plain = masked_bce_dice(logits, targets.reshape(logits.shape), known.reshape(logits.shape))
    torch.testing.assert_close(plain[0, :2], torch.tensor([0.91629, 0.51083], dtype=torch.float64), atol=1e-5, rtol=0)
    assert SUMS == ("positive_bce", "negative_bce", "tp", "fp", "fn", "known")


def test_table_of_gradients():
    """At x = 0: d(-log p) = -0.5, d(-log(1 - p)) = 0.5, dp = 0.25; one target and one background voxel."""
    expected = {"positive_bce": [-0.5, 0], "negative_bce": [0, 0.5], "tp": [0.25, 0], "fp": [0, 0.25], "fn": [-0.25, 0]}
    for name, slopes in {**expected, "known": [0, 0]}.items():
        logits = torch.zeros(1, 1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
        targets = torch.tensor([True, False]).reshape(logits.shape)
        masked_bce_dice(logits, targets, torch.ones_like(targets))[0, SUMS.index(name)].backward()
        assert logits.grad.flatten().tolist() == slopes, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_matches_torch(shape, weighted):
    """Against torch's own cross-entropy and autograd, with a random gradient of every sum."""
    logits, (targets, known, weights) = random_logits(2, 3, *shape), masks(*shape)

    def plain(x: torch.Tensor) -> torch.Tensor:
        z, t, k = x[SAMPLE, CHANNEL], targets.double(), known.double()
        bce = F.binary_cross_entropy_with_logits(z, t, reduction="none") * k * (weights if weighted else 1)
        p = z.sigmoid() * k
        return torch.stack([t * bce, (1 - t) * bce, t * p, (1 - t) * p, t * (k - p), k], 1).sum((2, 3, 4))

    got = value_and_grad(of_logits(targets, known, weights if weighted else None), logits)
    for tensor, expected in zip(got, value_and_grad(plain, logits), strict=True):
        torch.testing.assert_close(tensor, expected)


def test_every_plane_by_default():
    logits = random_logits(2, 3, *SHAPE)
    targets, known, weights = (mask.unflatten(0, (2, 3)) for mask in masks(*SHAPE, groups=6))
    everything = value_and_grad(lambda x: masked_bce_dice(x, targets, known, weights), logits)
    sample, channel = [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]
    listed = of_logits(targets.flatten(0, 1), known.flatten(0, 1), weights.flatten(0, 1), sample, channel)
    for got, expected in zip(everything, value_and_grad(listed, logits), strict=True):
        assert torch.equal(got, expected)


def test_a_plane_may_serve_many_groups():
    """Plane (1, 0) serves two groups: its gradient is the sum of both, and unnamed planes get none."""
    logits, (targets, known, _) = random_logits(2, 3, *SHAPE), masks(*SHAPE)
    _, grad = value_and_grad(of_logits(targets, known), logits)
    untouched = [(0, 0), (1, 1), (1, 2)]
    assert not any(grad[plane].any() for plane in untouched)
    assert all(grad[plane].any() for plane in [(0, 1), (0, 2), (1, 0)])


@given(seed=st.integers(0, 99), cut=st.floats(0, 1))
def test_adds_up_over_known_voxels(seed, cut):
    """The sums over two disjoint known masks are those over their union; tp + fn counts targets."""
    logits, (targets, known, weights) = random_logits(2, 3, *SHAPE, seed=seed), masks(*SHAPE)
    part = torch.rand(known.shape, generator=torch.Generator().manual_seed(seed)) < cut
    first, second, both = (of_logits(targets, k, weights)(logits) for k in (known & part, known & ~part, known))
    torch.testing.assert_close(first + second, both)
    torch.testing.assert_close(both[:, 2] + both[:, 4], (targets & known).flatten(1).sum(1).double())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_known_and_no_targets(shape):
    logits = random_logits(2, 3, *shape)
    nothing, everything = torch.zeros(4, *shape), torch.ones(4, *shape)
    value, grad = value_and_grad(of_logits(everything, nothing, everything), logits)
    assert not value.any()
    assert not grad.any()
    empty = of_logits(nothing, everything)(logits)
    assert not empty[:, [0, 2, 4]].any()
    full = of_logits(everything, everything)(logits)
    assert not full[:, [1, 3]].any()
    assert empty[:, 5].tolist() == full[:, 5].tolist() == [everything[0].numel()] * 4


def test_no_groups():
    logits = random_logits(2, 3, *SHAPE)
    value, grad = value_and_grad(of_logits(torch.ones(0, *SHAPE), torch.ones(0, *SHAPE), None, [], []), logits)
    assert value.shape == (0, 6)
    assert not grad.any()


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_gradcheck(activation, weighted):
    targets, known, weights = masks(2, 3, 2)
    targets = targets * 0.7 + 0.1  # soft
    logits = random_logits(2, 3, 2, 3, 2)
    logits = (logits if activation == "sigmoid" else logits.sigmoid()).requires_grad_()
    assert torch.autograd.gradcheck(
        of_logits(targets, known, weights if weighted else None, activation=activation), logits
    )


def test_identity_takes_probabilities():
    logits, (targets, known, weights) = random_logits(2, 3, *SHAPE), masks(*SHAPE)
    expected = of_logits(targets, known, weights)(logits)
    torch.testing.assert_close(of_logits(targets, known, weights, activation="identity")(logits.sigmoid()), expected)


def test_identity_at_zero_and_one_is_torch_s():
    """log 0 counts as -100, and its slope is finite: as in torch.nn.functional.binary_cross_entropy."""
    p = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64).reshape(p.shape)

    def ours(x: torch.Tensor) -> torch.Tensor:
        return masked_bce_dice(x, targets, torch.ones_like(targets), activation="identity")[:, :2].sum()

    got = value_and_grad(ours, p)
    expected = value_and_grad(lambda x: F.binary_cross_entropy(x, targets, reduction="sum"), p)
    assert got[0].item() == expected[0].item() == 200
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("size", [60.0, 1e4, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_logits(size, dtype):
    """log(1 + exp(x)) is x for large x: no overflow, and slopes of 0 and 1."""
    logits = torch.tensor([size, size, -size, -size], dtype=dtype).reshape(1, 1, 1, 1, 4)
    targets = torch.tensor([True, False, True, False]).reshape(logits.shape)
    value, _ = value_and_grad(lambda x: masked_bce_dice(x, targets, torch.ones_like(targets)), logits)
    # the right voxels cost exp(-size) or nothing, the wrong ones `size`
    torch.testing.assert_close(value, torch.tensor([[size, size, 1, 1, 1, 4]], dtype=dtype))
    leaf = logits.clone().requires_grad_()
    masked_bce_dice(leaf, targets, torch.ones_like(targets))[0, :2].sum().backward()
    torch.testing.assert_close(leaf.grad.flatten(), torch.tensor([0, 1, -1, 0], dtype=dtype), atol=1e-20, rtol=1e-6)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(dtype):
    assert_low_precision(of_logits(*masks(17, 23, 9)), random_logits(2, 3, 17, 23, 9, scale=4), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    logits, tensors = random_logits(2, 3, *SHAPE), masks(*SHAPE)
    expected = value_and_grad(of_logits(*tensors), logits)
    got = value_and_grad(of_logits(*map(layout, tensors)), layout(logits))
    for tensor, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(tensor, truth, rtol=1e-13, atol=1e-13)  # another order of summing
    whole = tuple(mask.unflatten(0, (2, 3)) for mask in masks(*SHAPE, groups=6))
    torch.testing.assert_close(masked_bce_dice(layout(logits), *map(layout, whole)), masked_bce_dice(logits, *whole))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
def test_masks_of_any_type(dtype):
    logits, (targets, known, weights) = random_logits(2, 3, *SHAPE), masks(*SHAPE)
    expected = of_logits(targets, known, weights)(logits)
    assert torch.equal(of_logits(targets.to(dtype), known.to(dtype), weights)(logits), expected)


def test_deterministic():
    tensors = masks(17, 23, 9)
    before = [tensor.clone() for tensor in tensors]
    assert_repeatable(of_logits(*tensors), random_logits(2, 3, 17, 23, 9, dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_opcheck():
    logits = random_logits(2, 3, 2, 3, 2, dtype=torch.float32).requires_grad_()
    targets, known, weights = masks(2, 3, 2)
    for w in (weights, None):
        arguments = (logits, targets, known, w, SAMPLE, CHANNEL, "sigmoid", "auto")
        torch.library.opcheck(torch.ops.rsuper.masked_bce_dice.default, arguments)
        backward = (torch.rand(4, 6), logits.detach(), *arguments[1:])
        torch.library.opcheck(torch.ops.rsuper.masked_bce_dice_backward.default, backward)


def test_compile():
    assert_compiles(of_logits(*masks(*SHAPE)), random_logits(2, 3, *SHAPE))


def test_refuses_what_has_no_gradient():
    logits, (targets, known, weights) = random_logits(2, 3, *SHAPE), masks(*SHAPE)
    assert_no_double_backward(of_logits(targets, known, weights), logits, "masked_bce_dice")
    assert not of_logits(targets, known, weights)(logits).requires_grad
    for needy in range(3):
        tensors = [targets.double(), known.double(), weights.double()]
        tensors[needy].requires_grad_()
        for leaf in (logits, logits.clone().requires_grad_()):
            out = of_logits(*tensors)(leaf)
            with pytest.raises(
                NotImplementedError, match="masked_bce_dice: gradients reach logits only; detach targets"
            ):
                out.sum().backward()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": torch.ones(2, 3, *SHAPE).int()}, TypeError, "logits: expected a floating-point .* got torch.int32"),
        (
            {"logits": torch.ones(2, 3, 4, 5)},
            ValueError,
            r"logits: expected \(B, C, D, H, W\), got shape \(2, 3, 4, 5\)",
        ),
        ({"targets": torch.ones(3, *SHAPE)}, ValueError, r"targets: expected .* = \(4, 4, 5, 6\), got shape \(3,"),
        (
            {"known": torch.ones(4, 4, 5, 7)},
            ValueError,
            r"known: expected .* = \(4, 4, 5, 6\), got shape \(4, 4, 5, 7\)",
        ),
        ({"weights": torch.ones(4)}, ValueError, r"weights: expected .* = \(4, 4, 5, 6\), got shape \(4,\)"),
        ({"known": torch.ones(4, *SHAPE, device="meta")}, ValueError, r"known: .* logits \(cpu\), got meta"),
        ({"sample": None}, ValueError, "sample, channel: give both, or neither"),
        (
            {"sample": None, "channel": None},
            ValueError,
            r"targets: expected \(B, C, D, H, W\) = \(2, 3, 4, 5, 6\), got",
        ),
        ({"channel": [0, 1, 2, 3]}, ValueError, r"channel\[3\]: expected 0 to 2 .* got 3"),
        ({"sample": [0, 1]}, ValueError, "sample, channel: expected equally many, got 2 and 4"),
        ({"activation": "tanh"}, ValueError, "activation: expected one of sigmoid, identity, got 'tanh'"),
        ({"impl": "triton"}, BackendError, 'masked_bce_dice: impl="triton" cannot run: '),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    arguments = {
        "logits": torch.ones(2, 3, *SHAPE),
        "targets": torch.ones(4, *SHAPE),
        "known": torch.ones(4, *SHAPE),
        "sample": SAMPLE,
        "channel": CHANNEL,
    }
    with pytest.raises(error, match=message):
        masked_bce_dice(**(arguments | changes))


def test_logarithms_are_natural():
    logits = torch.zeros(1, 1, 1, 1, 1)
    assert masked_bce_dice(logits, logits + 1, logits + 1)[0, 0].item() == pytest.approx(math.log(2))
