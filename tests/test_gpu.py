# SPDX-License-Identifier: Apache-2.0
"""The launcher of a real GPU, which no emulator runs, with stubs in place of CuPy, Triton and torch's streams."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rsuper_kernels import gpu


class OnCuda:
    """As much of a tensor on cuda:1 as the launcher looks at."""

    device = torch.device("cuda:1")

    def __init__(self, address: int) -> None:
        self._address = address

    def data_ptr(self) -> int:
        return self._address


class Calls:
    """What the stubs were asked for, in order, and which contexts were open."""

    def __init__(self) -> None:
        self.launches: list[tuple] = []
        self.open: list[str] = []
        self.modules: list[dict] = []

    @contextlib.contextmanager
    def context(self, name: str):
        self.open.append(name)
        yield
        self.open.remove(name)


@pytest.fixture
def calls(monkeypatch):
    """CUDA as stubs; OnCuda counts as a tensor."""
    calls = Calls()
    monkeypatch.setattr(torch.cuda, "device", lambda device: calls.context(f"torch {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1000 + device.index))
    monkeypatch.setattr(gpu.torch, "Tensor", (torch.Tensor, OnCuda))
    gpu._compiled.cache_clear()
    yield calls
    gpu._compiled.cache_clear()


class RawModule:
    """CuPy's, with its signature."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", name_expressions=None) -> None:
        assert isinstance(code, str)
        assert isinstance(options, tuple)
        self.options = options

    def get_function(self, name: str):
        def run(grid, block, args, *, shared_mem=0):
            self.calls.launches.append((name, grid, block, args, shared_mem, list(self.calls.open)))

        return run


def cupy(calls: Calls, version: int) -> SimpleNamespace:
    """CuPy as it was before version 14, and since."""

    def raw_module(**options):
        calls.modules.append(options)
        module = RawModule(**options)
        module.calls = calls
        return module

    stream = SimpleNamespace()
    if version >= 14:
        stream.from_external = lambda one: calls.context(f"stream {one.__cuda_stream__()}")
    cuda = SimpleNamespace(
        Device=lambda index: calls.context(f"cupy {index}"),
        ExternalStream=lambda address, device: calls.context(f"stream {address} of {device}"),
        Stream=stream,
    )
    return SimpleNamespace(cuda=cuda, RawModule=raw_module)


@pytest.mark.parametrize(("version", "stream"), [(13, "stream 1001 of 1"), (14, "stream (0, 1001)")])
def test_cuda_launch(calls, monkeypatch, version, stream):
    """Grid, block, arguments by value, shared memory, on the tensor's device and torch's stream there."""
    monkeypatch.setattr(gpu, "_module", {"cupy": cupy(calls, version)}.__getitem__)
    for _ in range(2):
        gpu.launch_cuda("dilate", "some_kernel", (3, 2), 128, OnCuda(4096), 7, 0.5, OnCuda(64), shared=512)
    name, grid, block, arguments, shared, contexts = calls.launches[0]
    assert (name, grid, block, shared) == ("some_kernel", (3, 2), (128,), 512)
    assert list(arguments) == [4096, 7, 0.5, 64]
    assert [type(argument) for argument in arguments] == [np.uintp, np.int64, np.float64, np.uintp]
    assert contexts == ["torch cuda:1", "cupy 1", stream]
    assert calls.open == []
    (module,) = calls.modules  # compiled once
    assert "--fmad=false" in module["options"]
    assert f"-I{gpu.sources() / 'include'}" in module["options"]
    assert f"-DRSUPER_DIGEST={gpu.digest('dilate')}" in module["options"]
    assert module["code"] == (gpu.sources() / "cuda" / "dilate.cu").read_text()


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_kernels_that_are_built_already(calls, monkeypatch, capability, taken):
    monkeypatch.setattr(gpu, "_module", {"cupy": SimpleNamespace(RawModule=lambda **given: given)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(gpu, "built", {"dilate": "dilate.fatbin"}.get)
    assert gpu._compiled("dilate", 0).get("path") == ("dilate.fatbin" if taken else None)
    assert "path" not in gpu._compiled("combine", 0)


def test_triton_launch(calls):
    """All parameters by name, the warps, the grid, on the tensor's device."""

    class Kernel:
        def fn(self):
            """What the decorator of Triton wraps."""

        def __getitem__(self, grid):
            return lambda **arguments: calls.launches.append((grid, arguments, list(calls.open)))

    x = OnCuda(4096)
    gpu.launch_triton(Kernel(), (3, 2), warps=8, count=5, x=x, BLOCK=64)
    assert calls.launches == [((3, 2), {"count": 5, "x": x, "BLOCK": 64, "num_warps": 8}, ["torch cuda:1"])]


@pytest.mark.parametrize(("hip", "limit"), [(None, {"maxnreg": 96}), ("6.4", {})])
def test_limits_of_registers_are_for_nvidia(calls, monkeypatch, hip, limit):
    class Kernel:
        def fn(self):
            """What the decorator of Triton wraps."""

        def __getitem__(self, grid):
            return lambda **arguments: calls.launches.append(arguments)

    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(gpu, "_register_limits", {})
    x, kernel = OnCuda(4096), gpu.registers(lambda arguments: 90 + arguments["KIND"])(Kernel())
    gpu.launch_triton(kernel, (1,), x=x, KIND=6)
    assert calls.launches == [{"x": x, "KIND": 6, "num_warps": 4} | limit]


def test_empty_grids_start_nothing(calls):
    gpu.launch_triton(None, (3, 0), x=OnCuda(0))
    gpu.launch_cuda("dilate", "some_kernel", (0, 2), 128, OnCuda(0))
    assert calls.launches == []


def test_installed_cupy():
    """The CuPy that is installed has what the launcher calls."""
    cupy = pytest.importorskip("cupy")
    module = cupy.RawModule(code="", options=(*gpu.COMPILE_OPTIONS, "-I."))
    assert callable(module.get_function)
    assert gpu._cupy_stream(cupy, 4096, 0).ptr == 4096
