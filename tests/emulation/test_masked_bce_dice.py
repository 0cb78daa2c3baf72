# SPDX-License-Identifier: Apache-2.0
"""Masked cross-entropy and Dice sums by Triton's kernels, held against the reference in float64."""

import pytest
import torch

from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from tests.ops.test_backends import compare, noise


def check(logits, targets, known, weights=None, activation="sigmoid", **planes):
    def sums(x, impl):
        return masked_bce_dice(x, targets, known, weights, activation=activation, impl=impl, **planes)

    # 1 - p of a float32 probability carries the rounding of 1
    compare("triton", sums, [logits], 0, 1e-6 if activation == "identity" else 1e-30)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 8, 16), (5, 9, 37)])
def test_shapes(triton, shape, weighted):
    logits = 8 * noise(0, 2, 2, *shape)
    weights = noise(3, *logits.shape).abs() if weighted else None
    check(logits, noise(1, *logits.shape) > 0, noise(2, *logits.shape) > -0.3, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_soft_targets_and_half_precision(triton, dtype, activation):
    logits = 2 * noise(0, 1, 3, 2, 5, 16)
    logits = (logits.sigmoid().clamp(0.05, 0.95) if activation == "identity" else logits).to(dtype)
    targets, known, weights = (noise(seed, *logits.shape).sigmoid() for seed in (1, 2, 3))
    check(logits, targets.half(), known, weights.double(), activation)


def test_groups(triton):
    """One plane twice, one not at all."""
    targets, known = noise(1, 3, 2, 3, 7) > 0, (noise(2, 3, 2, 3, 7) > 0).to(torch.int16)
    check(noise(0, 2, 2, 2, 3, 7), targets, known, sample=[0, 1, 0], channel=[1, 0, 1])


@pytest.mark.parametrize("size", [100.0, 3e38])
def test_large_logits(triton, size):
    x = torch.tensor([size, size, -size, -size]).reshape(1, 1, 1, 1, 4).requires_grad_()
    targets, known = torch.tensor([True, False, True, False]).reshape(x.shape), torch.ones(x.shape)
    sums = masked_bce_dice(x, targets, known, impl="triton")
    torch.testing.assert_close(sums, torch.tensor([[size, size, 1, 1, 1, 4]]))
    sums[0, :2].sum().backward()
    assert x.grad.flatten().tolist() == pytest.approx([0, 1, -1, 0], abs=1e-20)


def test_nothing(triton):
    nothing = torch.zeros(0, 2, 3, 4)
    none = {"sample": [], "channel": []}
    assert masked_bce_dice(noise(0, 1, 1, 2, 3, 4), nothing, nothing, impl="triton", **none).shape == (0, 6)
    leaf = torch.zeros(1, 1, 0, 3, 4).requires_grad_()
    sums = masked_bce_dice(leaf, leaf.detach(), leaf.detach(), impl="triton")
    assert not sums.any()
    sums.sum().backward()
    assert leaf.grad.shape == leaf.shape
