# SPDX-License-Identifier: Apache-2.0
"""Soft CT statistics by Triton's kernels, held against the reference in float64."""

import pytest
import torch

from rsuper_kernels.ops.attenuation_stats import attenuation_stats
from tests.ops.test_backends import compare, noise

PLANES = ([0, 1, 1], [1, 0, 0])


def check(ct, logits, tumour, organ, size, activation="sigmoid"):
    """Gradients of the logits and of a soft organ."""
    soft = [organ] if organ.is_floating_point() else []

    def stats(x, *organs, impl):
        organ_of = organs[0] if organs else organ
        return attenuation_stats(ct.to(x.dtype), x, tumour, organ_of, *PLANES, activation=activation, impl=impl)

    # sds and means are known to float32 rounding of the CT's size
    compare("triton", stats, [logits, *soft], 0, 1e-6 * (size + 60))


# dozens of voxels: of one or two, the sd is what rounding leaves of squares that cancel
@pytest.mark.parametrize("centre", [0.0, 1000.0])
@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 8, 16), (5, 9, 37)])
def test_shapes(triton, shape, centre):
    ct = centre + 20 * noise(1, 2, *shape)
    check(ct, 2 * noise(0, 2, 2, *shape), noise(2, 3, *shape) > 0, noise(3, 3, *shape).abs(), centre)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_types(triton, dtype, activation):
    shape = (3, 5, 16)
    logits = 2 * noise(0, 2, 2, *shape)
    logits = logits.sigmoid() if activation == "identity" else logits
    organ = (noise(3, 3, *shape) > -0.5).to(dtype)
    check(40 + 20 * noise(1, 2, *shape), logits, (noise(2, 3, *shape) > 0).to(dtype), organ, 40, activation)


def test_half_precision(triton):
    shape = (3, 5, 16)
    logits, organ = noise(0, 2, 2, *shape).bfloat16(), noise(3, 3, *shape) > 0
    stats = [
        attenuation_stats(40 + noise(1, 2, *shape), logits.to(dtype), organ, organ, *PLANES, impl=impl)
        for dtype, impl in ((torch.bfloat16, "triton"), (torch.float32, "reference"))
    ]
    torch.testing.assert_close(*stats, rtol=2e-6, atol=1e-4)


def test_empty_masks(triton):
    leaf, nothing = noise(0, 2, 2, 3, 4, 5).requires_grad_(), torch.zeros(3, 3, 4, 5)
    stats = attenuation_stats(noise(1, 2, 3, 4, 5), leaf, nothing, nothing, *PLANES, impl="triton")
    assert not stats.any()
    stats.sum().backward()
    assert not leaf.grad.any()
    assert attenuation_stats(noise(1, 2, 3, 4, 5), leaf, nothing[:0], nothing[:0], [], [], impl="triton").shape == (
        0,
        2,
        3,
    )
