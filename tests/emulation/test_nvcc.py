# SPDX-License-Identifier: Apache-2.0
"""What nvcc makes of every kernel in CUDA C++: no spills, few registers, little shared memory."""

import re
import shutil
import subprocess

import pytest

from rsuper_kernels import gpu
from tests.emulation.launchers import required

ARCHITECTURES = ["80", "90", "100"]
# Registers of a thread. A multiprocessor has 65536; the selection and the weights have one block on it anyway.
MOST_REGISTERS = {"ball_select": 128, "combine": 32, "dilate": 48, "rank_weights": 64}
# What every GPU gives a block without being asked.
MOST_SHARED = 48 << 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", MOST_REGISTERS)
def test_resources(tmp_path, source, architecture):
    nvcc = shutil.which("nvcc")
    if nvcc is None and not required():
        pytest.skip("nvcc is not on the PATH")
    done = subprocess.run(
        [
            *(nvcc or "nvcc", *gpu.COMPILE_OPTIONS, f"-I{gpu.sources() / 'include'}", "-Xptxas", "-v", "-Werror"),
            *("all-warnings", "-cubin", f"-arch=sm_{architecture}", "-o", str(tmp_path / "out.cubin")),
            str(gpu.sources() / "cuda" / f"{source}.cu"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", done.stderr)) == {"0"}
    assert max(map(int, re.findall(r"Used (\d+) registers", done.stderr))) <= MOST_REGISTERS[source]
    assert max(map(int, re.findall(r"(\d+) bytes smem", done.stderr)), default=0) <= MOST_SHARED


def test_every_source_has_its_limit():
    assert sorted(MOST_REGISTERS) == sorted(source.stem for source in (gpu.sources() / "cuda").glob("*.cu"))
