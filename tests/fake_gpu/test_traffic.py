# SPDX-License-Identifier: Apache-2.0
"""The count of bytes, on kernels whose bytes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rsuper_kernels.geometry import ball_element
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.pack_bits import pack_masks
from tests.emulation.conftest import emulated
from tests.fake_gpu.device import fake_device

traffic = pytest.importorskip("tests.fake_gpu.traffic", exc_type=ImportError)


def test_sectors_count_once():
    x = torch.zeros(64)
    counted = traffic.Traffic([x, x[3:]])
    first = np.uint64(x.data_ptr())
    counted.touch(first + np.arange(0, 40, 4, dtype=np.uint64), store=False)
    counted.touch(first + np.array([0, 64], dtype=np.uint64), store=True)
    counted.touch(first + np.array([64], dtype=np.uint64), store=False)  # from the cache
    assert counted.nbytes() == (64, 64)


@pytest.mark.parametrize("impl", ["triton", "cuda"])
def test_kernels(impl):
    emulated("interpreter", "shim")
    masks = (torch.rand(2, 6, 7, 70) > 0.9).to(torch.uint8)
    with fake_device(traffic.Metered(), ["cuda", "triton"]) as device, device.counting() as counts:
        words = pack_masks(masks.cuda(), impl="triton")
        dilate(words, ball_element(1.5), impl=impl)
    packing = counts.ours["pack_masks_kernel"]
    size = words.words.numel() * 8
    # some numbers of the launch's tables, too
    assert masks.numel() <= packing.read <= masks.numel() + 256
    assert size <= packing.written <= size + 31
    dilating = next(moved for name, moved in counts.ours.items() if name.startswith("dilate"))
    assert size - 31 <= dilating.read <= size + 4096
    assert size <= dilating.written <= size + 31
