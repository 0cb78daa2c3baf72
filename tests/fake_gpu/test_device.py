# SPDX-License-Identifier: Apache-2.0
"""The fake device is to the package what a GPU is, and finds what a GPU would suffer from."""

from __future__ import annotations

import pytest
import torch

from rsuper_kernels import gpu, volume_loss
from rsuper_kernels.ops.pack_bits import pack_masks
from tests.fake_gpu.device import HostSyncError
from tests.helpers import scene


def test_looks_like_cuda(device):
    x = torch.arange(6.0, device="cuda").view(2, 3)
    assert x.is_cuda
    assert x.device == torch.device("cuda:0")
    assert (2 * x).sum().cpu().is_cpu
    assert x.new_zeros(2).is_cuda
    assert torch.zeros_like(x).is_cuda
    assert torch.ones(2).cuda().is_cuda
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")


def test_views_share_memory(device):
    x = torch.zeros(2, 3, device="cuda")
    x[1].add_(1)
    x.T[0] = 5
    assert x.tolist() == [[5, 0, 0], [5, 1, 1]]


def test_memory_cannot_be_reached(device):
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.zeros(2, device="cuda").data_ptr()


def test_nothing_is_written_before_it_is(device):
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.empty(3, dtype=torch.int32, device="cuda").tolist() == [2**31 - 1] * 3


def test_autograd_and_autocast(device):
    weight = torch.ones(2, 2, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = torch.ones(2, 2, device="cuda") @ weight
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert weight.grad.is_cuda
    assert weight.grad.tolist() == [[8, 8], [8, 8]]


def test_mixed_devices_are_refused(device):
    with pytest.raises(RuntimeError, match="on the CPU"):
        torch.ones(3, device="cuda") + torch.ones(3)
    assert (torch.ones(3, device="cuda") * torch.tensor(2.0)).tolist() == [2, 2, 2]


SYNCS = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "list": lambda x: x[[0, 1]],
    "tensor": lambda x: torch.tensor([1.0, 2.0], device="cuda"),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "to": lambda x: torch.ones(3).to("cuda"),
    "to, not pinned": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "copy": lambda x: x.copy_(torch.ones(3)),
    "unique": lambda x: x.unique(),
    "repeat": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("what", SYNCS)
def test_finds_syncs(device, what):
    x = torch.ones(3, device="cuda")
    with device.counting() as counts:
        SYNCS[what](x)
    assert counts.syncs, what
    with device.no_syncs(), pytest.raises(HostSyncError):
        SYNCS[what](x)


def test_pinned_copies_do_not_wait(device):
    with device.no_syncs(), device.counting() as counts:
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        (torch.ones(3, device="cuda") + 1)[1:].sum()
        gpu.table([1, 2], torch.int32, torch.device("cuda:0"))
    assert sum(counts.uploads.values()) == 2
    assert {name: moved.launches for name, moved in counts.torchs.items()} == {"ones": 1, "add": 1, "sum": 1}
    assert counts.torchs["add"].read == counts.torchs["add"].written == 12
    assert counts.torchs["sum"].read == 8


def test_kernels_take_tensors_of_the_device_only(device):
    masks = torch.ones(1, 2, 2, 5, dtype=torch.uint8)
    with device.counting() as counts:
        words = pack_masks(masks.cuda()).words
    assert words.tolist() == pack_masks(masks).words.tolist()
    if "pack_masks_kernel" in counts.ours:
        assert counts.ours["pack_masks_kernel"].launches == 1
    with pytest.raises(RuntimeError, match="on the CPU"):
        gpu.launch_triton(None, (1,), x=torch.ones(2))


def test_graphs_replay(device):
    x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = torch.empty(3, device="cuda")
        y.copy_(x * 2)
        z = y.sum() + y
    x.fill_(5)
    graph.replay()
    assert z.tolist() == [40, 40, 40]
    with torch.cuda.graph(graph), pytest.raises(HostSyncError):
        x.sum().item()


def test_tables_under_capture(device):
    """A graph uses the tables of the warm-up; new ones would be copied when it is replayed, and are refused."""
    cuda, graph = torch.device("cuda:0"), torch.cuda.CUDAGraph()
    known = gpu.table([1.0, 2.0], torch.float32, cuda)
    with torch.cuda.graph(graph):
        assert gpu.table([1.0, 2.0], torch.float32, cuda) is known
        assert gpu._captured[-1] is known
        with pytest.raises(RuntimeError, match="warm up"):
            gpu.table([3.0], torch.float32, cuda)
    assert gpu.table([3.0], torch.float32, cuda).tolist() == [3.0]


def test_tables_on_another_stream(device, monkeypatch):
    """The copy is waited for by other streams, on the device, and once by nobody who is on the same."""
    cuda, waits = torch.device("cuda:0"), []
    monkeypatch.setattr(torch.cuda.Stream, "wait_event", lambda stream, event: waits.append(stream))
    gpu.table([1.0], torch.float32, cuda)
    gpu.table([1.0], torch.float32, cuda)
    assert not waits
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        gpu.table([1.0], torch.float32, cuda)
    assert waits == [other]


def test_counters(device):
    """One set for a stream; a graph has its own, which it clears by itself."""
    cuda, graph = torch.device("cuda:0"), torch.cuda.CUDAGraph()
    counters = gpu.counters(cuda)
    assert gpu.counters(cuda) is counters
    with torch.cuda.stream(torch.cuda.Stream()):
        assert gpu.counters(cuda) is not counters
    with torch.cuda.graph(graph):
        captured = gpu.counters(cuda)
    captured.add_(1)
    graph.replay()
    assert not captured.any()


def test_a_loss_is_that_of_the_cpu(device):
    """With its gradient; tests/gpu has all of them."""
    given = scene(dtype=torch.float32)
    results = []
    for onto, impl in (("cpu", "reference"), ("cuda", "auto")):
        logits = given.logits.detach().clone().to(onto).requires_grad_()
        value = volume_loss(logits, given.findings, given.regions.to(onto), given.spacing, impl=impl)
        value.backward()
        assert value.device.type == logits.grad.device.type == onto
        results.append((value.detach().cpu(), logits.grad.cpu()))
    for truth, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-7)
