# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' plain-torch baselines compute what rsuper_kernels computes, on the benchmarks' inputs."""

import sys

import pytest
import torch

from benchmarks import cases
from benchmarks.inputs import scene
from benchmarks.memory import peak_extra

PAIRS = {
    "volume": (cases.volume, cases.competing_volume),
    "ball": (cases.ball, cases.competing_ball),
    # the dense formulation dilates as the public code does, and so do we for it
    "dense volume": (cases.cascade_volume, cases.dense_volume),
    "dense ball": (cases.cascade_ball, cases.dense_ball),
}


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "untrained"])
@pytest.mark.parametrize("pair", PAIRS)
def test_agreement(pair, trained):
    # a seed without two best places closer than the rounding of a convolution of 20,000 terms; and
    # in the trained scene, what the large one leaves makes the balls of the others grow; 5 mm is too small to be shrunk
    inputs = scene((33.0, 21.0, 5.0), edge=40, trained=trained, seed=1)
    cases.assert_agree(*(cases.Step.of(lambda x, f=f: f(x, inputs), inputs.logits) for f in PAIRS[pair]))


def test_disagreement_is_noticed():
    logits = torch.randn(2, 3, 4, 4, 4)
    ours = cases.Step.of(lambda x: x.sigmoid().sum(), logits)
    with pytest.raises(AssertionError, match="losses"):
        cases.assert_agree(ours, cases.Step.of(lambda x: x.sigmoid().sum() * 1.001, logits))
    with pytest.raises(AssertionError, match="gradients"):
        cases.assert_agree(ours, cases.Step.of(lambda x: x.sigmoid().sum().detach() + 0 * x.sum(), logits))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("extra_megabytes", [0, 40])
def test_peak_memory(extra_megabytes):
    """Neither the gradient counts nor what is alive before."""
    scratch = []

    def loss(x):
        scratch.append(torch.ones(extra_megabytes << 18))
        return x.sum()

    step = cases.Step.of(loss, torch.zeros(64 << 18))
    assert peak_extra(step) == pytest.approx(extra_megabytes << 20, abs=4 << 20)
    assert step.logits[0].grad is None
