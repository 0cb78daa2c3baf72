# SPDX-License-Identifier: Apache-2.0
"""Region sums by Triton's kernels, held against the reference in float64."""

import pytest
import torch

from rsuper_kernels.ops.region_sums import region_sums
from tests.ops.test_backends import compare, noise

PLANES = ([0, 1, 1, 0], [0, 1, 1, 0])  # two planes twice, one not at all


def check(logits, regions, ids=None, activation="sigmoid"):
    def sums(x, impl):
        return region_sums(x, regions, *PLANES, ids, activation=activation, impl=impl)

    compare("triton", sums, [logits], 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 8, 16), (5, 9, 37)])
def test_shapes(triton, shape):
    check(3 * noise(0, 2, 2, *shape), noise(1, 4, *shape) > 0.5)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_masks_of_any_type(triton, dtype):
    check(noise(0, 2, 2, 2, 3, 5), (2 * noise(1, 4, 2, 3, 5)).abs().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_half_precision(triton, dtype, activation):
    logits = (3 * noise(0, 2, 2, 2, 5, 16)).to(dtype)
    check(logits.sigmoid() if activation == "identity" else logits, noise(1, 4, 2, 5, 16) > 0, None, activation)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16], ids=str)
def test_labels(triton, dtype):
    labels = noise(1, 2, 3, 5, 7).abs().mul(2).to(dtype)
    # 257 and -256 are 1 and 0 to whoever forgets what the type cannot hold
    check(noise(0, 2, 2, 3, 5, 7), labels, [[1], [0, 2], [7, 257, -256], []])


def test_strides_and_nothing(triton):
    turned = noise(0, 2, 2, 3, 4, 5).transpose(3, 4)
    check(turned, (noise(1, 4, 3, 4, 5) > 0).transpose(2, 3))
    assert region_sums(turned, torch.zeros(0, 3, 5, 4), [], [], impl="triton").shape == (0,)
    leaf = torch.zeros(2, 2, 0, 3, 4).requires_grad_()
    sums = region_sums(leaf, torch.zeros(4, 0, 3, 4), *PLANES, impl="triton")
    assert sums.tolist() == [0, 0, 0, 0]
    sums.sum().backward()
    assert leaf.grad.shape == leaf.shape
