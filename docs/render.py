# SPDX-License-Identifier: Apache-2.0
"""Write the docs' tables from what they describe: `python -m docs.render` (or `--check`, which changes nothing)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import rsuper_kernels  # noqa: F401  (registers the ops)
from benchmarks import experiment, figures, reports, store, training
from rsuper_kernels import dispatch
from rsuper_train.reports.table import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
REPORTS = ROOT / "docs" / "reports.md"
TRAINING = ROOT / "docs" / "training.md"
METRICS = ROOT / "docs" / "demo.json"

FLOATS = ("float16", "bfloat16", "float32", "float64")
# The dtypes that an op takes, where that is not every float.
OP_DTYPES = {
    "combine": ("bits",),
    "dilate": ("bits",),
    "pack_labels": ("any integer",),
    "pack_masks": ("any",),
    "unpack_masks": ("bits",),
    "ball_search": ("float32", "float64"),
    "ball_select": ("float32", "float64"),
    "rank_weights": ("float32", "float64"),
    "bce_dice": ("float32", "float64"),
    "volume": ("float32", "float64"),
}

DEMO = (
    ("overlap", "dsc", "DSC"),
    ("overlap", "volume_difference_ml", "volume, predicted less true, ml"),
    ("lesions", "sensitivity", "sensitivity, lesions"),
    ("lesions", "false_positives_per_case", "false positives per case"),
    ("patients", "auc", "AUC, patients"),
)


def support_table() -> str:
    """The dtypes that each backend of each op takes."""
    ops = [op for op in dispatch.ops() if not op.endswith("_backward")]
    implementations = [*reversed(dispatch.IMPLEMENTATIONS)]
    lines = ["| op | " + " | ".join(implementations) + " |", "|---" * (len(implementations) + 1) + "|"]
    lines += [f"| {op} | {' | '.join(_dtypes(op, impl) for impl in implementations)} |" for op in ops]
    return "\n".join(lines)


def _dtypes(op: str, impl: str) -> str:
    backend = dispatch.backend(op, impl)
    if backend is None:
        return "Triton's" if impl == "cuda" else "none"
    if backend.target.endswith(f"reference:{op}") and impl == "triton":
        return "torch's"
    own = None if backend.dtypes is None else [str(dtype).removeprefix("torch.") for dtype in backend.dtypes]
    return ", ".join(dtype for dtype in OP_DTYPES.get(op, FLOATS) if own is None or dtype in own)


def demo_table() -> str:
    """The demo's results with their intervals, from its metrics file."""
    metrics = json.loads(METRICS.read_text())
    lines = ["| | mean | 95 % interval |", "|---|---|---|"]
    for group, name, meaning in DEMO:
        found = metrics[group][name]
        interval = "" if found["low"] is None else f"{found['low']:.2f} to {found['high']:.2f}"
        lines.append(f"| {meaning} | {found['value']:.2f} | {interval} |")
    return "\n".join(lines)


def columns_table() -> str:
    """The columns of the table of tumours."""
    return "\n".join(["| column | what it holds |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in COLUMNS.items())])


def pages() -> dict[Path, dict[str, str]]:
    """The blocks of each page."""
    return {
        README: {
            "support": support_table(),
            "demo": demo_table(),
            "speed": figures.readme(figures.read()),
            "experiment": experiment.table(figures.read(experiment.RESULT)),
        },
        REPORTS: {"columns": columns_table(), "rules": reports.table(figures.read(reports.RESULT))},
        TRAINING: {
            "experiment": experiment.table(figures.read(experiment.RESULT)),
            "step": training.table(figures.read(training.RESULT)),
            "store": store.table(figures.read(store.RESULT)),
        },
    }


def render(text: str, blocks: Mapping[str, str]) -> str:
    """A page with each block between its markers written anew."""
    for name, block in blocks.items():
        pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
        text = re.sub(pattern, lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    for page, blocks in pages().items():
        current = page.read_text()
        rendered = render(current, blocks)
        if "--check" not in sys.argv:
            page.write_text(rendered)
        elif rendered != current:
            sys.exit(f"{page.relative_to(ROOT)} is out of date: run `make readme`")


if __name__ == "__main__":
    main()
