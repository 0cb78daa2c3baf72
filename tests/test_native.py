# SPDX-License-Identifier: Apache-2.0
"""What the compiled module is handed: tensors that it can read, and large memory that is used again."""

import itertools
import subprocess
import sys
import threading
import time

import pytest
import torch

from rsuper_kernels import native
from rsuper_kernels.losses.segmentation import segmentation_loss
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.tables import planes_of
from tests.helpers import random_mask

pytestmark = pytest.mark.skipif(not native.available()[0], reason="needs the compiled module")
MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept():
    """Start without memory that other tests left."""
    native.module().give_back()
    yield
    native.module().give_back()


def large(megabytes: int = 2) -> torch.Tensor:
    return native.empty((megabytes, MEGABYTE), torch.uint8)


# what can be read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.bool, torch.bool),
        (torch.int64, torch.int64),
        (torch.int8, torch.int16),
        (torch.uint16, torch.int32),
        (torch.uint32, torch.int64),
        (torch.float64, torch.float32),
    ],
    ids=str,
)
def test_readable(given, read):
    tensor = torch.tensor([0, 1, 100]).to(given)
    readable = native.readable(tensor)
    assert readable.dtype == read
    assert readable.tolist() == tensor.tolist()
    assert (readable is tensor) == (given == read)  # no copy of what can be read as it is
    assert native.reads(given) == (given == read)


def test_readable_is_contiguous():
    tensor = torch.arange(6).reshape(2, 3)
    assert native.readable(tensor.T).is_contiguous()
    assert native.readable(tensor.T).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_address():
    assert native.address(None) == (0, 0)
    tensor = torch.zeros(3, dtype=torch.int16)
    assert native.address(tensor) == (tensor.data_ptr(), 4)


def test_planes():
    logits = torch.arange(6).reshape(2, 3)
    rows = planes_of(logits, [1, 0, 1], [2, 1, 0])
    assert logits.flatten()[rows].tolist() == logits[[1, 0, 1], [2, 1, 0]].tolist()


# memory that is used again


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (7, 11), (1024, 1024), (5, 1024, 1025)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.int64], ids=str)
def test_empty_is_a_tensor_like_any_other(shape, dtype):
    tensor = native.empty(shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert tensor.fill_(1).eq(1).all()
    assert torch.equal(tensor.clone(), tensor)
    assert not tensor.requires_grad


def test_large_tensors_are_recycled():
    first = large()
    address = first.data_ptr()
    del first
    # whatever is made of it: two megabytes are two megabytes
    second = native.empty((MEGABYTE // 2,), torch.float32)
    assert second.data_ptr() == address
    del second
    assert native.empty((MEGABYTE // 4,), torch.int64).data_ptr() == address


def test_all_that_live_are_apart():
    tensors = [large(1 + i % 3) for i in range(12)]
    del tensors[::2]
    tensors += [large(1 + i % 3) for i in range(12)]
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_contents_survive_the_death_of_others():
    alive = [large().fill_(i) for i in range(6)]
    for step in range(20):
        alive[step % 6] = large().fill_(step + 6)
        alive.append(large(1).fill_(255))
        del alive[-1]
        assert [int(tensor[0, 0]) for tensor in alive] == [
            step + 6 - (step - i) % 6 if step >= i else i for i in range(6)
        ]
    assert all((tensor == tensor[0, 0]).all() for tensor in alive)


def test_a_view_keeps_its_memory():
    whole = large().fill_(3)
    views = [whole[1, 5:9], whole.numpy()[1], whole.view(torch.int32)[0]]
    address = whole.data_ptr()
    del whole
    others = [large().fill_(9) for _ in range(2)]
    assert address not in {other.data_ptr() for other in others}
    assert views[0].tolist() == [3] * 4
    assert (views[1] == 3).all()
    del views
    assert large().data_ptr() == address


def test_what_is_kept_stays_below_what_was_in_use_and_a_quarter():
    """Four blocks of 8 MB in use allow for 40 in all: beside 16 in use three of the four stay, all but the oldest."""
    blocks = [large(8) for _ in range(4)]
    addresses = [block.data_ptr() for block in blocks]
    while blocks:
        del blocks[0]
    twice = large(16)
    again = [large(8) for _ in range(3)]
    assert [block.data_ptr() for block in again] == addresses[1:]
    assert twice.data_ptr() not in addresses[1:]


def test_giving_back():
    keep, gone = large().fill_(5), large()
    del gone
    for _ in range(2):
        native.module().give_back()
    assert (keep == 5).all()
    other = large().fill_(6)
    assert other.data_ptr() != keep.data_ptr()
    assert (keep == 5).all()


def test_threads():
    """Allocate, fill, wait and look, from several threads at once; some hand tensors to each other."""
    wrong, handed = [], []

    def work(number: int) -> None:
        for step in range(40):
            value = (number * 40 + step) % 251
            tensor = large(1 + step % 2).fill_(value)
            handed.append(large(1).fill_(value))
            time.sleep(0.0002)
            if not (tensor == value).all():
                wrong.append((number, step))
            taken = handed.pop()
            if not (taken == taken[0, 0]).all():
                wrong.append((number, step, "handed"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not handed


ALONE = """
import builtins, torch
from rsuper_kernels import native

MEGABYTE = 1 << 20

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * 4096 // MEGABYTE

def large(megabytes):
    return native.empty((megabytes, MEGABYTE), torch.uint8).fill_(1)

large(2)
before = resident()
for size in range(40, 46):  # no two steps ask for the same sizes, so nothing is found again
    blocks = [large(size + 10 * i) for i in range(3)]
    del blocks
kept = resident() - before
# 45 + 55 + 65 MB were in use at once, and a quarter more may be kept
assert kept < 1.25 * 165 + 20, kept
native.module().give_back()
assert resident() - before < 20, resident() - before
builtins.outlives_everything = large(2)
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_process_and_its_end():
    """Resident memory stays in bounds, goes back, and a tensor may outlive all that runs at exit."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr
    assert done.stderr == ""


# gradients in it


SHAPE = (1, 2, 40, 64, 65)


def test_a_gradient_that_is_kept_is_never_overwritten():
    """Two steps of training, whose logits and their gradients are over 1 MB each."""
    model = torch.nn.Conv3d(1, 2, 3, padding=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    image, labels = torch.randn(1, 1, *SHAPE[2:]), random_mask(*SHAPE, density=0.1)
    kept, copies, addresses, losses = [], [], [], []
    for _ in range(3):
        optimiser.zero_grad()
        logits = model(image)
        logits.retain_grad()
        loss = segmentation_loss(logits, labels)
        loss.backward()
        optimiser.step()
        assert logits.grad.nbytes > MEGABYTE
        for gradient, copy in zip(kept, copies, strict=True):
            assert torch.equal(gradient, copy)
        kept.append(logits.grad)
        copies.append(logits.grad.clone())
        addresses.append(logits.grad.data_ptr())
        losses.append(loss.item())
    assert len(set(addresses)) == 3
    assert losses[2] < losses[1] < losses[0]
    assert not torch.equal(copies[0], copies[1])


def test_steps_share_the_memory_of_their_gradients():
    labels, addresses = random_mask(*SHAPE, density=0.1), set()
    for _ in range(4):
        logits = torch.randn(SHAPE, requires_grad=True)
        segmentation_loss(logits, labels).backward()
        addresses.add(logits.grad.data_ptr())
        del logits
    assert len(addresses) <= 2


def test_gradients_accumulate():
    """Torch adds to the gradient of the first backward in place; the second must not have its memory."""
    first, second = (random_mask(*SHAPE, seed=seed) for seed in range(2))
    logits = torch.randn(SHAPE)
    parts = []
    for labels in (first, second):
        leaf = logits.clone().requires_grad_()
        segmentation_loss(leaf, labels).backward()
        parts.append(leaf.grad)
    leaf = logits.clone().requires_grad_()
    for labels in (first, second):
        segmentation_loss(leaf, labels).backward()
    assert torch.equal(leaf.grad, parts[0] + parts[1])


def test_masks_that_are_kept_are_never_overwritten():
    shape = (4, 64, 64, 640)  # 1.3 MB of bits
    inside = [random_mask(*shape, seed=seed) for seed in range(3)]
    kept = [pack_masks(mask) for mask in inside]
    assert kept[0].words.nbytes > MEGABYTE
    assert all(torch.equal(masks.unpack(), mask) for masks, mask in zip(kept, inside, strict=True))
