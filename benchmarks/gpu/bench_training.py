# SPDX-License-Identifier: Apache-2.0
"""What share of a training step the losses are: MONAI's SegResNet under autocast, bfloat16, with AdamW."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.cases import CASES, TRAINING
from benchmarks.gpu.inputs import Inputs
from benchmarks.gpu.measure import OnDevice
from benchmarks.gpu.steps import Step
from tests.fake_gpu.choice import FAKE


def training_step(given: Inputs):
    """A function that trains a network on the volume and the ball loss once."""
    monai_nets = pytest.importorskip("monai.networks.nets")
    with torch.device("cuda"):
        network = monai_nets.SegResNet(
            spatial_dims=3,
            init_filters=4 if FAKE else 16,
            in_channels=1,
            out_channels=given.heads[0].shape[1],
            norm=("instance", {}),
        )
    optimizer = torch.optim.AdamW(network.parameters(), foreach=not FAKE)
    ct = given.ct[:, None] / 100

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = network(ct)
        predicted = Inputs((logits,), given.label_map, None, given.ct, given.findings, given.spacing)
        losses = [part for name in ("volume", "ball-3") for part in CASES[name].loss(predicted, "auto")]
        torch.stack([loss.float() for loss in losses]).sum().backward()
        optimizer.step()

    return step


@pytest.mark.benchmark(group="GPU: a training step")
def test_share_of_training(benchmark, figures, rounds: int) -> None:
    given = TRAINING.inputs(torch.bfloat16)
    step = training_step(given)
    step()
    whole = OnDevice(step)
    alone = [OnDevice(Step(CASES[name].loss, given)) for name in ("volume", "ball-3")]
    for loss in alone:
        loss.function()

    def losses() -> None:
        for loss in alone:
            loss()

    benchmark.pedantic(whole, setup=losses, rounds=rounds)
    spent = sum(loss.milliseconds for loss in alone)
    figures.training["SegResNet"] = {
        "title": "SegResNet, 16 filters, autocast bf16, AdamW; volume and ball loss",
        "size": str(TRAINING),
        "ms": whole.milliseconds,
        "quartiles": whole.quartiles,
        "losses_ms": spent,
        "share": spent / whole.milliseconds,
    }
