# SPDX-License-Identifier: Apache-2.0
"""Builders and measures shared by the tests. Nothing here computes what is tested."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from rsuper_kernels import FindingGroup, Findings, Tumour

Function = Callable[[torch.Tensor], torch.Tensor]

# (D, H, W): odd on all axes, one voxel on each axis in turn, one voxel in all.
SHAPES = [(17, 23, 9), (1, 6, 5), (6, 1, 5), (6, 5, 1), (1, 1, 7), (1, 1, 1)]
SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8), (0.7, 1.1, 2.5)]
AXIS_ORDERS = [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
LOW_PRECISION = [torch.float16, torch.bfloat16]


def logit(probability: float) -> float:
    """The logit whose sigmoid is `probability`."""
    return math.log(probability / (1 - probability))


def random_logits(*shape: int, scale: float = 2.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def random_mask(*shape: int, density: float = 0.4, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def ball_mask(
    shape: Sequence[int], centre: Sequence[float], radius: float, spacing: Sequence[float] = (1, 1, 1)
) -> torch.Tensor:
    """Bool (D, H, W): voxels within `radius` mm of the centre (in voxels), surface included."""
    axes = [(torch.arange(n, dtype=torch.float64) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    squared = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    return squared <= radius**2 * (1 + 1e-6)


def box_mask(shape: Sequence[int], *bounds: tuple[int, int]) -> torch.Tensor:
    """Bool (D, H, W), true in [start, stop) of each axis."""
    mask = torch.zeros(*shape, dtype=torch.bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


@dataclass(frozen=True)
class Scene:
    """All that the losses take."""

    logits: torch.Tensor
    findings: Findings
    regions: torch.Tensor | None
    spacing: tuple[float, float, float]
    ct: torch.Tensor
    labels: torch.Tensor

    def with_(self, **changes) -> Scene:
        return replace(self, **changes)


def scene(*, seed: int = 0, dtype: torch.dtype = torch.float64) -> Scene:
    """Two samples, two lesion channels and an organ, groups of every kind, anisotropic voxels, random logits."""
    shape = (9, 14, 11)
    regions = torch.zeros(2, *shape, dtype=torch.int64)
    regions[:, 1:6, 2:9, 1:8] = 1
    regions[:, 5:8, 7:13, 5:10] = 2
    groups = (
        FindingGroup(0, 0, 1, (Tumour((6.0,), attenuation="hypo"), Tumour((4.0, 5.0), attenuation="hyper"))),
        FindingGroup(0, 0, 2, (Tumour((5.0,), attenuation="iso"),)),
        FindingGroup(0, 1, (1, 2), (Tumour(attenuation="hyper"),)),
        FindingGroup(1, 0, 1),
        FindingGroup(1, 1, None, (Tumour((7.0, 5.0), attenuation="hypo"),)),
    )
    findings = Findings(groups, batch_size=2, channels=("lesion a", "lesion b", "organ"), lesion_channels=(0, 1))
    return Scene(
        logits=random_logits(2, 3, *shape, scale=1.5, seed=seed, dtype=dtype),
        findings=findings,
        regions=regions,
        spacing=(2.0, 0.8, 1.1),
        ct=random_logits(2, 1, *shape, scale=40, seed=seed + 1, dtype=dtype) + 60,
        labels=random_mask(2, 3, *shape, density=0.1, seed=seed + 2),
    )


def permuted(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The last three axes in another order, contiguous."""
    lead = tensor.ndim - 3
    return tensor.permute(*range(lead), *(lead + axis for axis in order)).contiguous()


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Equal values, every second element of a larger array whose other elements are NaN (or the highest value)."""
    fill = float("nan") if tensor.is_floating_point() else True if tensor.dtype == torch.bool else 2**6
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), fill, dtype=tensor.dtype, device=tensor.device)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def reversed_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Equal values, axes laid out in memory in the opposite order."""
    order = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Equal values, channels_last_3d where there are five axes."""
    return tensor.contiguous(memory_format=torch.channels_last_3d) if tensor.ndim == 5 else reversed_memory(tensor)


LAYOUTS = {"strided": strided, "reversed": reversed_memory, "channels_last_3d": channels_last}


def value_and_grad(function: Function, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The function's value, and the gradient of the logits under a fixed random gradient of the value."""
    leaf = logits.detach().requires_grad_()
    value = function(leaf)
    generator = torch.Generator().manual_seed(7)
    value.backward((torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 0.7).to(value.dtype))
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def assert_low_precision(function: Function, logits: torch.Tensor, dtype: torch.dtype) -> None:
    """Sums in float32 of low-precision logits, and a gradient that is rounded to their dtype once.

    The truth is the function itself in float64 at the rounded logits: rounding the input is not held against it.
    """
    rounded = logits.to(dtype)
    value, grad = value_and_grad(function, rounded)
    truth, true_grad = value_and_grad(function, rounded.double())
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    # float32 sums of up to some thousand terms of one size: a few units in the 6th digit of the largest
    torch.testing.assert_close(value.double(), truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))
    # one rounding to `dtype` (below its normal range the step is `tiny`), on top of float32 arithmetic
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    atol = tiny + 1e-5 * float(true_grad.abs().max())
    torch.testing.assert_close(grad.double(), true_grad, rtol=torch.finfo(dtype).eps, atol=atol)


def assert_repeatable(function: Function, logits: torch.Tensor) -> None:
    """Two runs agree bit for bit, and leave the logits alone."""
    before = logits.clone()
    first, second = value_and_grad(function, logits), value_and_grad(function, logits)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(logits, before)


def assert_compiles(function: Function, logits: torch.Tensor) -> None:
    """torch.compile makes one graph of the function, with the same value and gradient."""
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for got, expected in zip(value_and_grad(compiled, logits), value_and_grad(function, logits), strict=True):
        assert torch.equal(got, expected)


def assert_no_double_backward(function: Function, logits: torch.Tensor, op: str) -> None:
    """Differentiating the gradient is refused with the op's name, instead of giving zeros."""
    leaf = logits.detach().requires_grad_()
    (grad,) = torch.autograd.grad(function(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=f"backward.*{op}"):
        grad.sum().backward()
