# SPDX-License-Identifier: Apache-2.0
"""The nets that conftest.py spreads must themselves hold."""

import pytest
import torch


def call(function: str, module: str) -> torch.Tensor:
    """The value of an expression over torch, evaluated as code of `module`."""
    return eval(function, {"__name__": module, "torch": torch})


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("torch.empty(3)", float("nan")),
        ("torch.empty(3, dtype=torch.float16)", float("nan")),
        ("torch.empty_like(torch.zeros(3, dtype=torch.float64))", float("nan")),
        ("torch.zeros(3).new_empty(3)", float("nan")),
        ("torch.empty(3, dtype=torch.bool)", True),
        ("torch.zeros(3).new_empty(3, dtype=torch.int64)", 2**63 - 1),
    ],
)
def test_uninitialised_memory_of_the_package_is_poisoned(function, value):
    out = call(function, "rsuper_kernels.ops.toy.reference")
    torch.testing.assert_close(out, torch.full_like(out, value), equal_nan=True)


def test_seed_and_threads_are_fixed():
    assert torch.get_num_threads() == 1
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn)
