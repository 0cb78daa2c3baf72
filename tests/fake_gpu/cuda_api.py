# SPDX-License-Identifier: Apache-2.0
"""torch.cuda on the fake device, as far as the package, its tests and its benchmarks ask."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from rsuper_kernels import gpu

if TYPE_CHECKING:
    from tests.fake_gpu.device import FakeDevice

MEMORY = 1 << 30
SYNC_MODES = {0: "default", 1: "warn", 2: "error"}


class Stream:
    """A queue of work that is done as soon as it is asked for."""

    made = 0

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        Stream.made += 1
        self.cuda_stream = Stream.made
        self.device = torch.device("cuda:0")

    def wait_stream(self, other: Stream) -> None: ...
    def wait_event(self, event: Event) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """A moment."""

    def __init__(self, enable_timing: bool = False, **options: Any) -> None:
        self._at = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end._at - self._at)

    def query(self) -> bool:
        return True

    def wait(self, stream: Stream | None = None) -> None: ...
    def synchronize(self) -> None: ...


class Streams:
    """The default stream, and which one is current."""

    def __init__(self) -> None:
        self.default = Stream()
        self.default.cuda_stream = 0
        self.current = self.default

    @contextlib.contextmanager
    def use(self, stream: Stream | None) -> Iterator[None]:
        before, self.current = self.current, stream or self.current
        try:
            yield
        finally:
            self.current = before


class Graph:
    """torch.cuda.CUDAGraph: replays what was written down while it was captured."""

    def __init__(self) -> None:
        self.tape: list[Any] = []

    def replay(self) -> None:
        for again in self.tape:
            again()


@contextlib.contextmanager
def patched(device: FakeDevice) -> Iterator[None]:
    """Replace what torch.cuda says and does."""
    streams = device.streams

    @contextlib.contextmanager
    def capture(graph: Graph, **options: Any) -> Iterator[None]:
        device.tape = graph.tape
        try:
            with streams.use(Stream()):
                yield
        finally:
            device.tape = None

    def set_sync_debug_mode(mode: int | str) -> None:
        device.syncs_allowed = SYNC_MODES.get(mode, mode) != "error"  # type: ignore[arg-type]

    def synchronize(_: Any = None) -> None:
        if device.tape is not None:
            raise RuntimeError("the host waits while a graph is captured")

    replacements = {
        "CUDAGraph": Graph,
        "Event": Event,
        "Stream": Stream,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "current_stream": lambda _=None: streams.current,
        "default_stream": lambda _=None: streams.default,
        "device": lambda _=None: contextlib.nullcontext(),
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_capability": lambda _=None: (9, 0),
        "get_device_name": lambda _=None: "fake device",
        "get_device_properties": lambda _=None: SimpleNamespace(
            name="fake device", total_memory=MEMORY, major=9, minor=0
        ),
        "graph": capture,
        "is_available": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "is_current_stream_capturing": lambda: device.tape is not None,
        "manual_seed_all": lambda _: None,
        "max_memory_allocated": lambda _=None: 0,
        "mem_get_info": lambda _=None: (MEMORY, MEMORY),
        "memory_allocated": lambda _=None: 0,
        "reset_peak_memory_stats": lambda _=None: None,
        "set_sync_debug_mode": set_sync_debug_mode,
        "stream": streams.use,
        "synchronize": synchronize,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replacements.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for name, method in {
            "pin_memory": lambda tensor, _=None: device.pin(tensor),
            "is_pinned": lambda tensor, _=None: device.is_pinned(tensor),
            "record_stream": lambda tensor, stream: None,
        }.items():
            stack.enter_context(mock.patch.object(torch.Tensor, name, method))
        # backends without an emulator have no GPU here
        nothing = (False, "the fake device has no emulator for it")
        stack.enter_context(mock.patch.object(gpu, "_on_gpu", return_value=nothing))
        yield
