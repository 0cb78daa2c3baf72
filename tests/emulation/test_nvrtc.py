# SPDX-License-Identifier: Apache-2.0
"""Every kernel in CUDA C++ through NVRTC with the options of `gpu`, as on a user's machine: it needs no driver."""

import ctypes
import importlib.util
from pathlib import Path

import pytest

from rsuper_kernels import gpu
from tests.emulation.launchers import required

SOURCES = sorted((gpu.sources() / "cuda").glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    libraries = [library.parent for folder in folders for library in folder.glob("*/lib/libnvrtc.so.*")]
    if not libraries:
        if required():
            raise ImportError("nvidia-cuda-nvrtc is not installed")
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    # what it loads by name has to be there already
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        library = ctypes.CDLL(str(next(libraries[0].glob(name))))
    return library


def compiled(nvrtc: ctypes.CDLL, source: Path, architecture: str) -> bytes:
    """The machine code, or an assertion with the compiler's log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    code, name = source.read_bytes(), source.name.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code, name, 0, None, None) == 0
    # CuPy adds the last two
    options = [*gpu.COMPILE_OPTIONS, f"-I{gpu.sources() / 'include'}", f"-arch={architecture}"]
    options += ["--device-as-default-execution-space", "-ftz=true"]
    arguments = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), arguments)
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    assert b"warning" not in log.value, log.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiles(nvrtc, source, architecture):
    cubin = compiled(nvrtc, source, architecture)
    assert cubin.startswith(b"\x7fELF")
