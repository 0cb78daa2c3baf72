# SPDX-License-Identifier: Apache-2.0
"""Radiology reports: read from files, extracted into a table of tumours, and turned into Findings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# imported when asked for: torch takes seconds, and `rsuper --help` needs none of it
_MODULES = {"Record": "records", "read_report": "rules", "to_findings": "record_findings", "write_report": "sentences"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
