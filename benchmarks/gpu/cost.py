# SPDX-License-Identifier: Apache-2.0
"""Launches, host syncs and bytes of the losses, forward and backward, counted on the fake device.

`python -m benchmarks.gpu.cost` writes results/gpu/cost.json and cost.md, or the rows of the cases that it is given.
Bytes are measured in a patch of 64^3 voxels of 2 mm, or 32^3 of 4 mm, which the emulators can bear, and
stated for the same patch in voxels of 1 mm, 128^3: as many times more as there are voxels. That is a little too many:
tables do not grow, and short rows of bits are half empty.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS
from benchmarks.gpu.inputs import Inputs, inputs
from benchmarks.gpu.steps import Loss, Step, ball, total, volume
from tests.fake_gpu.counts import Counts, Moved
from tests.fake_gpu.device import FakeDevice, fake_device

PATCH = 128
"""mm, and the edge in voxels that the figures are for."""
TUMOURS = (30.0, 20.0, 12.0)
"""mm."""
FOLDER = RESULTS / "gpu"


@dataclass(frozen=True)
class Case:
    """A loss, and what it may cost."""

    title: str
    loss: Loss
    bytes_at_most: float
    """Times the floor."""
    launches_at_most: int | None
    """Of a call, which is the forward pass."""
    edge: int = 64
    """Voxels, of the patch that is measured."""
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, edge: int) -> Inputs:
        return inputs(edge, TUMOURS, spacing=PATCH / edge, **self.options)


CASES = {
    "volume": Case("volume loss, label map", volume, 1.15, 6),
    "ball": Case("ball loss, tumours of 30, 20 and 12 mm", ball, 1.6, 10 + 4 * len(TUMOURS)),
    "total": Case(
        "full training loss, two heads, 42 classes",
        total,
        1.2,
        None,
        32,
        {"channels": 42, "heads": 2, "annotated": True},
    ),
}


@dataclass
class Cost:
    """What a case costs at 128^3, B = 2, float32."""

    title: str
    floor: int
    bytes: int
    at_most: float
    launches: int
    """Of the forward pass."""
    launches_at_most: int | None
    launches_backward: int
    syncs: dict[str, int]
    ours: dict[str, dict[str, int]]
    """Launches of our kernels by name, with the bytes that they read and write."""
    torchs: dict[str, dict[str, int]]
    """The same of torch's, by the op of ours, or the line, that starts them."""

    @property
    def ratio(self) -> float:
        return self.bytes / self.floor


def floor(given: Inputs, loss: Loss, edge: int) -> int:
    """Bytes that no implementation saves: logits that take part read twice, all gradients written, masks as bits.

    The volume and the ball loss look at the reported planes only and need a region for each; the full loss looks at all
    planes, and needs their labels and where these are known.
    """
    voxels, size = edge**3, given.heads[0].element_size()
    planes = sum(head.shape[0] * head.shape[1] for head in given.heads)
    if loss is total:
        return planes * 3 * size * voxels + 2 * planes // len(given.heads) * voxels // 8
    taking_part = len(given.findings.planes())
    return (2 * taking_part + planes) * size * voxels + taking_part * voxels // 8


def count(device: FakeDevice, case: Case) -> tuple[Counts, int]:
    """Of a step that is not the first of its process, and how many launches are its forward pass's."""
    Step(case.loss, case.inputs(8))()
    step = Step(case.loss, case.inputs(case.edge))
    with device.counting() as counts:
        losses = step.forward()
        forward = counts.launches
        step.backward(losses)
    return counts, forward


def measure(case: Case, emulator: Any, impls: list[str]) -> Cost:
    """Count in the case's patch, and carry it on to 128^3."""
    with fake_device(emulator, impls) as device:
        counts, forward = count(device, case)
        lower_bound = floor(case.inputs(8), case.loss, PATCH)
    times = (PATCH // case.edge) ** 3
    return Cost(
        case.title,
        lower_bound,
        times * counts.nbytes,
        case.bytes_at_most,
        forward,
        case.launches_at_most,
        counts.launches - forward,
        dict(counts.syncs),
        {name: _row(moved, times) for name, moved in counts.ours.items()},
        {name: _row(moved, times) for name, moved in counts.torchs.items()},
    )


def _row(moved: Moved, times: int) -> dict[str, int]:
    return {"launches": moved.launches, "read": times * moved.read, "written": times * moved.written}


def table(costs: dict[str, Cost]) -> str:
    """As Markdown."""
    lines = [
        "| B = 2, 128³, float32 | bytes | floor | ratio | limit | launches forward | limit | backward | syncs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cost in costs.values():
        limit = "" if cost.launches_at_most is None else cost.launches_at_most
        lines.append(
            f"| {cost.title} | {cost.bytes / 1e6:.1f} MB | {cost.floor / 1e6:.1f} MB | {cost.ratio:.2f} "
            f"| {cost.at_most} | {cost.launches} | {limit} | {cost.launches_backward} | {sum(cost.syncs.values())} |"
        )
    for cost in costs.values():
        lines += ["", f"**{cost.title}**", "", "| kernel | launches | read | written |", "|---|---:|---:|---:|"]
        for names in (cost.ours, {f"torch: {name}": row for name, row in cost.torchs.items()}):
            lines += [
                f"| {name} | {row['launches']} | {row['read'] / 1e6:.2f} MB | {row['written'] / 1e6:.2f} MB |"
                for name, row in names.items()
            ]
    return "\n".join(lines) + "\n"


def write(costs: dict[str, Cost], folder: Path = FOLDER) -> None:
    """cost.json and cost.md; rows that are not among `costs` stay."""
    costs = {**(read(folder) if (folder / "cost.json").exists() else {}), **costs}
    costs = {name: costs[name] for name in CASES if name in costs}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost.json").write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=1) + "\n")
    (folder / "cost.md").write_text(table(costs))


def read(folder: Path = FOLDER) -> dict[str, Cost]:
    return {name: Cost(**row) for name, row in json.loads((folder / "cost.json").read_text()).items()}


def main() -> None:
    from tests.fake_gpu.traffic import Metered

    for name in sys.argv[1:] or CASES:
        measured = {name: measure(CASES[name], Metered(), ["cuda", "triton"])}
        write(measured)
        sys.stdout.write(table(measured))


if __name__ == "__main__":
    # read where kernels are defined
    os.environ["TRITON_INTERPRET"] = "1"
    main()
