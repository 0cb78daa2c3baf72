# SPDX-License-Identifier: Apache-2.0
"""Registration and public function of the algebra of masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.checks import check_device
from rsuper_kernels.tables import flatten

dispatch.register("combine", "reference", dispatch.Backend("rsuper_kernels.ops.combine.reference:combine"))
# torch's own bit operations do it on whole masks, as fast as memory
dispatch.register("combine", "cpu", dispatch.Backend("rsuper_kernels.ops.combine.reference:combine", ("cpu",)))
for _impl in ("cuda", "triton"):
    dispatch.register_gpu("combine", "combine", _impl)

OR, AND, MINUS = range(3)
# The row that holds every voxel.
ALL = -1
# What is done with which row.
Step = tuple[int, int]


@torch.library.custom_op(
    "rsuper::combine",
    mutates_args=(),
    schema="(Tensor[] stacks, int width, int[] operations, int[] rows, int[] counts, str impl) -> Tensor",
)
def _combine(
    stacks: Sequence[torch.Tensor],
    width: int,
    operations: Sequence[int],
    rows: Sequence[int],
    counts: Sequence[int],
    impl: str,
) -> torch.Tensor:
    function = dispatch.select("combine", impl, stacks[0].device)
    out: torch.Tensor = function(stacks, width, operations, rows, counts)
    return out


@_combine.register_fake
def _(
    stacks: Sequence[torch.Tensor],
    width: int,
    operations: Sequence[int],
    rows: Sequence[int],
    counts: Sequence[int],
    impl: str,
) -> torch.Tensor:
    return stacks[0].new_empty(len(counts), *stacks[0].shape[1:])


def combine(stacks: Sequence[BitMasks], outputs: Sequence[Sequence[Step]], *, impl: str = "auto") -> BitMasks:
    """Make masks of masks, all of them in one pass over the volume.

    Args:
        stacks: at least one; their masks are rows 0, 1, ... through all stacks in order.
        outputs: per mask of the result, its steps: it starts empty, and each (OR, row), (AND, row) or (MINUS, row) is
            done to it. `ALL` is the row of all voxels; the rows after the last stack are the outputs made before.
        impl: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        As many masks as `outputs`. No gradient.

    Raises:
        ValueError: volumes or devices that differ, or a row that does not exist, named.
    """
    if not stacks:
        raise ValueError("stacks: expected at least one, got none")
    for index, stack in enumerate(stacks):
        if stack.shape[1:] != stacks[0].shape[1:]:
            raise ValueError(f"stacks[{index}]: expected a volume {stacks[0].shape[1:]}, got {stack.shape[1:]}")
        check_device(f"stacks[{index}]", stack.words, "stacks[0]", stacks[0].words)
    given = sum(len(stack) for stack in stacks)
    for index, steps in enumerate(outputs):
        for operation, row in steps:
            if operation not in (OR, AND, MINUS) or not ALL <= row < given + index:
                raise ValueError(
                    f"outputs[{index}]: expected OR, AND or MINUS and a row from -1 to {given + index - 1}, "
                    f"got {(operation, row)}"
                )
    steps, counts = flatten(outputs)
    words = _combine(
        [stack.words.contiguous() for stack in stacks],
        stacks[0].width,
        [operation for operation, _ in steps],
        [row for _, row in steps],
        counts,
        impl,
    )
    return BitMasks(words, stacks[0].width)
