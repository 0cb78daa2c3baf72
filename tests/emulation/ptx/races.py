# SPDX-License-Identifier: Apache-2.0
"""Finds races: two threads at one place of memory, one of them writing, with nothing between that orders them.

Emulated threads run in lockstep, so that a missing barrier changes no value here; it is found by who touched what since
the last one. Within a block, barriers order. Within a warp bar.warp.sync does, too, and any vote or shuffle orders what
was read before it. Between blocks only the chain "write, fence or release, atomic of one, atomic of the other at the
same place, read" does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulation.ptx.memory import Banked, Global

WARP = 32
_NOBODY, _SEVERAL = -1, -2


class Race(RuntimeError):
    """Accesses that nothing orders."""

    def __init__(self, reason: str, lane: int, other: int) -> None:
        super().__init__(reason)
        self.reason, self.lane = reason, lane
        self.other = other
        """The instruction of the earlier access."""


class _Accesses:
    """The last access of a kind to each grain of memory."""

    def __init__(self, grains: int, clock: str) -> None:
        self._clock = clock
        self.thread = np.full(grains, _NOBODY, np.int64)
        self.warp = np.full(grains, _NOBODY, np.int64)
        self.block = np.full(grains, _NOBODY, np.int64)
        self.block_time = np.full(grains, -1, np.int64)
        self.warp_time = np.full(grains, -1, np.int64)
        self.step = np.full(grains, -1, np.int64)
        self.at = np.full(grains, -1, np.int32)
        self.atomic = np.zeros(grains, bool)

    def put(self, where: Any, who: _Who, at: int, step: int, atomic: bool) -> None:
        self.thread[where], self.warp[where], self.block[where] = who.thread, who.warp, who.block
        self.block_time[where], self.warp_time[where] = who.block_time, self.now(who)
        self.step[where], self.at[where], self.atomic[where] = step, at, atomic

    def now(self, who: _Who) -> Any:
        """How often the warps have met, as far as that orders accesses of this kind."""
        return getattr(who, self._clock)

    def add(self, where: Any, who: _Who, at: int, step: int, atomic: bool) -> None:
        """Put, and remember where another did the same since the last meeting of the block."""
        known = (self.block[where] != who.block) | (self.block_time[where] == who.block_time)
        known &= self.thread[where] != _NOBODY
        # what is ordered before this access of its own warp need not be remembered: others are as far from both
        known &= (self.warp[where] != who.warp) | (self.warp_time[where] == self.now(who))
        before = [(mine[where], theirs) for mine, theirs in self._groups(who)]
        self.put(where, who, at, step, atomic)
        for (mine, theirs), (old, _) in zip(self._groups(who), before, strict=True):
            several = (mine[where] != theirs) | (known & (old != theirs))
            mine[where[several]] = _SEVERAL

    def _groups(self, who: _Who) -> list[tuple[Any, Any]]:
        return [(self.thread, who.thread), (self.warp, who.warp), (self.block, who.block)]


class _Who:
    """The lanes that make an access, once for each grain that they touch."""

    def __init__(self, m: Any, lanes: Any, grains: int) -> None:
        lanes = np.arange(m.lanes) if lanes is None else lanes
        self.lanes = np.repeat(lanes, grains) if grains > 1 else lanes
        self.block = m.blocks[m.block_of_lane[self.lanes]]
        self.thread = self.block * m.width + m.thread[self.lanes]
        self.warp = self.thread // WARP
        self.block_time = m.block_time[m.block_of_lane[self.lanes]]
        self.warp_time = m.warp_time[self.lanes // WARP]
        self.meeting_time = m.meeting_time[self.lanes // WARP]


class Watch:
    """Who touched which grain of a memory."""

    def __init__(self, grains: int, grain: int, name: str, threads: int) -> None:
        self.grain, self.name, self._threads = grain, name, threads
        self._writes, self._reads = _Accesses(grains, "warp_time"), _Accesses(grains, "meeting_time")
        self._step = 0

    def place(self, index: Any) -> Any:
        """The grain of a byte."""
        return index // self.grain

    def see(self, m: Any, kind: str, index: Any, lanes: Any, width: int, at: int, same: Any = None) -> None:
        """Take note of an access; raise `Race` where nothing orders it and an earlier one.

        kind: "read", "write" or "atomic", with "strong " before it for accesses that may race (volatile, relaxed, ...).
        same: a function that says for each access whether it writes what is there already, which harms nobody.
        """
        self._step += 1
        grains = max(width // self.grain, 1)
        where = self.place(index)
        if grains > 1:
            where = (where[:, None] + np.arange(grains)).ravel()
        who = _Who(m, lanes, grains)
        strong = kind == "atomic" or kind.startswith("strong ")
        if strong:
            self.log(m, who, where, at)
        self._compare(self._writes, "written by", where, who, strong, same, grains)
        if kind.endswith("read"):
            self._reads.add(where, who, at, self._step, strong)
        else:
            self._compare(self._reads, "read by", where, who, strong, same, grains)
            self._writes.put(where, who, at, self._step, strong)

    def _compare(
        self, earlier: _Accesses, verb: str, where: Any, who: _Who, strong: bool, same: Any, grains: int
    ) -> None:
        other = earlier.thread[where]
        apart = (other != _NOBODY) & (other != who.thread)
        if not apart.any():
            return
        in_block = earlier.block[where] == who.block
        ordered = in_block & (earlier.block_time[where] < who.block_time)
        ordered |= (earlier.warp[where] == who.warp) & (earlier.warp_time[where] < earlier.now(who))
        if strong:
            ordered |= earlier.atomic[where]
        apart &= ~ordered
        if not apart.any():
            return
        if same is not None:
            apart &= ~np.repeat(same(), grains)
        for i in np.flatnonzero(apart):
            if not in_block[i] and self.chained(earlier, int(where[i]), int(who.block[i])):
                continue
            thread, block = int(other[i]), int(earlier.block[where[i]])
            by = (
                "several threads"
                if thread < 0
                else f"thread {thread % self._threads}" + ("" if in_block[i] else f" of block {block}")
            )
            reason = f"races for {self.name} memory {verb} {by}, with nothing between, in"
            raise Race(reason, int(who.lanes[i]), int(earlier.at[where[i]]))

    def log(self, m: Any, who: _Who, where: Any, at: int) -> None:
        """Take note of an atomic."""

    def chained(self, earlier: _Accesses, where: int, block: int) -> bool:
        """Whether a chain of atomics orders an access of another block and what `block` does now."""
        return False


class GlobalWatch(Watch):
    """The tensors of a launch, seen by all its blocks."""

    def __init__(self, memory: Global, grain: int, threads: int) -> None:
        sizes = [-(-(end - begin // 16 * 16) // grain) for begin, end in memory.spans]
        super().__init__(sum(sizes), grain, "global", threads)
        self._base = memory.base
        self._begins = np.array([begin // 16 * 16 for begin, _ in memory.spans], np.int64)
        self._offsets = np.cumsum([0, *sizes])[:-1]
        self._atomics: list[tuple[Any, ...]] = []
        self._fences: list[tuple[int, Any, Any]] = []

    def place(self, index: Any) -> Any:
        """The grain of a byte."""
        address = index + self._base
        span = np.searchsorted(self._begins, address, side="right") - 1
        return self._offsets[span] + (address - self._begins[span]) // self.grain

    def log(self, m: Any, who: _Who, where: Any, at: int) -> None:
        modifiers = m.program.instructions[at].modifiers
        orders = any(modifier in ("acq_rel", "release", "acquire") for modifier in modifiers)
        ranks = np.argsort(m.atomic_order) if len(m.atomic_order) == len(who.lanes) else np.arange(len(who.lanes))
        self._atomics.append((self._step, where, who.block, who.thread, who.block_time, ranks, orders))

    def fenced(self, m: Any, mask: Any) -> None:
        who = _Who(m, None if mask is None else np.flatnonzero(mask), 1)
        self._fences.append((self._step, who.block, who.thread))

    def chained(self, earlier: _Accesses, where: int, block: int) -> bool:
        other, thread = int(earlier.block[where]), int(earlier.thread[where])
        since, time = int(earlier.step[where]), int(earlier.block_time[where])
        if other == _SEVERAL:
            return any(step > since and (blocks == block).any() for step, _, blocks, *_ in self._atomics)
        released: dict[int, tuple[int, int]] = {}  # place: when the other block's atomic was there
        for step, places, blocks, threads, times, ranks, orders in self._atomics:
            if step <= since:
                continue
            theirs = (blocks == other) & ((threads == thread) | (times > time))
            if theirs.any() and (orders or self._fence_between(since, step, other)):
                for place, rank in zip(places[theirs].tolist(), ranks[theirs].tolist(), strict=True):
                    released.setdefault(place, (step, rank))
            mine = blocks == block
            for place, rank in zip(places[mine].tolist(), ranks[mine].tolist(), strict=True):
                if place in released and released[place] < (step, rank):
                    return True
        return False

    def _fence_between(self, begin: int, end: int, block: int) -> bool:
        return any(begin <= step <= end and (blocks == block).any() for step, blocks, _ in self._fences)


def watch_shared(memory: Banked, grain: int, threads: int) -> Watch:
    """A watch on the shared memory of some blocks."""
    return Watch(memory.bytes // grain + 1, grain, "shared", threads)
