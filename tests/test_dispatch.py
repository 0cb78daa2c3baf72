# SPDX-License-Identifier: Apache-2.0
"""Which backend serves a call, and why the others do not."""

import logging

import pytest
import torch

from rsuper_kernels import dispatch
from rsuper_kernels.dispatch import Backend, BackendError

CPU, META = torch.device("cpu"), torch.device("meta")


def reference(x: int) -> str:
    return f"reference {x}"


def fast(x: int) -> str:
    return f"fast {x}"


def not_today() -> tuple[bool, str]:
    return False, "it needs a full moon"


def today() -> tuple[bool, str]:
    return True, "full moon"


@pytest.fixture
def toy(monkeypatch):
    """A registry with one op, "toy", that has a reference, and the log of one-time messages cleared."""
    monkeypatch.setattr(dispatch, "_registry", {})
    dispatch._log_once.cache_clear()
    dispatch.register("toy", "reference", Backend(f"{__name__}:reference"))
    return "toy"


def test_auto_takes_the_fastest_that_can(toy):
    assert dispatch.select(toy, "auto", CPU)(1) == "reference 1"
    dispatch.register(toy, "cpu", Backend(f"{__name__}:fast", devices=("cpu",), probe=f"{__name__}:today"))
    assert dispatch.select(toy, "auto", CPU)(1) == "fast 1"
    assert dispatch.select(toy, "auto", META)(1) == "reference 1"
    assert dispatch.select(toy, "reference", CPU)(1) == "reference 1"


def test_cuda_stands_for_triton_where_there_is_no_cpp(toy):
    dispatch.register(toy, "triton", Backend(f"{__name__}:fast"))
    assert dispatch.select(toy, "cuda", CPU)(1) == "fast 1"
    dispatch.register(toy, "cuda", Backend(f"{__name__}:fast", probe=f"{__name__}:not_today"))
    with pytest.raises(BackendError, match='toy: impl="cuda" cannot run: it needs a full moon'):
        dispatch.select(toy, "cuda", CPU)


def test_auto_falls_back_and_says_why_once(toy, caplog):
    dispatch.register(toy, "cpu", Backend(f"{__name__}:fast", probe=f"{__name__}:not_today"))
    with caplog.at_level(logging.DEBUG, logger="rsuper_kernels.dispatch"):
        for _ in range(3):
            assert dispatch.select(toy, "auto", CPU)(2) == "reference 2"
    assert caplog.messages.count("toy: cpu not used: it needs a full moon") == 1


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (None, "toy has no cpu implementation yet"),
        (Backend("x:y", devices=("cuda", "xpu")), "it runs on cuda or xpu tensors, and the tensor is on cpu"),
        (Backend("x:y", probe=f"{__name__}:not_today"), "it needs a full moon"),
    ],
    ids=["missing", "device", "probe"],
)
def test_explicit_choice_raises_with_the_reason(toy, backend, reason):
    if backend is not None:
        dispatch.register(toy, "cpu", backend)
    assert dispatch.refusal(toy, "cpu", CPU) == reason
    with pytest.raises(BackendError, match=f'^toy: impl="cpu" cannot run: {reason}$'):
        dispatch.select(toy, "cpu", CPU)


def test_unknown_implementation(toy):
    with pytest.raises(ValueError, match="impl: expected one of auto, cuda, triton, cpu, reference, got 'opencl'"):
        dispatch.select(toy, "opencl", CPU)


def test_nothing_serves(toy):
    dispatch.register(toy, "reference", Backend("x:y", devices=("cuda",)))
    with pytest.raises(BackendError, match="toy: no implementation serves cpu tensors"):
        dispatch.select(toy, "auto", CPU)


def test_a_probe_is_asked_before_its_backend_is_imported(toy):
    dispatch.register(toy, "triton", Backend("no.such.module:f", probe=f"{__name__}:not_today"))
    assert dispatch.select(toy, "auto", CPU)(3) == "reference 3"


def test_every_op_has_a_reference_on_any_device():
    expected = {
        "region_sums",
        "dilate",
        "ball_search",
        "ball_select",
        "rank_weights",
        "masked_bce_dice",
        "attenuation_stats",
    }
    ops = dispatch.ops()
    assert expected <= set(ops)
    assert ops == sorted(ops)
    for op in ops:
        assert dispatch.refusal(op, "reference", META) is None
        assert callable(dispatch.select(op, "reference", CPU))


def test_native_dilation_is_for_the_cpu():
    assert "it runs on cpu tensors, and the tensor is on meta" in dispatch.refusal("dilate", "cpu", META)
