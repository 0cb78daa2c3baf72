# SPDX-License-Identifier: Apache-2.0
"""Breaks kernels on purpose, to see which layer of tests notices: `python -m tests.emulation.mutations [--write]`.

Each break is made in a copy of the checkout, in which the smallest tests of the kernel run. `--write` puts the table
into README.md. The exit status is 1 where nothing noticed a break, and where the text to be replaced is gone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).parent / "README.md"
LAYERS = ("interpreter", "shim", "PTX: values", "PTX: memory", "PTX: races", "resources")


@dataclass(frozen=True)
class Mutation:
    """A break."""

    name: str
    file: str
    old: str
    """It has to be there exactly once."""
    new: str
    tests: str
    """Of tests/emulation: a file and a test."""
    only: str = ""
    """Which of its cases, as for `pytest -k`."""
    resources: str = ""
    """The kernel whose resources are looked at."""


PACK = "rsuper_kernels/ops/pack_bits/triton_kernel.py"
SEARCH = "rsuper_kernels/ops/ball_search/triton_kernel.py"
SCORES = "rsuper_kernels/ops/ball_search/triton_scores.py"
FIELDS = "rsuper_kernels/ops/ball_search/triton_fields.py"
CURVES = "rsuper_kernels/ops/curves/triton_kernel.py"
SELECT = "csrc/cuda/ball_select.cu"
RANKS = "csrc/cuda/rank_weights.cu"
DILATE = "csrc/cuda/dilate.cu"

MUTATIONS = [
    Mutation(
        "a bound that is off by one",
        PACK,
        "(row < rows) & (x < width)",
        "(row < rows) & (x <= width)",
        "test_pack_bits.py::test_masks_and_back",
        "shape0 or shape1 or shape2",
    ),
    Mutation(
        "a store beyond the end",
        PACK,
        "half_words, word, mask=half_words < count)",
        "half_words, word, mask=half_words <= count)",
        "test_pack_bits.py::test_masks_and_back",
        "shape0 or shape1",
    ),
    Mutation(
        "a load without its mask",
        SCORES,
        "mask=inside & read, other=0)",
        "mask=read, other=0)",
        "test_ball_search.py::test_centres",
        "noise or sparse",
    ),
    Mutation(
        "a wrong stride between planes",
        PACK,
        "volume = tl.load(samples + part).to(tl.int64) * rows * width",
        "volume = tl.load(samples + part).to(tl.int64) * rows",
        "test_pack_bits.py::test_labels",
        "uint8",
    ),
    Mutation(
        "plane and mask swapped",
        FIELDS,
        "plane, mask = tl.load(table + 3 * field)",
        "mask, plane = tl.load(table + 3 * field)",
        "test_ball_search.py::test_fields_of_logits_and_bits",
        "shape0 and float32",
    ),
    Mutation(
        "a dropped barrier before shared memory is used again",
        SELECT,
        "sum += of_warps[warp];\n  __syncthreads();",
        "sum += of_warps[warp];",
        "test_ball_select.py::test_odd_selections",
    ),
    Mutation(
        "a dropped barrier between a warp's lanes",
        RANKS,
        "  __syncwarp();\n  for (int i = first + lane;",
        "  for (int i = first + lane;",
        "test_ball_select.py::test_foreground_weights",
        "65 and dtype0",
    ),
    Mutation(
        "a barrier that not all threads come to",
        SELECT,
        "    if (thread < rows) spans[thread] = ball.span(start + thread);\n    __syncthreads();",
        "    if (thread < rows) {\n      spans[thread] = ball.span(start + thread);\n      __syncthreads();\n    }",
        "test_ball_select.py::test_odd_selections",
    ),
    Mutation(
        "a dropped barrier after shared memory is cleared",
        SELECT,
        "  __syncthreads();\n  const int words =",
        "  const int words =",
        "test_ball_select.py::test_select_in_balls",
    ),
    Mutation(
        "a wrong lane of a shuffle",
        RANKS,
        "__shfl_sync(kAllLanes, sum, 31)",
        "__shfl_sync(kAllLanes, sum, 30)",
        "test_ball_select.py::test_foreground_weights",
        "65 and dtype0",
    ),
    Mutation(
        "the bits behind a row's end",
        DILATE,
        "  if (k == row_words - 1) word &= rsuper::last_word_mask(width);\n",
        "",
        "test_dilate.py::test_dilate",
        "cascade-5 or cascade-63",
    ),
    Mutation(
        "a wrong exclusion",
        DILATE,
        "masks[beside[b] * size + i]",
        "masks[b * size + i]",
        "test_dilate.py::test_masks_beside",
    ),
    Mutation(
        "the last of equal centres",
        SEARCH,
        "first = tl.min(tl.where(scores >= best * (1 - TIE), index, voxels))",
        "first = tl.max(tl.where(scores >= best * (1 - TIE), index, -1))",
        "test_ball_search.py::test_the_first_of_equal_centres_wins",
    ),
    Mutation(
        "a wrong tolerance of ties",
        SEARCH,
        "TIE = tl.constexpr(1e-6)",
        "TIE = tl.constexpr(1e-4)",
        "test_ball_search.py::test_scores_within_the_tie_width_are_equal",
    ),
    Mutation(
        "a counter that is not reset",
        SEARCH,
        "        tl.store(counters + count + n, 0)\n",
        "",
        "test_ball_search.py::test_counters_are_zero_again",
    ),
    Mutation(
        "no order between programs",
        "rsuper_kernels/tiles.py",
        'sem="release") == programs - 1',
        'sem="relaxed") == programs - 1',
        "test_ball_search.py::test_the_first_of_equal_centres_wins",
    ),
    Mutation(
        "a wrong sign of a slope",
        CURVES,
        "sign = tl.where(predicted > target, 1.0,",
        "sign = tl.where(predicted >= 0, 1.0,",
        "test_curves.py::test_volume",
    ),
    Mutation(
        "a wrong eps",
        CURVES,
        "errors = fps + fns + 1e-5",
        "errors = fps + fns + 1e-2",
        "test_curves.py::test_bce_dice",
        "2-5",
    ),
    Mutation(
        "loads that are narrow",
        FIELDS,
        "read = inside_row & (words != 0)",
        "read = inside_row & (bits_of(words) != 0)",
        "test_ball_search.py::test_fields_of_logits_and_bits",
        "shape0 and float32",
        "fields_kernel",
    ),
    Mutation(
        "a tile that is too large",
        FIELDS,
        "HALF_WORDS = 64",
        "HALF_WORDS = 1024",
        "test_ball_search.py::test_fields_of_logits_and_bits",
        "shape0 and float32",
        "fields_kernel",
    ),
]

# What the PTX interpreter says of memory and barriers, and of races; what else fails there is a wrong value.
_RACE = re.compile(r"races for|different values to one place")
_MEMORY = re.compile(r"PtxError|Fault")


def copied(folder: Path) -> None:
    """The checkout's files, with the compiled module as a link."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in names.splitlines():
        source, copy = ROOT / name, folder / name
        if source.is_file() and not name.startswith(("docs/", "examples/", "benchmarks/results/")):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    for module in (ROOT / "rsuper_kernels").glob("_C*.so"):
        (folder / "rsuper_kernels" / module.name).symlink_to(module)


def gone() -> list[str]:
    """The breaks whose text is not there exactly once: the kernel has changed, and they have to follow."""
    counts = [(mutation, (ROOT / mutation.file).read_text().count(mutation.old)) for mutation in MUTATIONS]
    return [f"{mutation.name}: {mutation.file} has its text {count} times" for mutation, count in counts if count != 1]


def noticed(mutation: Mutation, folder: Path) -> dict[str, str]:
    """By layer, of those that were asked: "yes", "no", or "crash" where the process ended."""
    file = folder / mutation.file
    text = file.read_text()
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        found = _by_tests(mutation, folder)
        if mutation.resources:
            command = ["-m", "tests.emulation.resources", "--check", "--only", mutation.resources]
            found["resources"] = "yes" if _python(command, folder).returncode else "no"
        return found
    finally:
        file.write_text(text)


def _python(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "1000", "RSUPER_REQUIRE_EMULATION": "1"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def _by_tests(mutation: Mutation, folder: Path) -> dict[str, str]:
    output, died = _tested(mutation, folder, mutation.only)
    if not died:
        return _outcomes(mutation, output)
    # one emulator after the other, to see which of them took the process with it
    found: dict[str, str] = {}
    for emulator in ("interpreter", "shim", "ptx"):
        only = f"({mutation.only}) and {emulator}" if mutation.only else emulator
        output, died = _tested(mutation, folder, only)
        if died:
            found[emulator] = "crash"
        elif re.search(r"\d+ (?:passed|failed)", output):
            found |= _outcomes(mutation, output)
    return found


def _tested(mutation: Mutation, folder: Path, only: str) -> tuple[str, bool]:
    command = ["-m", "pytest", "-q", "--tb=line", "-rA", "-p", "no:cacheprovider", f"tests/emulation/{mutation.tests}"]
    run = _python([*command, *(["-k", only] if only else [])], folder)
    return run.stdout, run.returncode < 0


def _outcomes(mutation: Mutation, output: str) -> dict[str, str]:
    results = re.findall(
        r"^(PASSED|FAILED) \S+?\[(?:triton-|cuda-)?(interpreter|shim|ptx)\b[^\n]*?(?: - ([^\n]*))?$", output, re.M
    )
    if not results:
        raise LookupError(f"{mutation.name}: no test ran:\n{output}")
    found: dict[str, str] = {}
    for outcome, emulator, reason in results:
        layers = [layer for layer in LAYERS if layer.lower().startswith(emulator)]
        found |= {layer: found.get(layer, "no") for layer in layers}
        if outcome == "FAILED":
            found[_layer(emulator, reason)] = "yes"
    return found


def _layer(emulator: str, reason: str) -> str:
    if emulator != "ptx":
        return emulator
    if _RACE.search(reason):
        return "PTX: races"
    return "PTX: memory" if _MEMORY.search(reason) else "PTX: values"


def table(results: list[tuple[Mutation, dict[str, str]]]) -> str:
    """Which layer noticed what."""
    lines = [f"| break | in | {' | '.join(LAYERS)} |", "|---" * (2 + len(LAYERS)) + "|"]
    for mutation, found in results:
        cells = [{"yes": "**found**", "no": "-", "crash": "crash"}.get(found.get(layer, ""), "") for layer in LAYERS]
        lines.append(
            f"| {mutation.name} | {Path(mutation.file).parent.name}/{Path(mutation.file).name} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulation.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table into README.md")
    parser.add_argument("--only", default="", metavar="TEXT", help="the breaks whose names hold this")
    arguments = parser.parse_args()
    if lost := gone():
        sys.exit("\n".join(lost))
    chosen = [mutation for mutation in MUTATIONS if arguments.only in mutation.name]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as top:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(os.cpu_count() or 1):
            folder = Path(top) / str(number)
            copied(folder)
            folders.put(folder)

        def look(mutation: Mutation) -> dict[str, str]:
            folder = folders.get()
            start = time.monotonic()
            try:
                found = noticed(mutation, folder)
                sys.stderr.write(f"{mutation.name}: {found} {time.monotonic() - start:.0f} s\n")
                return found
            finally:
                folders.put(folder)

        with ThreadPoolExecutor(folders.qsize()) as pool:
            results = list(zip(chosen, pool.map(look, chosen), strict=True))
    if arguments.write and not arguments.only:
        before, begin_mark, rest = PAGE.read_text().partition("<!-- mutations -->\n")
        _, end_mark, after = rest.partition("<!-- /mutations -->")
        PAGE.write_text(f"{before}{begin_mark}{table(results)}\n{end_mark}{after}")
    unnoticed = [mutation.name for mutation, found in results if "yes" not in found.values()]
    sys.stdout.write(f"{table(results)}\n\n{len(results)} breaks in {time.monotonic() - begin:.0f} s\n")
    sys.exit("".join(f"nothing noticed {name}\n" for name in unnoticed) or 0)


if __name__ == "__main__":
    main()
