# SPDX-License-Identifier: Apache-2.0
"""Launches, host syncs and bytes of the losses, forward and backward, counted on the fake device.

`python -m benchmarks.gpu.cost` writes results/gpu/cost.json and cost.md. Bytes are measured at two sizes of patch that
the emulators can bear, with voxels so large that every patch spans 128 mm; what grows with the voxels and what does not
give the bytes at 128^3.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS
from benchmarks.gpu.inputs import Inputs, inputs
from benchmarks.gpu.steps import Loss, Step, ball, total, volume
from tests.fake_gpu.counts import Counts
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
    edges: tuple[int, int]
    bytes_at_most: float
    """Times the floor."""
    launches_at_most: int | None
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, edge: int) -> Inputs:
        return inputs(edge, TUMOURS, spacing=PATCH / edge, **self.options)


CASES = {
    "volume": Case("volume loss, label map", volume, (32, 64), 1.15, 6),
    "ball": Case("ball loss, tumours of 30, 20 and 12 mm", ball, (32, 64), 1.6, 10 + 4 * len(TUMOURS)),
    "total": Case(
        "full training loss, two heads, 42 classes",
        total,
        (16, 32),
        1.2,
        None,
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
    launches_at_most: int | None
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


def count(device: FakeDevice, case: Case, edge: int) -> Counts:
    """Of the second of two steps: the first copies the tables to the device."""
    step = Step(case.loss, case.inputs(edge))
    step()
    with device.counting() as counts:
        step()
    return counts


def measure(case: Case, emulator: Any, impls: list[str]) -> Cost:
    """Count at both sizes and carry it on to 128^3."""
    with fake_device(emulator, impls) as device:
        small, large = (count(device, case, edge) for edge in case.edges)
        lower_bound = floor(case.inputs(case.edges[1]), case.loss, PATCH)
    carry = _carried(*case.edges)
    return Cost(
        case.title,
        lower_bound,
        carry(small.nbytes, large.nbytes),
        case.bytes_at_most,
        large.launches,
        case.launches_at_most,
        dict(large.syncs),
        {name: _row(small.ours.get(name), moved, carry) for name, moved in large.ours.items()},
        {name: _row(small.torchs.get(name), moved, carry) for name, moved in large.torchs.items()},
    )


def _row(small: Any, large: Any, carry: Callable[[int, int], int]) -> dict[str, int]:
    read, written = ((carry(getattr(small, way), getattr(large, way)) if small else 0) for way in ("read", "written"))
    return {"launches": large.launches, "read": read, "written": written}


def _carried(small: int, large: int) -> Callable[[int, int], int]:
    """Bytes at 128^3 of those at two edges: a part that does not grow, and one that grows with the voxels."""

    def carry(at_small: int, at_large: int) -> int:
        slope = (at_large - at_small) / (large**3 - small**3)
        return round(at_large + slope * (PATCH**3 - large**3))

    return carry


def table(costs: dict[str, Cost]) -> str:
    """As Markdown."""
    lines = [
        "| forward and backward, B = 2, 128³, float32 | bytes | floor | ratio | limit | launches | limit | syncs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cost in costs.values():
        limit = "" if cost.launches_at_most is None else cost.launches_at_most
        lines.append(
            f"| {cost.title} | {cost.bytes / 1e6:.1f} MB | {cost.floor / 1e6:.1f} MB | {cost.ratio:.2f} "
            f"| {cost.at_most} | {cost.launches} | {limit} | {sum(cost.syncs.values())} |"
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
    """cost.json and cost.md."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: {**asdict(cost), "ratio": round(cost.ratio, 3)} for name, cost in costs.items()}
    (folder / "cost.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "cost.md").write_text(table(costs))


def main() -> None:
    from tests.fake_gpu.traffic import Metered

    costs = {name: measure(case, Metered(), ["cuda", "triton"]) for name, case in CASES.items()}
    write(costs)
    sys.stdout.write(table(costs))


if __name__ == "__main__":
    import os

    # read where kernels are defined
    os.environ["TRITON_INTERPRET"] = "1"
    main()
