# SPDX-License-Identifier: Apache-2.0
"""Work on many cases in several processes, which end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from rsuper_train.files import first_line

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why a case could not be done, in one line."""

    message: str


def each_case(
    function: Callable[[Work], Result], cases: Mapping[str, Work], workers: int
) -> Iterator[tuple[str, Result]]:
    """Call a function of a module on each case in `workers` processes; yields (case, result) as they are done.

    Raises:
        ValueError: a process was killed, most often for want of memory.
        Exception: whatever the function raises; the cases that wait are given up.
    """
    if workers <= 1 or len(cases) < 2:
        yield from ((case, function(work)) for case, work in cases.items())
        return
    # a server that is forked before there are threads, and that imports once for all its children
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([function.__module__])
    pool = ProcessPoolExecutor(min(workers, len(cases)), mp_context=context, initializer=_end_with_parent)
    try:
        running = {pool.submit(function, work): case for case, work in cases.items()}
        for done in as_completed(running):
            yield running[done], done.result()
    except BrokenProcessPool:
        raise ValueError("a process was killed, most often for want of memory; try --workers 1") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def try_each_case(
    function: Callable[[Work], Result], cases: Mapping[str, Work], workers: int
) -> Iterator[tuple[str, Result | Failure]]:
    """As `each_case`; but a ValueError, such as a CaseError, or want of memory is a Failure of that case alone."""
    return each_case(update_wrapper(partial(_attempt, function), function), cases, workers)


def tell_failure(console: Console, case: str, why: str) -> None:
    """A line about a case that failed while others go on."""
    console.print(f"[red]failed:[/] {escape(f'{case}: {why}')}", highlight=False, soft_wrap=True)


def _attempt(function: Callable[[Work], Result], work: Work) -> Result | Failure:
    try:
        return function(work)
    except ValueError as error:
        return Failure(first_line(error))
    except MemoryError:
        return Failure("not enough memory; try fewer --workers")


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
