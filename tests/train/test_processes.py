# SPDX-License-Identifier: Apache-2.0
"""Work on cases in several processes: results, errors, and what is left when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsuper_train.processes import Failure, each_case, try_each_case


def work(text: str) -> str:
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "fail":
        raise OSError("no space left")
    if text == "odd":
        raise ValueError("an odd case")
    return text.upper()


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_results(workers):
    cases = {name: name * 2 for name in "abcd"}
    assert dict(each_case(work, cases, workers)) == {name: 2 * name.upper() for name in "abcd"}
    assert list(each_case(work, {}, workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_of_single_cases(workers):
    results = dict(try_each_case(work, {"a": "a", "b": "odd"}, workers))
    assert results == {"a": "A", "b": Failure("an odd case")}
    with pytest.raises(OSError, match="no space left"):
        list(try_each_case(work, {"a": "a", "b": "fail"}, workers))


@pytest.mark.parametrize(
    ("text", "error", "message"), [("fail", OSError, "no space left"), ("die", ValueError, "want of memory")]
)
def test_errors(text, error, message):
    with pytest.raises(error, match=message):
        list(each_case(work, {"a": "a", "b": text}, 2))


SCRIPT = """
import time
from rsuper_train.processes import each_case
if __name__ == "__main__":
    list(each_case(time.sleep, dict.fromkeys("abc", 60), 2))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_nothing_outlives_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], start_new_session=True)
    assert wait_for(lambda: members(parent.pid) >= 4)  # with the server that starts workers, and its tracker
    parent.kill()
    parent.wait()
    assert wait_for(lambda: members(parent.pid) == 0)


def members(session: int) -> int:
    """Processes of a session."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            count += int(path.read_text().rsplit(")", 1)[1].split()[3]) == session
        except OSError:  # it ended
            continue
    return count


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met
