# SPDX-License-Identifier: Apache-2.0
"""Reads PTX: one entry of a module as a list of instructions, with the functions it calls put in their places.

Names that PTX scopes (registers, parameters, labels, local arrays) come out unique.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

_NAME = re.compile(r"%?[A-Za-z_$][\w$]*(?:\.[xyz](?![\w$]))?")
_LABEL = re.compile(r"\s*([A-Za-z_$][\w$]*)\s*:(?!:)")
_DECLARATION = re.compile(r"(?:\.align\s+(\d+)\s+)?\.([bsuf]\d+)\s+([\w$%]+)\s*(?:\[(\d*)\])?")
_ARRAY = re.compile(
    r"\.(shared|global|const)\s+(?:\.align\s+(\d+)\s+)?\.([bsuf]\d+)\s+([\w$]+)\s*(?:\[(\d*)\])?\s*(?:=\s*\{([^}]*)\})?\s*;"
)


class Instruction(NamedTuple):
    """One instruction: `@guard opcode.modifiers operands`."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    text: str

    @property
    def type(self) -> str:
        """The last modifier, which of nearly all instructions is the type."""
        return self.modifiers[-1]


class Array(NamedTuple):
    """An array in shared memory or in a module's global memory."""

    name: str
    align: int
    bytes: int
    values: bytes


@dataclass
class Program:
    """An entry, ready to be decoded."""

    name: str
    parameters: list[tuple[str, int]] = field(default_factory=list)
    """Name and bytes."""
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    """Lists of labels that indexed branches name."""
    registers: dict[str, str] = field(default_factory=dict)
    """The type that each was declared with."""
    shared: list[Array] = field(default_factory=list)
    constants: list[Array] = field(default_factory=list)
    local: dict[str, int] = field(default_factory=dict)
    """Where each thread's local arrays begin, and what its calls pass and return."""
    local_bytes: int = 0


def parse(text: str, entry: str | None = None) -> Program:
    """Read the entry of that name, or the only one."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^\s*\.(?:loc|file)\b[^\n]*", "", text, flags=re.M)
    functions = _functions(text)
    entries = [name for name, function in functions.items() if function.entry]
    if entry is None:
        (entry,) = entries
    if entry not in entries:
        raise ValueError(f"no entry {entry!r} in this module: it has {', '.join(entries)}")
    program = Program(entry)
    program.parameters = functions[entry].inputs
    _Reader(program, functions).read(functions[entry], "", {})
    used = {name for i in program.instructions for operand in i.operands for name in _NAME.findall(operand)}
    for function in functions.values():
        text = text.replace(function.body, "")
    for found in _ARRAY.finditer(text):
        if found[4] in used:
            _declare_array(program, found)
    return program


class _Function(NamedTuple):
    entry: bool
    outputs: list[tuple[str, int]]
    inputs: list[tuple[str, int]]
    body: str


def _functions(text: str) -> dict[str, _Function]:
    head = re.compile(r"\.(entry|func)\s*(?:\.noreturn\s*)?(\([^)]*\))?\s*([\w$]+)\s*(\([^)]*\))?")
    functions = {}
    for found in head.finditer(text):
        kind, outputs, name, inputs = found.groups()
        begin = text.find("{", found.end())
        end_of_prototype = text.find(";", found.end())
        if begin < 0 or 0 <= end_of_prototype < begin:
            continue
        body = text[begin + 1 : _closing(text, begin)]
        functions[name] = _Function(kind == "entry", _parameters(outputs), _parameters(inputs), body)
    return functions


def _closing(text: str, begin: int) -> int:
    depth = 0
    for brace in re.compile(r"[{}]").finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    raise ValueError("a brace of this module is never closed")


def _parameters(text: str | None) -> list[tuple[str, int]]:
    found = []
    for part in (text or "").strip("() \n\t").split(","):
        if part.strip():
            declared = re.search(r"\.([bsuf]\d+)\b.*?([\w$]+)\s*(?:\[(\d+)\])?\s*$", part.strip(), re.S)
            found.append((declared[2], int(declared[1][1:]) // 8 * int(declared[3] or 1)))
    return found


def _declare_array(program: Program, found: re.Match[str]) -> None:
    space, align, kind, name, length, values = found.groups()
    width = int(kind[1:]) // 8
    size = width * int(length) if length else (0 if length == "" else width)
    raw = b"".join(
        (int(value, 0) % (1 << (8 * width))).to_bytes(width, "little") for value in (values or "").split(",") if value
    )
    array = Array(name, int(align or width), size, raw.ljust(size, b"\0"))
    (program.shared if space == "shared" else program.constants).append(array)


def split(text: str) -> list[str]:
    """The operands of an instruction: split at commas that are in no bracket."""
    parts, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    last = text[begin:].strip()
    return [*parts, last] if last else parts


def _statements(body: str) -> list[str]:
    """Statements, labels (with their colon) and the braces of scopes."""
    found, i = [], 0
    pattern = re.compile(r"\s*([{}])|" + _LABEL.pattern + r"|\s*([^;]+);")
    while match := pattern.match(body, i):
        brace, label, statement = match.groups()
        found.append(brace or (f"{label}:" if label else " ".join(statement.split())))
        i = match.end()
    if body[i:].strip():
        raise ValueError(f"cannot read {body[i : i + 80]!r}")
    return found


class _Reader:
    """Appends functions to a program."""

    def __init__(self, program: Program, functions: dict[str, _Function]) -> None:
        self._program, self._functions = program, functions
        self._scopes = 0

    def read(self, function: _Function, end: str, actual: dict[str, str]) -> None:
        """Append a function whose parameters go by the names `actual`, and whose `ret` goes to the label `end`."""
        statements = _statements(function.body)
        prefix = self._prefix()
        names = [{s[:-1]: prefix + s[:-1] for s in statements if s.endswith(":")} | actual]
        label = ""
        for statement in statements:
            if statement == "{":
                names.append({})
            elif statement == "}":
                names.pop()
            elif statement.endswith(":"):
                label = names[0][statement[:-1]]
                self._program.labels[label] = len(self._program.instructions)
            elif statement.startswith(".branchtargets"):
                self._program.targets[label] = [names[0][target] for target in split(statement.split(" ", 1)[1])]
            elif statement.startswith("."):
                self._declare(statement, names[-1])
            else:
                self._append(self._renamed(statement, names), statement, end)

    def _prefix(self) -> str:
        self._scopes += 1
        return f"f{self._scopes}." if self._scopes > 1 else ""

    def _declare(self, statement: str, names: dict[str, str]) -> None:
        directive, _, rest = statement.partition(" ")
        prefix = self._prefix()
        if directive == ".reg":
            kind, _, declared = rest.strip().partition(" ")
            for name in declared.split(","):
                several = re.fullmatch(r"\s*(%?[\w$]+)<(\d+)>\s*", name)
                plain = [f"{several[1]}{i}" for i in range(int(several[2]))] if several else [name.strip()]
                for one in plain:
                    names[one] = prefix + one
                    self._program.registers[prefix + one] = kind.lstrip(".")
        elif directive in (".param", ".local"):
            align, kind, name, length = _DECLARATION.search(rest).groups()
            at = -(-self._program.local_bytes // int(align or 8)) * int(align or 8)
            names[name] = prefix + name
            self._program.local[prefix + name] = at
            self._program.local_bytes = at + int(kind[1:]) // 8 * int(length or 1)
        elif directive in (".shared", ".global", ".const"):
            _declare_array(self._program, _ARRAY.match(statement + ";"))
        elif directive != ".pragma":
            raise NotImplementedError(f"directive {statement!r}")

    @staticmethod
    def _renamed(statement: str, names: list[dict[str, str]]) -> str:
        def rename(found: re.Match[str]) -> str:
            for scope in reversed(names):
                if found[0] in scope:
                    return scope[found[0]]
            return found[0]

        # the opcode itself is no name
        guard, opcode, operands = re.fullmatch(r"(@!?\s*\S+\s+)?(\S+)\s*(.*)", statement).groups()
        return _NAME.sub(rename, guard or "") + opcode + " " + _NAME.sub(rename, operands)

    def _append(self, statement: str, text: str, end: str) -> None:
        guard, opcode, operands = re.fullmatch(r"(@!?\s*\S+\s+)?(\S+)\s*(.*)", statement).groups()
        negated = (guard or "").startswith("@!")
        guard = guard.strip("@! ") if guard else None
        name, *modifiers = opcode.split(".")
        if name == "call":
            self._call(split(operands), guard, negated)
            return
        if name == "ret" and end:
            name, modifiers, operands = "bra", ["uni"], end
        self._program.instructions.append(
            Instruction(name, tuple(modifiers), tuple(split(operands)), guard, negated, text)
        )

    def _call(self, operands: list[str], guard: str | None, negated: bool) -> None:
        results = split(operands.pop(0).strip("() ")) if operands[0].startswith("(") else []
        name = operands[0]
        arguments = split(operands[1].strip("() ")) if len(operands) > 1 else []
        if name not in self._functions:
            raise NotImplementedError(f"call of {name}, which this module does not hold")
        if guard is not None:
            raise NotImplementedError(f"call of {name} with a guard")
        function = self._functions[name]
        formal = [parameter for parameter, _ in (*function.outputs, *function.inputs)]
        end = f"after{self._prefix()}{name}"
        self.read(function, end, dict(zip(formal, (*results, *arguments), strict=True)))
        self._program.labels[end] = len(self._program.instructions)
