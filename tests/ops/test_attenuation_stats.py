# SPDX-License-Identifier: Apache-2.0
"""Soft mean and standard deviation of the CT inside a tumour and in the organ around it."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.attenuation_stats import attenuation_stats
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
SAMPLE, CHANNEL = [0, 1, 1], [1, 0, 0]


def scene(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """CT (2, D, H, W) in HU, and tumour and organ masks of three groups."""
    ct = random_logits(2, *shape, scale=40, seed=seed) + 60
    return ct, random_mask(3, *shape, density=0.5, seed=seed + 1), random_mask(3, *shape, density=0.8, seed=seed + 2)


def of_logits(ct, tumour, organ, sample=SAMPLE, channel=CHANNEL, **options):
    return lambda x: attenuation_stats(ct, x, tumour, organ, sample, channel, **options)


def test_table():
    """Four voxels of 10 20 30 100 HU, p = 0.5 0.5 0.5 0.2; tumour mask 1 1 0 0, organ mask 1 1 1 0.

    Tumour: weight 1, mean 15, sd 5. Organ: weights 0.5 0.5 1 (outside the tumour mask p counts as 0): weight 2,
    mean (5 + 10 + 30) / 2 = 22.5, variance (0.5 * 12.5^2 + 0.5 * 2.5^2 + 7.5^2) / 2 = 68.75.
    """
    ct = torch.tensor([10.0, 20.0, 30.0, 100.0], dtype=torch.float64).reshape(1, 1, 1, 4)
    logits = torch.tensor([logit(p) for p in (0.5, 0.5, 0.5, 0.2)], dtype=torch.float64).reshape(1, 1, 1, 1, 4)
    tumour, organ = torch.tensor([1, 1, 0, 0]).reshape(ct.shape), torch.tensor([1, 1, 1, 0]).reshape(ct.shape)
    out = attenuation_stats(ct, logits, tumour, organ, [0], [0], eps=0.0)
    expected = torch.tensor([[[1, 15, 5], [2, 22.5, math.sqrt(68.75)]]], dtype=torch.float64)
    torch.testing.assert_close(out, expected)
    # eps joins the weights that means are divided by
    biased = attenuation_stats(ct, logits, tumour, organ, [0], [0], eps=1.0)
    torch.testing.assert_close(biased[0, :, 1], torch.tensor([15 * 1 / 2, 45 / 3], dtype=torch.float64))


def test_table_of_gradients():
    """d mean = (v - mean) / weight * p (1 - p): of the tumour's first voxel -5 / 1 * 0.25, its second 5 * 0.25.

    The organ's mean moves the other way by what leaves it: -(10 - 22.5) / 2 * 0.25 and -(20 - 22.5) / 2 * 0.25.
    """
    ct = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64).reshape(1, 1, 1, 3)
    tumour, organ = torch.tensor([1, 1, 0]).reshape(ct.shape), torch.ones(1, 1, 1, 3)
    for row, expected in ((0, [-1.25, 1.25, 0]), (1, [1.5625, 0.3125, 0])):
        logits = torch.zeros(1, 1, 1, 1, 3, dtype=torch.float64, requires_grad=True)
        attenuation_stats(ct, logits, tumour, organ, [0], [0], eps=0.0)[0, row, 1].backward()
        torch.testing.assert_close(logits.grad.flatten(), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_plain_torch(shape):
    ct, tumour, organ = scene(*shape)
    logits = random_logits(2, 3, *shape)

    def moments(mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        weight = mask.sum((1, 2, 3))
        mean = (mask * values).sum((1, 2, 3)) / (weight + 1e-5)
        spread = mask * (values - mean[:, None, None, None]) ** 2
        variance = spread.sum((1, 2, 3)) / (weight + 1e-5)
        # the root of an exact 0 has slope 0 by definition
        sd = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
        return torch.stack([weight, mean, sd], 1)

    def plain(x: torch.Tensor) -> torch.Tensor:
        p = x[SAMPLE, CHANNEL].sigmoid() * tumour
        return torch.stack([moments(p, ct[SAMPLE]), moments((1 - p) * organ, ct[SAMPLE])], 1)

    got = value_and_grad(of_logits(ct, tumour, organ), logits)
    for tensor, expected in zip(got, value_and_grad(plain, logits), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-9)


@given(shift=st.floats(-900, 900), scale=st.floats(0.1, 5.0))
def test_mean_and_sd_follow_the_unit_of_the_ct(shift, scale):
    ct, tumour, organ = scene(*SHAPE)
    logits = random_logits(2, 3, *SHAPE)
    before = attenuation_stats(ct, logits, tumour, organ, SAMPLE, CHANNEL, eps=0.0)
    after = attenuation_stats(scale * ct + shift, logits, tumour, organ, SAMPLE, CHANNEL, eps=0.0)
    torch.testing.assert_close(after[..., 0], before[..., 0])
    torch.testing.assert_close(after[..., 1], scale * before[..., 1] + shift)
    torch.testing.assert_close(after[..., 2], scale * before[..., 2])


def test_large_offsets_do_not_cancel():
    """sd of 1 HU around -990 HU in float32: one pass of squares would lose it."""
    ct = torch.where(random_mask(1, 17, 23, 9, density=0.5), -991.0, -989.0)
    logits, full = torch.zeros(1, 1, 17, 23, 9), torch.ones(1, 17, 23, 9)
    out = attenuation_stats(ct, logits, full, full, [0], [0])
    expected = ct.double().std(correction=0)
    torch.testing.assert_close(out[0, :, 2].double(), expected.expand(2), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_empty_and_constant(shape):
    """Empty masks give zeros and no gradient; a constant CT has sd 0 and asks for no change through it."""
    ct, logits = torch.full((2, *shape), 40.0), random_logits(2, 3, *shape, dtype=torch.float32)
    nothing, everything = torch.zeros(3, *shape), torch.ones(3, *shape)
    value, grad = value_and_grad(of_logits(ct, nothing, nothing), logits)
    assert not value.any()
    assert not grad.any()
    leaf = logits.clone().requires_grad_()
    out = attenuation_stats(ct, leaf, everything, everything, SAMPLE, CHANNEL, eps=0.0)
    torch.testing.assert_close(out[..., 1], torch.full((3, 2), 40.0))
    assert out[..., 2].max() < 1e-4
    out[..., 2].sum().backward()
    assert leaf.grad.isfinite().all()


def test_gradient_at_sd_zero_is_zero():
    """One voxel: its sd is exactly 0, whose root has no slope."""
    leaf = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    out = attenuation_stats(40 * one, leaf, one, one, [0], [0], eps=0.0)
    assert out[0, :, 2].tolist() == [0, 0]
    out[0, :, 2].sum().backward()
    assert leaf.grad.item() == 0


@pytest.mark.parametrize("size", [60.0, 1e4, -60.0, -1e4])
def test_extreme_logits(size):
    ct, tumour, organ = scene(*SHAPE)
    logits = torch.full((2, 3, *SHAPE), size)
    value, grad = value_and_grad(of_logits(ct.float(), tumour, organ), logits)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    weight = tumour.flatten(1).sum(1) if size > 0 else torch.zeros(3)
    torch.testing.assert_close(value[:, 0, 0], weight.float())


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_gradcheck(activation):
    ct, tumour, organ = scene(2, 3, 2)
    organ = (organ * 0.6 + 0.2).double().requires_grad_()
    logits = random_logits(2, 2, 2, 3, 2, scale=1)
    logits = (logits if activation == "sigmoid" else logits.sigmoid()).requires_grad_()

    def stats(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return attenuation_stats(ct, x, tumour, mask, SAMPLE, CHANNEL, activation=activation)

    assert torch.autograd.gradcheck(stats, (logits, organ))


@pytest.mark.parametrize(("needs_logits", "needs_organ"), list(itertools.product([True, False], repeat=2)))
def test_every_subset_of_gradients(needs_logits, needs_organ):
    ct, tumour, organ = scene(*SHAPE)

    def gradients(first: bool, second: bool) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x = random_logits(2, 3, *SHAPE).requires_grad_(first)
        mask = organ.float().requires_grad_(second)
        out = attenuation_stats(ct, x, tumour, mask, SAMPLE, CHANNEL)
        assert out.requires_grad == (first or second)
        if out.requires_grad:
            (out * torch.arange(18).reshape(3, 2, 3)).sum().backward()
        return x.grad, mask.grad

    both, some = gradients(True, True), gradients(needs_logits, needs_organ)
    assert [grad.dtype for grad in both] == [torch.float64, torch.float32]
    for grad, expected, needed in zip(some, both, (needs_logits, needs_organ), strict=True):
        assert torch.equal(grad, expected) if needed else grad is None


def test_refuses_what_has_no_gradient():
    ct, tumour, organ = scene(*SHAPE)
    logits = random_logits(2, 3, *SHAPE)
    assert_no_double_backward(of_logits(ct, tumour, organ), logits, "attenuation_stats")
    for tensors in ((ct.clone().requires_grad_(), tumour), (ct, tumour.double().requires_grad_())):
        out = attenuation_stats(tensors[0], logits, tensors[1], organ, SAMPLE, CHANNEL)
        with pytest.raises(
            NotImplementedError, match="attenuation_stats: gradients reach logits and organ only; detach ct"
        ):
            out.sum().backward()


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(dtype):
    ct, tumour, organ = scene(17, 23, 9)
    assert_low_precision(of_logits(ct.float(), tumour, organ), random_logits(2, 3, 17, 23, 9), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    logits, tensors = random_logits(2, 3, *SHAPE), scene(*SHAPE)
    expected = value_and_grad(of_logits(*tensors), logits)
    got = value_and_grad(of_logits(*map(layout, tensors)), layout(logits))
    for tensor, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(tensor, truth, rtol=1e-11, atol=1e-11)  # another order of summing


def test_no_groups():
    ct, nothing = scene(*SHAPE)[0], torch.zeros(0, *SHAPE)
    value, grad = value_and_grad(of_logits(ct, nothing, nothing, [], []), random_logits(2, 3, *SHAPE))
    assert value.shape == (0, 2, 3)
    assert not grad.any()


def test_deterministic():
    tensors = scene(17, 23, 9)
    before = [tensor.clone() for tensor in tensors]
    assert_repeatable(of_logits(*tensors), random_logits(2, 3, 17, 23, 9, dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_opcheck():
    ct, tumour, organ = scene(2, 3, 2)
    logits = random_logits(2, 2, 2, 3, 2, dtype=torch.float32).requires_grad_()
    for mask in (organ, organ.float().requires_grad_()):
        arguments = (ct, logits, tumour, mask, SAMPLE, CHANNEL, 1e-5, "sigmoid", "auto")
        torch.library.opcheck(torch.ops.rsuper.attenuation_stats.default, arguments)
        backward = (torch.rand(3, 2, 3), ct, logits.detach(), tumour, mask.detach(), *arguments[4:])
        torch.library.opcheck(torch.ops.rsuper.attenuation_stats_backward.default, backward)


def test_compile():
    assert_compiles(of_logits(*scene(*SHAPE)), random_logits(2, 3, *SHAPE))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ct": torch.ones(2, *SHAPE).long()}, TypeError, "ct: expected a floating-point tensor .* got torch.int64"),
        ({"ct": torch.ones(1, *SHAPE)}, ValueError, r"ct: expected \(B, D, H, W\) = \(2, 4, 5, 6\), got shape \(1,"),
        ({"ct": torch.ones(2, *SHAPE, device="meta")}, ValueError, r"ct: .* logits \(cpu\), got meta"),
        ({"logits": torch.ones(2, 3, *SHAPE).long()}, TypeError, "logits: expected a floating-point tensor"),
        ({"tumour": torch.ones(2, *SHAPE)}, ValueError, r"tumour: expected \(G, D, H, W\) = \(3, 4, 5, 6\), got"),
        ({"organ": torch.ones(3, 4, 5, 5)}, ValueError, r"organ: expected .*, got shape \(3, 4, 5, 5\)"),
        ({"sample": [0, 1, 5]}, ValueError, r"sample\[2\]: expected 0 to 1 .* got 5"),
        ({"activation": "none"}, ValueError, "activation: expected one of sigmoid, identity, got 'none'"),
        ({"impl": "cuda"}, BackendError, 'attenuation_stats: impl="cuda" cannot run: '),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    ct, tumour, organ = scene(*SHAPE)
    arguments = {"ct": ct, "logits": torch.ones(2, 3, *SHAPE), "tumour": tumour, "organ": organ}
    with pytest.raises(error, match=message):
        attenuation_stats(**({**arguments, "sample": SAMPLE, "channel": CHANNEL} | changes))
