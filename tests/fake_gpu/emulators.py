# SPDX-License-Identifier: Apache-2.0
"""What runs the kernels of the fake device."""

from __future__ import annotations

from typing import Any

from tests.emulation.launchers import Pair, emulator, required


def best_emulator() -> tuple[Any, list[str]]:
    """The fast emulators, as a launcher, and the backends that they serve."""
    found: dict[str, Any] = {}
    for impl, name in (("cuda", "shim"), ("triton", "interpreter")):
        try:
            found[impl] = emulator(name)
        except ImportError:
            if required():
                raise
    return Pair(found.get("triton"), found.get("cuda")), list(found)
