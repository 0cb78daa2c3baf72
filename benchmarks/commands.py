# SPDX-License-Identifier: Apache-2.0
"""`rsuper` in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys


def rsuper(*arguments: object, **environment: str) -> None:
    """Run a command; RuntimeError with what it said where it fails."""
    command = [sys.executable, "-m", "rsuper_train", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
