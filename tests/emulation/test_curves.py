# SPDX-License-Identifier: Apache-2.0
"""The curves' kernels against plain torch in float64, values and gradients."""

import pytest
import torch

from rsuper_kernels.ops.curves import bce_dice, volume

RATES = {"rtol": 2e-5, "atol": 1e-7}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def agree(function, sums: torch.Tensor) -> None:
    """Values of each output, and gradients of a random weighing of them."""
    results = []
    for impl, leaf in (("triton", sums.clone()), ("reference", sums.double())):
        leaf.requires_grad_()
        out = function(leaf, impl)
        outputs = list(out) if isinstance(out, tuple) else [out]
        (grad,) = torch.autograd.grad(sum((i + 0.3) * output for i, output in enumerate(outputs)), leaf)
        results.append([*(output.detach().double() for output in outputs), grad.double()])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **RATES)


@pytest.mark.parametrize("count", [0, 7])
def test_volume(triton, count):
    """Below, within, and above the tolerance; open-ended below, between and above its bounds; without voxels."""
    reported = [1000.0, 1000.0, 1000.0, 50.0, 0.0, 900.0, 900.0, 900.0, 700.0]
    open_ended = [False] * 5 + [True] * 3 + [False]
    least = [0.0] * 5 + [300.0] * 3 + [0.0]
    predicted = [200.0, 950.0, 1500.0, 10.0, 40.0, 100.0, 500.0, 9e5, 10.0]
    sums = torch.tensor([predicted, [5.0] * 8 + [0.0]]).T.contiguous() / torch.tensor([1.5, 1.0])
    agree(
        lambda x, impl: volume(
            x,
            reported,
            least,
            open_ended,
            voxel=1.5,
            most=5e5,
            tolerance=0.1,
            smoothing=500.0,
            count=count,
            impl=impl,
        ),
        sums,
    )


@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (1, 3), (2, 5)])
@pytest.mark.parametrize("voxels", [0, 300])
@pytest.mark.parametrize(("empty", "mean_of_present"), [("skip", True), ("skip", False), ("one", False)])
def test_bce_dice(triton, batch, channels, voxels, empty, mean_of_present):
    """Among them a plane without target, one of false positives and one of false negatives alone."""
    tp, fp, fn = (100 * noise(batch, channels, seed=seed) for seed in range(3))
    for plane, (some_tp, some_fp, some_fn) in enumerate([(0, 1, 0), (1, 1, 0), (1, 0, 1)][: batch * channels]):
        b, c = divmod(plane, channels)
        tp[b, c], fp[b, c], fn[b, c] = tp[b, c] * some_tp, fp[b, c] * some_fp, fn[b, c] * some_fn
    sums = torch.stack([50 * noise(batch, channels, seed=3), 70 * noise(batch, channels, seed=4), tp, fp, fn, tp], -1)
    sums[..., 5] = (tp + fn).round() + 40
    weights, shares = noise(batch * channels, seed=5).tolist(), noise(batch * channels, seed=6).tolist()
    agree(
        lambda x, impl: bce_dice(
            x, weights, shares, voxels=voxels, empty=empty, mean_of_present=mean_of_present, impl=impl
        ),
        sums,
    )


def test_one_output_alone(triton):
    """The gradient of the Dice alone, and of nothing at all."""
    sums = (20 * noise(1, 3, 6) + 1).requires_grad_()
    for wanted in (0, 1):
        (grad,) = torch.autograd.grad(bce_dice(sums, [1.0] * 3, [1.0] * 3, impl="triton")[wanted], sums)
        assert grad[..., (slice(2, 5), slice(0, 2))[wanted]].count_nonzero() == 0
        assert grad.isfinite().all()
