# SPDX-License-Identifier: Apache-2.0
"""The losses end to end on a GPU: values and gradients of the CPU, whatever the recipe, dtype, layout or run."""

from __future__ import annotations

import pytest
import torch

from rsuper_kernels import ReportSupervisedLoss, attenuation_loss, ball_loss, segmentation_loss, volume_loss
from tests.helpers import LAYOUTS, Scene, scene

RECIPES = ["paper", "rsuper"]
LOSSES = {
    "volume": lambda x, s, **o: volume_loss(x, s.findings, s.regions, s.spacing, **o),
    "ball": lambda x, s, **o: sum(ball_loss(x, s.findings, s.regions, s.spacing, **o)),
    "attenuation": lambda x, s, **o: attenuation_loss(x, s.ct, s.findings, s.regions, s.spacing, **o),
    "segmentation": lambda x, s, **o: segmentation_loss(x, s.labels, **o),
    "total": lambda x, s, **o: ReportSupervisedLoss(**o)(
        [x, 0.5 * x], s.findings, s.regions, s.spacing, ct=s.ct, labels=s.labels, unknown=s.labels
    )["total"],
}
losses = pytest.mark.parametrize("name", LOSSES)


def on(device: str, dtype: torch.dtype = torch.float32) -> Scene:
    """The scene of the CPU's tests, on a device."""
    given = scene(dtype=dtype)
    return given.with_(
        logits=given.logits.to(device),
        regions=given.regions.to(device),
        ct=given.ct.to(device),
        labels=given.labels.to(device),
    )


def step(name: str, given: Scene, logits: torch.Tensor | None = None, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss and its gradient."""
    leaf = (given.logits if logits is None else logits).detach().requires_grad_()
    value = LOSSES[name](leaf, given, **options)
    value.backward()
    return value.detach(), leaf.grad


def agree(
    ours: tuple[torch.Tensor, torch.Tensor], truth: tuple[torch.Tensor, torch.Tensor], roundings: int = 1
) -> None:
    """In low precision, the gradient is rounded once, or as often as it is said."""
    info = torch.finfo(ours[1].dtype)
    rounding = 0.0 if ours[1].dtype == torch.float32 else roundings * info.eps
    torch.testing.assert_close(ours[0].cpu().double(), truth[0].double(), rtol=2e-5, atol=1e-6)
    expected = truth[1].double()
    allowed = 1e-4 * expected.abs().max() + rounding * expected.abs() + info.smallest_normal * info.eps
    assert ((ours[1].cpu().double() - expected).abs() <= allowed).all()


@losses
@pytest.mark.parametrize("recipe", RECIPES)
def test_as_on_the_cpu_without_waiting(name, recipe):
    given, truth = on("cuda"), on("cpu")
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = step(name, given, recipe=recipe)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ours[0].is_cuda
    agree(ours, step(name, truth, recipe=recipe, impl="reference"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["volume", "total"])
def test_low_precision(name, dtype):
    """The same logits, rounded first, in float32 on the CPU."""
    given, truth = on("cuda"), on("cpu")
    logits = truth.logits.to(dtype)
    ours = step(name, given, logits.to("cuda"))
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == dtype
    # of the total, the gradients of both heads are rounded, and then their sum
    agree(ours, step(name, truth, logits.float(), impl="reference"), roundings=2 if name == "total" else 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["volume", "ball"])
def test_layouts(name, layout):
    given, truth = on("cuda"), on("cpu")
    agree(step(name, given, LAYOUTS[layout](given.logits)), step(name, truth, impl="reference"))


@pytest.mark.parametrize("name", ["volume", "ball", "total"])
def test_repeats_bit_for_bit(name):
    given = on("cuda")
    for first, second in zip(step(name, given), step(name, given), strict=True):
        assert torch.equal(first.cpu(), second.cpu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    """Logits of a convolution under autocast; the loss is float32, gradients reach the float32 weights."""
    given = on("cuda")
    weight = torch.full((3, 1, 1, 1, 1), 0.01, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=dtype):
        logits = torch.nn.functional.conv3d(given.ct, weight)
        assert logits.dtype == dtype
        loss = LOSSES["total"](logits, given)
    assert loss.dtype == torch.float32
    loss.backward()
    assert weight.grad.dtype == torch.float32
    assert bool(weight.grad.isfinite().all())


def test_double_backward_is_refused():
    given = on("cuda")
    leaf = given.logits.detach().requires_grad_()
    (grad,) = torch.autograd.grad(LOSSES["volume"](leaf, given), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="backward"):
        grad.sum().backward()
