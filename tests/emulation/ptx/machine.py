# SPDX-License-Identifier: Apache-2.0
"""Runs a decoded program: some blocks of a grid at once, all their threads as lanes of numpy arrays.

Of the lanes that can go on, those at the lowest instruction execute up to the next place where lanes can part or meet.
So diverged lanes meet again where their paths do, and lanes of different blocks are apart only in what they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# they register what decodes their instructions
from tests.emulation.ptx import access, arithmetic, integers, moves, warp  # noqa: F401
from tests.emulation.ptx.decode import decode
from tests.emulation.ptx.memory import POISON, Banked, Fault, Global
from tests.emulation.ptx.parser import Program
from tests.emulation.ptx.races import Race, watch_shared
from tests.emulation.ptx.values import DTYPES, bits_of

WARP = 32
_STEPS = 20_000_000


class PtxError(RuntimeError):
    """What a kernel did wrong: where, by which thread of which block, and what."""


class Kernel:
    """A program that is decoded once and launched many times."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.operations, self.decoder = decode(program)
        starts = {0, len(self.operations), *program.labels.values()}
        starts |= {at + 1 for at, i in enumerate(program.instructions) if i.opcode in ("bra", "brx", "ret", "exit")}
        ordered = np.array(sorted(starts))
        positions = np.arange(len(self.operations))
        self.ends = [int(end) for end in ordered[np.searchsorted(ordered, positions, side="right")]]
        self.grain = _narrowest_access(program)


def _narrowest_access(program: Program) -> int:
    """By how many bytes races are told apart: as few as any access has."""
    widths = [
        bits_of(i.type) // 8
        for i in program.instructions
        if i.opcode in ("ld", "st", "atom", "red") and "param" not in i.modifiers
    ]
    return min([4, *widths])


@dataclass(frozen=True)
class Launch:
    """What all blocks of a launch have in common."""

    kernel: Kernel
    grid: tuple[int, int, int]
    threads: int
    parameters: bytes
    memory: Global
    shared_bytes: int = 0
    """Dynamic shared memory of a block."""
    random: Any = None
    """A numpy generator that draws the order of atomics; None: by lane."""
    watch: Any = None
    """A `GlobalWatch`; None: races are not looked for."""


class Machine:
    """Some blocks of a launch."""

    def __init__(self, launch: Launch, blocks: Sequence[int]) -> None:
        kernel = launch.kernel
        self._launch, self._kernel = launch, kernel
        self.program = kernel.program
        self.width = -(-launch.threads // WARP) * WARP
        self.lanes = self.width * len(blocks)
        self.block_of_lane = np.repeat(np.arange(len(blocks)), self.width)
        self.thread = np.tile(np.arange(self.width, dtype=np.uint32), len(blocks))
        self.lane = self.thread % np.uint32(WARP)
        self.blocks = np.asarray(blocks, np.int64)
        self.parameters = launch.parameters
        self.rows = {bits: self._registers(bits, count) for bits, count in kernel.decoder.counts.items()}
        self.views = {kind: self.rows[bits_of(kind)].view(DTYPES[kind]) for kind in DTYPES if kind != "bf16"}
        shared = Banked("shared", self.block_of_lane, kernel.decoder.shared_bytes + launch.shared_bytes)
        local = Banked("local", np.arange(self.lanes), kernel.program.local_bytes)
        self.memories: dict[str, Any] = {"global": launch.memory, "shared": shared, "local": local}
        self.shuffles: dict[Any, Any] = {}
        self._special: dict[str, Any] = {}
        self.exited = self.thread >= launch.threads
        self._places = np.zeros(self.lanes, np.int64)
        self._runs = ~self.exited
        self._at_barrier = np.full(self.lanes, -1)
        self._expected = np.zeros(self.lanes, np.int64)
        self._waits = np.zeros(self.lanes, bool)
        self.mask: Any = None
        self._next = 0
        self._parted = False
        # how often a block's, a warp's threads have met: what lies between two meetings is unordered
        self.block_time = np.zeros(len(blocks), np.int64)
        self.warp_time = np.zeros(self.lanes // WARP, np.int64)
        self.meeting_time = np.zeros(self.lanes // WARP, np.int64)  # votes and shuffles, too
        self.watch = None
        if launch.watch is not None:
            self.watch = {"shared": watch_shared(shared, kernel.grain, self.width), "global": launch.watch}
        self.atomic_order: Any = ()

    def _registers(self, bits: int, count: int) -> np.ndarray:
        if bits == 1:
            return np.zeros((count, self.lanes), bool)
        return np.full((count, self.lanes * bits // 8), POISON, np.uint8).view(f"u{bits // 8}")

    def special(self, name: str) -> Any:
        """A special register, as uint32 or uint64."""
        if name not in self._special:
            self._special[name] = self._special_value(name)
        return self._special[name]

    def _special_value(self, name: str) -> Any:
        register, _, axis = name.partition(".")
        x, y, z = self._launch.grid
        if register == "%ctaid":
            block = self.blocks[self.block_of_lane]
            place = {"x": block % x, "y": block // x % y, "z": block // (x * y)}[axis]
            return place.astype(np.uint32)
        values = {
            "%tid": {"x": self.thread},
            "%ntid": {"x": np.uint32(self._launch.threads)},
            "%nctaid": {"x": np.uint32(x), "y": np.uint32(y), "z": np.uint32(z)},
            "%laneid": {"": self.lane},
            "%warpid": {"": self.thread // np.uint32(WARP)},
            "%lanemask_eq": {"": np.uint32(1) << self.lane},
            "%lanemask_lt": {"": (np.uint32(1) << self.lane) - np.uint32(1)},
            "%lanemask_le": {"": (np.uint32(2) << self.lane) - np.uint32(1)},
            "%lanemask_gt": {"": ~((np.uint32(2) << self.lane) - np.uint32(1))},
            "%lanemask_ge": {"": ~((np.uint32(1) << self.lane) - np.uint32(1))},
        }
        if register not in values:
            raise NotImplementedError(f"special register {name}")
        return values[register].get(axis, np.uint32({"%tid": 0, "%ntid": 1}.get(register, 0)))

    def run(self) -> None:
        """From the first instruction to the end of every thread."""
        self.mask = None if self._runs.all() else self._runs.copy()
        at = 0
        for _ in range(_STEPS):
            at = self._execute(at)
            if self.mask is None and not self._parted:
                continue
            if not self._parted:
                self._places[self.mask] = at
            found = self._pick()
            if found is None:
                return
            at = found
        raise PtxError(f"{self._kernel.program.name} does not end")

    def _execute(self, at: int) -> int:
        """Run to the end of the basic block, or to where lanes part; where the lanes go on, unless they parted."""
        end = self._kernel.ends[at]
        self._next, self._parted = end, False
        operations = self._kernel.operations
        try:
            while at < end:
                operations[at](self, self.mask)
                if self._parted:
                    break
                at += 1
        except Fault as fault:
            raise self._error(at, fault.reason, fault.lane) from None
        except Race as race:
            raise self._error(at, race.reason, race.lane, race.other) from None
        return self._next

    def _error(self, at: int, reason: str, lane: int, other: int | None = None) -> PtxError:
        program = self._kernel.program
        x, y, _ = self._launch.grid
        block = int(self.blocks[self.block_of_lane[lane]])
        where = f"block ({block % x}, {block // x % y}, {block // (x * y)}), thread {self.thread[lane]}"
        text = f"{program.name}, {where}: `{program.instructions[at].text}`: {reason}"
        if other is not None:
            text += f" `{program.instructions[other].text}`"
        return PtxError(text)

    def _pick(self) -> int | None:
        """Choose the lanes at the lowest instruction; None at the end."""
        if not self._runs.any() and not self._unblocked():
            return None
        at = int(np.where(self._runs, self._places, np.iinfo(np.int64).max).min())
        mask = self._runs & (self._places == at)
        self.mask = None if mask.all() else mask
        return at

    def _unblocked(self) -> bool:
        """Whether lanes can go on after all, for others have ended; False where all have ended."""
        if self.exited.all():
            return False
        self._release()
        if self._runs.any():
            return True
        lane = int(np.argmax(~self.exited))
        program = self._kernel.program
        places = {
            int(at) - (not waits)
            for at, waits in zip(self._places[~self.exited], self._waits[~self.exited], strict=True)
        }
        held = ", ".join(f"`{program.instructions[at].text}`" for at in sorted(places))
        raise self._error(min(places), f"threads wait for each other for ever: they are at {held}", lane)

    # What operations ask of the machine.

    def jump(self, target: int) -> None:
        """All executing lanes go on at `target`."""
        self._next = target

    def part(self, places: Any, mask: Any) -> None:
        """Executing lanes go on at places of their own."""
        if mask is None:
            self._places[...] = places
        else:
            np.copyto(self._places, places, where=mask)
        self._parted = True

    def end(self, mask: Any) -> None:
        """Lanes end."""
        ended = np.ones(self.lanes, bool) if mask is None else mask
        self._leave(ended)
        self.exited |= ended
        woken = self._waits & (self.as_bits(ended) != 0)  # whom they waited for may have ended
        self._waits &= ~woken
        self._runs |= woken

    def _leave(self, leaving: Any) -> None:
        """Lanes stop to run; those that stay go on with the next instruction."""
        self._runs &= ~leaving
        stay = ~leaving if self.mask is None else self.mask & ~leaving
        if stay.any():
            self.mask = stay
        else:
            self._parted = True

    def as_bits(self, holds: Any) -> Any:
        """For each lane, which lanes of its warp a condition holds for."""
        bits = np.packbits(holds.reshape(-1, WARP), axis=1, bitorder="little").view(np.uint32)
        return np.repeat(bits.ravel(), WARP)

    def wait_for_lanes(self, waiting: Any, at: int) -> None:
        """Lanes wait at an instruction until others of their warp come there."""
        here = self._waits & (self._places == at)
        self._places[waiting] = at
        if here.any():
            # those who waited already try again, together with these
            self._waits &= ~here
            self._runs |= here
            self._leave(waiting)
            self._runs |= waiting
        else:
            self._waits |= waiting
            self._leave(waiting)

    def whole_warps(self, mask: Any, what: str) -> None:
        """Raise unless lanes execute together as whole warps."""
        if mask is not None:
            bits = self.as_bits(mask)
            broken = mask & (bits != np.uint32(0xFFFFFFFF))
            if broken.any():
                raise Fault(f"{what} by a part of a warp", int(np.argmax(broken)))

    def arrive(self, mask: Any, number: Any, count: Any, at: int) -> None:
        """Lanes arrive at a barrier of their block."""
        if mask is None and count is None:
            self.block_time += 1
            return
        arrived = np.ones(self.lanes, bool) if mask is None else mask
        self._places[... if self.mask is None else self.mask] = at + 1
        self._at_barrier = np.where(arrived, np.asarray(number).astype(np.int64), self._at_barrier)
        self._expected = np.where(arrived, 0 if count is None else np.asarray(count).astype(np.int64), self._expected)
        others = self._runs & ~arrived
        self._runs = others
        self._release()
        self._parted = bool((self._runs != (others | arrived)).any())

    def _release(self) -> None:
        """Let those go on whose barrier is complete: all living threads, or as many as it counts, are there."""
        for number in np.unique(self._at_barrier[self._at_barrier >= 0]):
            there = (self._at_barrier == number).reshape(-1, self.width)
            living = ~self.exited.reshape(-1, self.width)
            expected = np.where(there, self._expected.reshape(-1, self.width), 0).max(axis=1)
            complete = there.sum(axis=1) >= np.where(expected > 0, expected, living.sum(axis=1))
            complete &= there.any(axis=1)
            if complete.any():
                free = (there & complete[:, None]).ravel()
                self._at_barrier[free] = -1
                self._runs |= free
                # of a barrier for a part of the block, too, so that races with the others may go unseen
                self.block_time[complete] += 1

    def lanes_met(self, mask: Any) -> None:
        """Lanes of a warp have executed an instruction together."""
        self.meeting_time += 1 if mask is None else mask.reshape(-1, WARP).any(axis=1)

    def warps_synchronised(self, mask: Any) -> None:
        """Lanes of a warp have met, and what they did to memory before is ordered."""
        self.warp_time += 1 if mask is None else mask.reshape(-1, WARP).any(axis=1)

    def fenced(self, mask: Any) -> None:
        """Lanes have executed a fence."""
        if self.watch is not None:
            self.watch["global"].fenced(self, mask)

    def order(self, count: int) -> Any:
        """In which order that many lanes do their atomics."""
        random = self._launch.random
        self.atomic_order = np.arange(count) if random is None else random.permutation(count)
        return self.atomic_order
