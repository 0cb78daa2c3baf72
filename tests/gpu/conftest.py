# SPDX-License-Identifier: Apache-2.0
"""Every test here runs on cuda:0: a real one, or the fake one of tests/fake_gpu where RSUPER_FAKE_GPU=1 asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_gpu.choice import REAL, chosen_device, missing

MISSING = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture
def poisoned_empty():
    """The fake device does so itself; on a real one it would be launches of its own, in graphs, too."""


@pytest.fixture(autouse=True)
def cuda():
    """The device; None if it is a real one."""
    if MISSING:
        pytest.skip(MISSING)
    with chosen_device() as device:
        yield device


@pytest.fixture
def real():
    """Skip on the fake device; the test says why in its docstring."""
    if not REAL:
        pytest.skip("needs a real CUDA device")
