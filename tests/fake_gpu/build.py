# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads device.cpp, before the first backward of a process, when torch counts devices."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")


@functools.cache
def library() -> ctypes.CDLL:
    """What tells torch's C++ that there is a CUDA device.

    Raises:
        ImportError: no C++ compiler is here, or it fails, or torch knows CUDA; the message says so.
    """
    if torch.backends.cuda.is_built():
        raise ImportError("a torch with CUDA has no room for a fake device")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise ImportError("the fake CUDA device needs a C++ compiler")
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = Path(__file__).resolve().parents[2] / "build" / "fake_gpu" / f"{key}.so"
    if not built.exists():
        _compile(compiler, built)
    return ctypes.CDLL(str(built))


def _compile(compiler: str, built: Path) -> None:
    home = Path(torch.__file__).parent
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        out = Path(folder) / "device.so"
        command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{home}/include", "-o", str(out), str(SOURCE)]
        command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
        done = subprocess.run([*command, f"-L{home}/lib", "-lc10", "-ltorch_cpu"], capture_output=True, text=True)
        if done.returncode:
            raise ImportError(f"the fake CUDA device does not compile:\n{done.stderr[-2000:]}")
        out.replace(built)
