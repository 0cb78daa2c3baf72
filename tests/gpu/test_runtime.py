# SPDX-License-Identifier: Apache-2.0
"""What a GPU has beside numbers: streams, graphs, several devices, compiled and distributed training, tools, memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rsuper_kernels import FindingGroup, Findings, Tumour, volume_loss
from rsuper_kernels.ops.loss_sums import BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks
from tests.gpu import sanitize
from tests.gpu.test_losses import LOSSES, on, step
from tests.ops.test_backends import noise

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["volume", "ball"])
def test_side_stream(name):
    """The same bits on a stream of one's own, whose tables another stream may have copied."""
    given = on("cuda")
    expected = step(name, given)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = step(name, given)
    torch.cuda.current_stream().wait_stream(stream)
    for ours, truth in zip(results, expected, strict=True):
        assert torch.equal(ours.cpu(), truth.cpu())


@pytest.mark.parametrize("name", ["volume", "ball"])
def test_graph(name):
    """A step for fixed findings is captured once; replayed on other logits it gives what a step gives there."""
    given = on("cuda")
    logits = given.logits.detach().clone().requires_grad_()
    one = torch.ones((), device="cuda")

    def run() -> torch.Tensor:
        logits.grad = None
        loss = LOSSES[name](logits, given)
        loss.backward(one)
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = run()
    for seed in (1, 2):
        other = 2 * noise(seed, *logits.shape).to("cuda")
        with torch.no_grad():
            logits.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        for replayed, eager in zip((loss, logits.grad), step(name, given, other), strict=True):
            assert torch.equal(replayed.detach().cpu(), eager.cpu())


def test_another_device():
    """Tensors on cuda:1 while cuda:0 is current."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    expected = step("ball", on("cuda:0"))
    with torch.cuda.device(0):
        results = step("ball", on("cuda:1"))
    for ours, truth in zip(results, expected, strict=True):
        assert ours.device == torch.device("cuda:1")
        assert torch.equal(ours.cpu(), truth.cpu())


def test_compile(real):
    """One graph through the ops. The fake device is not for dynamo, which traces tensors of its own."""
    logits, masks = 2 * noise(0, 1, 2, 4, 5, 70).to("cuda"), pack_masks(noise(1, 2, 4, 5, 70).to("cuda") > 0)

    def function(x: torch.Tensor) -> torch.Tensor:
        parts = loss_sums(x, [RegionSums(masks, [0, 0], [0, 1]), BceDice(masks, masks, [0, 0], [0, 1])])
        return torch.cat([part.flatten() for part in parts])

    results = []
    for one in (function, torch.compile(function, fullgraph=True)):
        leaf = logits.detach().clone().requires_grad_()
        out = one(leaf)
        out.sum().backward()
        results.append((out.detach(), leaf.grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


def test_distributed(real, tmp_path):
    """DDP finds the gradients of its network. The fake device has no NCCL."""
    if not torch.distributed.is_nccl_available():
        pytest.skip("this torch has no NCCL")
    torch.distributed.init_process_group("nccl", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        given = on("cuda")
        network = torch.nn.Conv3d(1, 3, 1).to("cuda")
        wrapped = torch.nn.parallel.DistributedDataParallel(network, device_ids=[0])
        LOSSES["total"](wrapped(given.ct / 100), given).backward()
        averaged = network.weight.grad.clone()
        network.weight.grad = None
        LOSSES["total"](network(given.ct / 100), given).backward()
        torch.testing.assert_close(averaged, network.weight.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_what_is_sanitized():
    """The script that compute-sanitizer runs."""
    sanitize.main()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_sanitizer(real, tool):
    """The fake device has no memory that compute-sanitizer knows; its emulators check their own."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "tests.gpu.sanitize"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_more_than_2_31_voxels(real):
    """The last voxels of a volume whose indices need 64 bits. The fake device's machine has no such memory."""
    if torch.cuda.mem_get_info()[0] < 32 << 30:
        pytest.skip("needs 32 GB of free GPU memory")
    shape = (2050, 1024, 1024)
    logits = torch.zeros(1, 1, *shape, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    regions = torch.zeros(1, *shape, dtype=torch.uint8, device="cuda")
    regions[:, -4:, -4:, -4:] = 1
    findings = Findings([FindingGroup(0, 0, (1,), (Tumour((5.0,)),))], 1, 1)
    # S+ reaches one voxel further: 5 x 5 x 5 but for what lies more than a voxel off
    volume_loss(logits, findings, regions, (1.0, 1.0, 1.0), region_margin=1.0).backward()
    assert int(logits.grad.count_nonzero()) == 4**3 + 3 * 4**2
    assert bool((logits.grad[..., -4:, -4:, -4:] != 0).all())
