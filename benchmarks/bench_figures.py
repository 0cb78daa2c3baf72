# SPDX-License-Identifier: Apache-2.0
"""The figures that the losses are held to. `make bench` prints them as tables and writes results/figures.json."""

import pytest

from benchmarks.cases import CASES, COMPARISONS, assert_agree
from benchmarks.measure import Timed, clone_of, copy_of, rounds_for
from benchmarks.memory import peak_extra_of

SECONDS = 2.0
"""Time for the repetitions of a row."""


def alternate(benchmark, step: Timed, others: list[Timed], rounds: int) -> object:
    """Measure `step`, each of `others` taking its turn before every repetition; returns what `step` returned last."""

    def setup() -> None:
        for other in others:
            other()

    return benchmark.pedantic(step, setup=setup, rounds=rounds)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.benchmark(group="figures: the losses, forward and backward")
def test_loss(benchmark, figures, name: str) -> None:
    case = CASES[name]
    extra = peak_extra_of(name)
    ours = case.step()
    step, copy, clone = Timed(ours), Timed(copy_of(ours)), Timed(clone_of(ours))
    copy.function()
    alternate(benchmark, step, [copy, clone], rounds_for(ours, SECONDS))
    figures.losses[name] = {
        "title": case.title,
        "ms": step.milliseconds,
        "quartiles": step.quartiles,
        "rounds": len(step.seconds),
        "copy_ms": copy.milliseconds,
        "clone_ms": clone.milliseconds,
        "copies": step.milliseconds / copy.milliseconds,
        "clones": step.milliseconds / clone.milliseconds,
        "at_most": case.at_most,
        "beyond": case.beyond,
        "bound": case.bound,
        "logits_bytes": ours.nbytes,
        "extra_bytes": extra,
        "extra_memory": extra / ours.nbytes,
    }


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.benchmark(group="figures: plain torch, forward and backward")
def test_comparison(benchmark, figures, name: str) -> None:
    comparison = COMPARISONS[name]
    ours, theirs = comparison.steps()
    mine, other = Timed(ours), Timed(theirs)
    rounds = 1 if comparison.slow else rounds_for(theirs, SECONDS)
    ours()
    # of ours, more repetitions cost little, and the first one after a baseline finds the caches full of its volumes
    value = alternate(benchmark, other, [mine] * 5, rounds)
    assert_agree(ours, theirs, (ours(), value))
    figures.comparisons[name] = {
        "title": comparison.title,
        "ms": mine.milliseconds,
        "quartiles": mine.quartiles,
        "their_ms": other.milliseconds,
        "their_quartiles": other.quartiles,
        "rounds": rounds,
        "times": other.milliseconds / mine.milliseconds,
        "at_least": comparison.at_least,
        "bound": comparison.bound,
    }
