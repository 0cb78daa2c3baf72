# SPDX-License-Identifier: Apache-2.0
"""What kernels take of a GPU, by its assembler: `python -m tests.emulation.resources --check`, or `--write`.

`resources.csv` holds what every kernel took when it was last looked at, and a check compares with it. A change that is
meant goes there by `--write`.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rsuper_kernels import gpu
from tests.emulation import compiler
from tests.emulation.kernels import CudaKernel, TritonKernel, defined, recorded

TABLE = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).with_suffix(".md")
NVIDIA = (80, 90, 100)
AMD = "gfx942"
# What every GPU gives a block without being asked.
MOST_SHARED = 48 << 10


@dataclass(frozen=True)
class Resources:
    """A kernel on one target."""

    kernel: str
    variant: str
    target: str
    warps: int
    """0: the launch says."""
    registers: int
    """Of a thread."""
    spills: int
    stack: int
    shared: int
    """Bytes of a block, without what the launch adds."""
    loads: int
    """Instructions that read global memory."""
    wide_loads: int
    """Those of 128 bits and more."""
    stores: int
    wide_stores: int
    instructions: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.kernel, self.variant, self.target, self.warps


def measured(only: str = "") -> list[Resources]:
    """All kernels, or those of one name, on all targets."""
    compiler.require("triton")
    compiler.require("nvcc")
    rows: list[Resources] = []
    kernels = [kernel for kernel in recorded() if only in ("", kernel.name)]
    for kernel in kernels:
        if isinstance(kernel, TritonKernel):
            rows += [_of_triton(kernel, target) for target in (*NVIDIA, AMD)]
    for source in sorted({kernel.source for kernel in kernels if isinstance(kernel, CudaKernel)}):
        for target in NVIDIA:
            rows += _of_cuda(source, target)
    return rows


def _of_triton(kernel: TritonKernel, target: int | str) -> Resources:
    compiled = compiler.compile_triton(kernel.target, dict(kernel.arguments), kernel.warps, target, binary=True)
    named = (kernel.name, kernel.variant)
    if isinstance(target, str):
        return _of_assembly(compiled.text, *named, target, kernel.warps)
    ((_, usage, code),) = _dissected(compiled.binary)
    # Triton's kernels have no arrays of their own: what they keep in local memory is spilled
    local = sum(bool(re.match(r"LDL|STL", operation)) for operation in code)
    return _of_code(*named, f"sm_{target}", kernel.warps, usage, code, local, compiled.shared)


def _of_cuda(source: str, target: int) -> Iterator[Resources]:
    path = gpu.sources() / "cuda" / f"{source}.cu"
    binary, log = compiler.compile_cuda(path, target, "cubin", verbose=True)
    spilled = {
        name: int(stores) + int(loads)
        for name, stores, loads in re.findall(
            r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads", log, re.S
        )
    }
    for name, usage, code in _dissected(binary):
        yield _of_code(f"{source}.cu: {name}", "", f"sm_{target}", 0, usage, code, spilled[name], usage["SHARED"])


def _dissected(binary: bytes) -> list[tuple[str, dict[str, int], list[str]]]:
    """Of each kernel in a cubin: name, use of registers and memory, and the operations."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("-res-usage", "-sass")
        )
    usages = {
        name: {field: int(value) for field, value in re.findall(r"(\w+):(\d+)", numbers)}
        for name, numbers in re.findall(r"Function (\w+):\s*\n\s*(REG:[^\n]*)", usage)
    }
    parts = re.split(r"Function : (\w+)", code)[1:]
    operations = {
        name: re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text)
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return [(name, usages[name], operations[name]) for name in sorted(operations)]


def _of_code(
    kernel: str, variant: str, target: str, warps: int, usage: dict[str, int], code: list[str], spills: int, shared: int
) -> Resources:
    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, operation)) for operation in code)

    return Resources(
        kernel=kernel,
        variant=variant,
        target=target,
        warps=warps,
        registers=usage["REG"],
        spills=spills,
        stack=usage["STACK"],
        shared=shared,
        loads=count(r"LDG"),
        wide_loads=count(r"LDG\..*\b(128|256)"),
        stores=count(r"STG"),
        wide_stores=count(r"STG\..*\b(128|256)"),
        instructions=sum(operation != "NOP" for operation in code),
    )


def _of_assembly(text: str, kernel: str, variant: str, target: str, warps: int) -> Resources:
    def number(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])

    def count(pattern: str) -> int:
        return len(re.findall(rf"^\s+{pattern}", text, re.M))

    return Resources(
        kernel=kernel,
        variant=variant,
        target=target,
        warps=warps,
        registers=number("vgpr_count"),
        # scalars that find no register go to lanes of a vector register, and not to memory
        spills=number("vgpr_spill_count"),
        stack=number("private_segment_fixed_size"),
        shared=number("group_segment_fixed_size"),
        loads=count(r"(?:global|buffer)_load"),
        wide_loads=count(r"(?:global|buffer)_load_dwordx4"),
        stores=count(r"(?:global|buffer)_store"),
        wide_stores=count(r"(?:global|buffer)_store_dwordx4"),
        instructions=count(r"[svbg]\w*_\w+"),
    )


def complaints(now: list[Resources], known: list[Resources], only: str = "") -> list[str]:
    """What is worse than the table says, or not in it."""
    found = []
    known = [row for row in known if only in ("", name_of(row))]
    missing = ({only} if only else defined()) - {name_of(row) for row in now}
    found += [f"{name}: no call in kernels.py launches it" for name in sorted(missing)]
    table = {row.key: row for row in known}
    for row in now:
        where = " ".join(filter(None, (row.kernel, row.variant, row.target)))
        if row.spills:
            found.append(f"{where}: spills {row.spills}")
        if row.shared > MOST_SHARED:
            found.append(f"{where}: {row.shared} bytes of shared memory")
        if (before := table.pop(row.key, None)) is None:
            found.append(f"{where}: not in {TABLE.name}")
            continue
        for name, limit in _limits(before).items():
            if (value := getattr(row, name)) > limit:
                found.append(f"{where}: {name} {value}, and it was {getattr(before, name)}")
        for name in ("wide_loads", "wide_stores"):
            if getattr(row, name) < getattr(before, name):
                found.append(f"{where}: {name} {getattr(row, name)}, and it was {getattr(before, name)}")
    found += [f"{' '.join(map(str, key))}: in {TABLE.name}, and no call launches it" for key in table]
    return found


def name_of(row: Resources) -> str:
    """A kernel's name without its file."""
    return row.kernel.rpartition(": ")[2]


def _limits(before: Resources) -> dict[str, float]:
    return {
        "registers": max(1.1 * before.registers, before.registers + 2),
        "stack": before.stack,
        "shared": before.shared,
        "instructions": 1.25 * before.instructions,
    }


def read() -> list[Resources]:
    """The table."""
    if not TABLE.exists():
        return []
    kinds = {field.name: int if field.type == "int" else str for field in fields(Resources)}
    with TABLE.open(newline="") as file:
        return [Resources(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def write(rows: list[Resources]) -> None:
    """The table, and a page to read."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Resources)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    TABLE.write_text(text.getvalue())
    PAGE.write_text(_page(rows))


def _page(rows: list[Resources]) -> str:
    targets = [f"sm_{target}" for target in NVIDIA] + [AMD]
    lines = [
        "# What kernels take of a GPU",
        "",
        "By `python -m tests.emulation.resources --write`, from resources.csv: the most that any variant of a kernel",
        "takes. Registers of a thread on each target. Of sm_90 the spills, the shared memory of a block in bytes, the",
        "instructions, and how many of those that read and write global memory have 128 bits.",
        "",
        f"| kernel | variants | {' | '.join(targets)} | spills | shared | instructions | loads | stores |",
        "|---" * (7 + len(targets)) + "|",
    ]
    for kernel in dict.fromkeys(row.kernel for row in rows):
        own = [row for row in rows if row.kernel == kernel]
        ninety = [row for row in own if row.target == "sm_90"]
        registers = [max((row.registers for row in own if row.target == target), default=0) for target in targets]
        most = {name: max(getattr(row, name) for row in ninety) for name in ("spills", "shared", "instructions")}
        wide = [
            f"{max(getattr(row, f'wide_{name}') for row in ninety)} of {max(getattr(row, name) for row in ninety)}"
            for name in ("loads", "stores")
        ]
        cells = [kernel, len(ninety), *(count or "-" for count in registers), *most.values(), *wide]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulation.resources", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the table (default)")
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("--only", default="", metavar="KERNEL", help="check one kernel")
    arguments = parser.parse_args()
    rows = measured(arguments.only)
    if arguments.write and not arguments.only:
        write(rows)
    found = complaints(rows, read(), arguments.only)
    sys.stdout.writelines(f"{line}\n" for line in [*found, f"{len(rows)} rows, {len(found)} complaints"])
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
