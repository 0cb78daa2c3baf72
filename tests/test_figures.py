# SPDX-License-Identifier: Apache-2.0
"""The tables of the benchmarks' figures say what was met, and explain the rest."""

import pytest

from benchmarks import figures

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "torch": "2.13", "commit": "abc", "load": 0.1}


def loss(title, copies, at_most, extra_memory=0.1, beyond="", bound=""):
    times = {"ms": 10.0, "copy_ms": 5.0, "clone_ms": 7.0, "clones": 1.5}
    limits = {"at_most": at_most, "beyond": beyond, "bound": bound}
    return {"title": title, "copies": copies, "extra_memory": extra_memory, **times, **limits}


def measured(**losses):
    comparison = {"title": "ball", "ms": 2.0, "their_ms": 2500.0, "times": 1250.0, "at_least": 1000.0, "bound": ""}
    return {"machine": MACHINE, "memory_at_most": 0.25, "losses": losses, "comparisons": {"dense-ball": comparison}}


def test_what_was_met():
    rows = measured(volume=loss("volume", 1.0, 1.0), ball=loss("ball", 3.0, 2.7, bound="Memory"))
    text = figures.report(rows)
    assert "| volume | 10.0 | 1.0 | 1.0 | yes | 1.5 | 0.10 | yes |" in text
    assert "| ball | 10.0 | 3.0 | 2.7 | NO | 1.5 | 0.10 | yes |" in text
    assert "| dense convolutions: ball | 2.0 | 2,500 | 1,250 | 1,000 | yes |" in text
    assert figures.explanations(rows) == ["- Memory: ball."]


@pytest.mark.parametrize(("copies", "met"), [(2.9, "yes"), (3.3, "NO")])
def test_a_limit_beyond_another_row(copies, met):
    both = loss("both", copies, 0.2, beyond="ball")
    assert f"| {copies} | 3.2 | {met} |" in figures.report(measured(ball=loss("ball", 3.0, 4.0), both=both))
    assert f"| {copies} |  |  |" in figures.report(measured(both=both))


def test_memory_is_explained_too_and_a_busy_machine_named():
    rows = measured(a=loss("a", 1.0, 2.0, extra_memory=0.3), b=loss("b", 3.0, 2.0))
    assert figures.explanations(rows) == ["- Not explained yet: b.", f"- {figures.MEMORY}: a."]
    assert "busy" not in figures.report(rows)
    assert "busy" in figures.report({**rows, "machine": {**MACHINE, "load": 3.0}})
