# SPDX-License-Identifier: Apache-2.0
"""Whether tests and benchmarks for a GPU run on a real one, on the fake one, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from tests.emulation.launchers import required

if TYPE_CHECKING:
    from tests.fake_gpu.device import FakeDevice

REAL = torch.cuda.is_available()
FAKE = not REAL and os.environ.get("RSUPER_FAKE_GPU", "0") not in ("", "0")


def missing() -> str:
    """Why nothing for a GPU can run here, or nothing. To be called before the first backward of the process."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if REAL:
        return "TRITON_INTERPRET=1 keeps kernels off the GPU: TRITON_INTERPRET=0, as in make" if interpreted else ""
    if not FAKE:
        return "no CUDA device"
    # read where kernels are defined
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        from tests.fake_gpu import build

        build.library()
    except ImportError as error:
        if required():
            raise
        return str(error)
    return ""


@contextlib.contextmanager
def chosen_device() -> Iterator[FakeDevice | None]:
    """The fake device, where it is the one; None for a real one, where nothing stands in."""
    if REAL:
        yield None
        return
    from tests.fake_gpu.device import fake_device
    from tests.fake_gpu.emulators import best_emulator

    with fake_device(*best_emulator()) as device:
        yield device
