# SPDX-License-Identifier: Apache-2.0
"""The losses end to end, forward and backward, beside a copy of all logits into a gradient."""

import pytest
import torch

from benchmarks.inputs import SPACING, Scene
from rsuper_kernels import ReportSupervisedLoss, ball_loss, volume_loss

GROUP = "losses, forward and backward"


@pytest.mark.benchmark(group=GROUP)
def test_copy(benchmark, inputs: Scene) -> None:
    benchmark(torch.empty_like(inputs.logits).copy_, inputs.logits)


@pytest.mark.parametrize("recipe", ["paper", "rsuper"])
@pytest.mark.benchmark(group=GROUP)
def test_volume_loss(benchmark, forward_backward, inputs: Scene, recipe: str) -> None:
    benchmark(forward_backward(lambda x: volume_loss(x, inputs.findings, inputs.label_map, SPACING, recipe=recipe)))


@pytest.mark.parametrize("recipe", ["paper", "rsuper"])
@pytest.mark.benchmark(group=GROUP)
def test_ball_loss(benchmark, forward_backward, inputs: Scene, recipe: str) -> None:
    benchmark(forward_backward(lambda x: sum(ball_loss(x, inputs.findings, inputs.label_map, SPACING, recipe=recipe))))


@pytest.mark.benchmark(group=GROUP)
def test_report_supervised_loss(benchmark, forward_backward, inputs: Scene) -> None:
    criterion = ReportSupervisedLoss()
    benchmark(
        forward_backward(lambda x: criterion(x, inputs.findings, inputs.label_map, SPACING, ct=inputs.ct)["total"])
    )
