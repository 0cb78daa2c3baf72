# SPDX-License-Identifier: Apache-2.0
"""triton-viz's sanitizer proves for some kernels that no access of a launch is out of bounds.

The others it cannot follow. The interpreter of PTX checks every access of every kernel that the tests make.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulation.launchers import required

ROOT = Path(__file__).resolve().parents[2]
# Their addresses and masks do not depend on what other loads give.
DECIDED = (
    "bce_dice_kernel",
    "curve_backward_kernel",
    "fields_kernel",
    "target_starts_kernel",
    "unpack_masks_kernel",
    "volume_kernel",
)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    try:
        import triton_viz  # noqa: F401
    except ImportError as error:
        if required():
            raise
        pytest.skip(f"{error} (pip install triton-viz)")
    done = subprocess.run(
        [sys.executable, "-m", "tests.emulation.sanitizer"], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kernel", DECIDED)
def test_no_access_is_out_of_bounds(verdicts, kernel):
    assert verdicts[kernel] == "clean"


def test_a_store_beyond_the_end_is_found(verdicts):
    assert verdicts["store_beyond_kernel"].startswith("out of bounds")


def test_the_others_cannot_be_followed(verdicts):
    """A new version may follow more of them: then they belong to DECIDED."""
    others = set(verdicts) - {*DECIDED, "store_beyond_kernel"}
    assert {kernel for kernel in others if verdicts[kernel] == "clean"} == set()
    assert not [kernel for kernel in others if verdicts[kernel].startswith("out of bounds")]
