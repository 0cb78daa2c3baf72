# SPDX-License-Identifier: Apache-2.0
"""Registers, spills, memory and 128-bit accesses of every kernel, against the table of the last look."""

from dataclasses import replace

import pytest

from tests.emulation import compiler, resources
from tests.emulation.launchers import required


@pytest.fixture(scope="module")
def rows():
    try:
        compiler.require("triton")
        compiler.require("nvcc")
    except ImportError as error:
        if required():
            raise
        pytest.skip(str(error))
    return resources.measured()


def test_resources(rows):
    assert resources.complaints(rows, resources.read()) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spills": 8}, "spills 8"),
        ({"registers": 500}, "registers 500"),
        ({"shared": 1 << 20}, "1048576 bytes of shared memory"),
        ({"instructions": 10**6}, "instructions 1000000"),
        ({"wide_loads": -1}, "wide_loads -1"),
        ({"kernel": "another"}, "another"),
    ],
)
def test_a_change_for_the_worse_is_found(rows, change, complaint):
    changed = [replace(rows[0], **change), *rows[1:]]
    found = resources.complaints(changed, rows)
    assert any(complaint in line for line in found)
    assert not [line for line in resources.complaints(rows, rows) if complaint in line]
