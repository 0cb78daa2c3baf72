# SPDX-License-Identifier: Apache-2.0
"""Every test here runs on cuda:0: a real one, or the fake one of tests/fake_gpu where RSUPER_FAKE_GPU=1 asks for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.emulation.launchers import required

REAL = torch.cuda.is_available()
FAKE = not REAL and os.environ.get("RSUPER_FAKE_GPU", "0") not in ("", "0")
MISSING = "" if REAL or FAKE else "no CUDA device"

if FAKE:
    try:
        from tests.fake_gpu import build

        build.library()
    except ImportError as error:
        if required():
            raise
        MISSING = str(error)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")


@pytest.fixture
def poisoned_empty():
    """The fake device does so itself; on a real one it would be launches of its own, in graphs, too."""


@pytest.fixture(autouse=True)
def cuda():
    """The device; None on a real one, where nothing stands in."""
    if MISSING:
        pytest.skip(MISSING)
    if REAL:
        yield None
        return
    from tests.fake_gpu.device import fake_device
    from tests.fake_gpu.emulators import best_emulator

    with fake_device(*best_emulator()) as device:
        yield device


@pytest.fixture
def real():
    """Skip on the fake device; the test says why in its docstring."""
    if not REAL:
        pytest.skip("needs a real CUDA device")
