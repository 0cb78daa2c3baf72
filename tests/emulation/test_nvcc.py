# SPDX-License-Identifier: Apache-2.0
"""What nvcc makes of every kernel in CUDA C++: no spills, few registers, little shared memory."""

import re

import pytest

from rsuper_kernels import gpu
from tests.emulation.compiler import compile_cuda
from tests.emulation.launchers import required

TARGETS = [80, 90, 100]
# Registers of a thread. A multiprocessor has 65536; the selection and the weights have one block on it anyway.
MOST_REGISTERS = {"ball_select": 128, "combine": 32, "dilate": 80, "rank_weights": 64}
# What every GPU gives a block without being asked.
MOST_SHARED = 48 << 10


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", MOST_REGISTERS)
def test_resources(source, target):
    try:
        _, log = compile_cuda(gpu.sources() / "cuda" / f"{source}.cu", target, "cubin", verbose=True)
    except ImportError as error:
        if required():
            raise
        pytest.skip(str(error))
    assert "warning" not in log
    assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", log)) == {"0"}
    assert max(map(int, re.findall(r"Used (\d+) registers", log))) <= MOST_REGISTERS[source]
    assert max(map(int, re.findall(r"(\d+) bytes smem", log)), default=0) <= MOST_SHARED


def test_every_source_has_its_limit():
    assert sorted(MOST_REGISTERS) == sorted(source.stem for source in (gpu.sources() / "cuda").glob("*.cu"))
