# SPDX-License-Identifier: Apache-2.0
"""The fake device as a fixture. Torch counts devices at the first backward of a process, so it is loaded before."""

from __future__ import annotations

import pytest

from tests.emulation.launchers import required
from tests.fake_gpu.emulators import best_emulator

try:
    from tests.fake_gpu import build
    from tests.fake_gpu.device import fake_device

    build.library()
    MISSING = ""
except ImportError as error:
    if required():
        raise
    MISSING = str(error)


@pytest.fixture
def poisoned_empty():
    """The device fills what was never written to by itself, and does not count that."""


@pytest.fixture
def device():
    """A fake CUDA device with every backend that can be emulated here."""
    if MISSING:
        pytest.skip(MISSING)
    with fake_device(*best_emulator()) as device:
        yield device
