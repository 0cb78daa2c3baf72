# SPDX-License-Identifier: Apache-2.0
"""The fake device as a context: within it torch has a GPU, and the package's kernels run on emulators of one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rsuper_kernels import gpu
from rsuper_kernels.gpu import Argument
from tests.fake_gpu import build, cuda_api
from tests.fake_gpu.counts import Counts, caller, record, torch_op
from tests.fake_gpu.tensor import FakeTensor, unwrap

# The host waits to learn how much they give.
SYNCING = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
FACTORIES = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}


class HostSyncError(RuntimeError):
    """The host would wait for the device where that is forbidden."""


class FakeDevice(TorchDispatchMode):
    """Runs every op on its tensors by the same op on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.syncs_allowed = True
        self.tape: list[Callable[[], None]] | None = None
        """What a captured graph does; None while none is captured."""
        self.streams = cuda_api.Streams()
        self._pinned: dict[int, torch.Tensor] = {}

    # --- what is asked of it

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count from zero within the context."""
        before, self.counts = self.counts, Counts()
        try:
            yield self.counts
        finally:
            self.counts = before

    @contextlib.contextmanager
    def no_syncs(self) -> Iterator[None]:
        """Raise HostSyncError where the host would wait."""
        before, self.syncs_allowed = self.syncs_allowed, False
        try:
            yield
        finally:
            self.syncs_allowed = before

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in memory that counts as pinned."""
        if self.tape is not None:
            raise RuntimeError("memory is pinned while a graph is captured")
        pinned = tensor.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return not isinstance(tensor, FakeTensor) and tensor.untyped_storage().data_ptr() in self._pinned

    # --- what runs on it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        onto = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if onto is not None and onto.type == "cuda" and onto.index not in (None, 0):
            raise RuntimeError(f"CUDA error: invalid device ordinal {onto.index}")
        if not here and (onto is None or onto.type != "cuda"):
            return func(*args, **kwargs)
        if func.namespace == "rsuper":
            with self, self._inside(func._schema.name):
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        with self:
            # below autograd, ops that are made of others arrive whole
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        name = func._schema.name
        crosses = self._watch(name, args, kwargs, tensors, onto)
        if onto is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        return self._run(func, name, args, kwargs, crosses, onto is None or onto.type == "cuda")

    @contextlib.contextmanager
    def _inside(self, op: str) -> Iterator[None]:
        counts = self.counts
        before, counts.op = counts.op, counts.op or op
        try:
            yield
        finally:
            counts.op = before

    def _run(self, func: Any, name: str, args: Any, kwargs: Any, crosses: bool, stays: bool) -> Any:
        inner_args, inner_kwargs = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        if name == "aten::_to_copy":
            # a copy to another device is one, whatever torch would save on one and the same
            inner_kwargs.pop("non_blocking", None)
        out = func(*inner_args, **inner_kwargs)
        if name in FACTORIES:
            _poison(out)
        if not crosses:  # a copy between host and device is no kernel
            self._count(func, inner_args, inner_kwargs, out)
        self._write_down(func, name, inner_args, inner_kwargs, out)
        if not stays:
            return out
        known = {id(leaf.held): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known[id(value)] if id(value) in known else FakeTensor(value)

        return tree_map(wrap, out)

    def _watch(self, name: str, args: Any, kwargs: Any, tensors: list[torch.Tensor], onto: torch.device | None) -> bool:
        """Find what makes the host wait, and tensors on the CPU by mistake; whether it copies to or from the host."""
        on_host = [t for t in tensors if not isinstance(t, FakeTensor) and t.ndim > 0]
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[0] if name == "aten::_to_copy" else args[1]
            if not isinstance(source, FakeTensor):
                blocking = not (kwargs.get("non_blocking") or args[2:3] == (True,))
                if blocking or not self.is_pinned(source):
                    self._sync(f"copy from {'pageable' if not self.is_pinned(source) else 'pinned'} memory")
                else:
                    self.counts.uploads[caller()] += 1
                return True
            if (onto is not None and onto.type == "cpu") or (name == "aten::copy_" and on_host):
                self._sync("copy to the host")
                return True
        elif name in INDEXING:
            masks = [t for t in tree_leaves(args[1]) if isinstance(t, torch.Tensor)]
            if any(t.dtype in (torch.bool, torch.uint8) for t in masks):
                self._sync(f"{name} by a mask")
            if any(not isinstance(t, FakeTensor) for t in masks):
                self._sync(f"{name} by an index on the host")
        elif name in SYNCING:
            self._sync(name)
        elif on_host:
            raise RuntimeError(f"{name}: expected all tensors on cuda:0, got {tuple(on_host[0].shape)} on the CPU")
        return False

    def _sync(self, what: str) -> None:
        where = f"{what.removeprefix('aten::')} in {caller()}"
        if not self.syncs_allowed or self.tape is not None:
            raise HostSyncError(where)
        self.counts.syncs[where] += 1

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        inputs, outputs = ([t for t in tree_leaves(x) if isinstance(t, torch.Tensor)] for x in ((args, kwargs), out))
        torch_op(self.counts, func, inputs, outputs)

    def _write_down(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        if self.tape is None or func.is_view or name in FACTORIES:
            return
        outs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]

        def again() -> None:
            fresh = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, torch.Tensor)]
            for old, new in zip(outs, fresh, strict=True):
                if old is not new:
                    old.copy_(new)

        self.tape.append(again)

    def launched(self, name: str, run: Callable[[], tuple[int, int]]) -> None:
        """Run a kernel of ours, which gives the bytes that it read and wrote."""
        record(self.counts.ours, name, 1, *run())
        if self.tape is not None:
            self.tape.append(lambda: (run(), None)[1])


class _Launcher:
    """Hands the tensors of the fake device to an emulator, as they are on the CPU."""

    def __init__(self, device: FakeDevice, emulator: Any) -> None:
        self._device, self._emulator = device, emulator

    def triton(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], warps: int) -> None:
        held = {name: _on_device(name, value) for name, value in arguments.items()}
        name = getattr(kernel, "fn", kernel).__name__
        self._run(name, lambda: self._emulator.triton(kernel, grid, held, warps))

    def cuda(
        self, source: str, kernel: str, grid: tuple[int, ...], threads: int, arguments: Sequence[Argument], shared: int
    ) -> None:
        held = [_on_device(str(place), value) for place, value in enumerate(arguments)]
        self._run(kernel, lambda: self._emulator.cuda(source, kernel, grid, threads, held, shared))

    def _run(self, name: str, launch: Callable[[], None]) -> None:
        traffic = getattr(self._emulator, "traffic", None)

        def run() -> tuple[int, int]:
            launch()
            return traffic() if traffic is not None else (0, 0)

        self._device.launched(name, run)


def _on_device(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor):
        raise RuntimeError(f"argument {name}: a kernel got a tensor that is on the CPU")
    return unwrap(value)


@contextlib.contextmanager
def fake_device(emulator: Any = None, impls: Sequence[str] = ()) -> Iterator[FakeDevice]:
    """Within the context there is a GPU, cuda:0.

    Args:
        emulator: a launcher of tests.emulation, which runs the kernels of `impls`.
        impls: the backends that "auto" finds on the device, of "cuda" and "triton".

    Raises:
        ImportError: no C++ compiler is here.
    """
    device, switch = FakeDevice(), build.library().rsuper_fake_cuda
    switch(True)
    lifting = torch._C._only_lift_cpu_tensors()
    # torch.tensor(..., device="cuda") copies to the device where a dispatch mode sees it
    torch._C._set_only_lift_cpu_tensors(True)
    _forget()
    try:
        with (
            cuda_api.patched(device),
            gpu.stand_in(_Launcher(device, emulator), impls, device="cuda", auto=True),
            device,
        ):
            yield device
    finally:
        _forget()
        torch._C._set_only_lift_cpu_tensors(lifting)
        switch(False)


def _forget() -> None:
    """Tables and counters belong to one device."""
    gpu._uploaded.cache_clear()
    gpu._counters_of.cache_clear()


def _poison(tensor: torch.Tensor) -> None:
    """What memory holds that nobody wrote to."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    elif not tensor.is_complex():
        tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max)
