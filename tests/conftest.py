# SPDX-License-Identifier: Apache-2.0
"""What every test starts from: fixed seeds, one thread, and uninitialised memory that shows."""

import os
import sys

# Triton reads it where kernels are defined; a process without it compiles them (tests/emulation).
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from hypothesis import settings

from rsuper_kernels import native

# One thread adds up in one order; hypothesis draws the same examples in every run and is not timed on a busy machine.
torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # whatever the test before it took


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch):
    """Fill what the package gets from torch.empty and its relatives, so that what is left unwritten shows."""

    def poison(allocate):
        def poisoned(*args, **kwargs):
            out = allocate(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if not caller.startswith("rsuper_kernels"):
                return out
            if out.is_floating_point():
                return out.fill_(float("nan"))
            return out.fill_(True if out.dtype == torch.bool else torch.iinfo(out.dtype).max)

        return poisoned

    places = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"), (native, "empty"))
    for owner, name in places:
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
