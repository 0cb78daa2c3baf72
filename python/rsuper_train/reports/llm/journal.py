# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: one line per report that is answered, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rsuper_train.reports.schema import Report, hash_text

if sys.platform != "win32":
    import fcntl

_HEADER = b'{"journal": "rsuper reports", "version": 1}\n'
_SYNC_INTERVAL = 1.0
_BLOCK = 1 << 20


class Journal:
    """An append-only file of JSON lines, {"key": ..., "report": ...}, readable by its owner alone.

    A line is written by one `write`, so a process killed at any moment leaves whole lines and at most one torn one at
    the end, which opening cuts off. What is written goes to the disk itself once a second. That matters only when the
    machine goes down, which then costs a second's answers; doing it for each line would hold up all requests in flight,
    by 190 microseconds on a fast local disk, against 11 for the line itself, and by more on others.

    The texts of reports are not in it, and so neither are the sentences and the ids: a report is stored with the
    offsets of its sentences, and `find` puts it together again from its text.

    Args:
        path: of a journal, or of a file that is not there yet.

    Raises:
        ValueError: the file is something else, or damaged; it is left as it is. Or another run is using it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            self._lock()
            self._places, self._end = self._scan()
            os.ftruncate(self._file, self._end)
            if not self._end:
                self._append(_HEADER)
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str, id: str, text: str) -> Report | None:
        """The report that was stored under the key, as one of this id and text; None where there is none."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        os.lseek(self._file, place[0], os.SEEK_SET)
        fields = json.loads(os.read(self._file, place[1]))["report"]
        for tumour in fields["tumours"]:
            tumour["sentence"] = text[tumour.get("start", 0) : tumour.get("end", 0)]
        return Report(**fields, id=id, text_hash=hash_text(text))

    def store(self, key: str, report: Report) -> None:
        """Add a line.

        Raises:
            OSError: the disk is full or gone; the journal keeps what it had.
        """
        fields = report.model_dump(
            mode="json", exclude={"id": True, "text_hash": True, "tumours": {"__all__": {"sentence"}}}
        )
        line = json.dumps({"key": key, "report": fields}, ensure_ascii=True).encode("ascii") + b"\n"
        start = self._end
        self._append(line)
        self._places[bytes.fromhex(key)] = (start, len(line))
        if time.monotonic() - self._synced >= _SYNC_INTERVAL:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def _append(self, line: bytes) -> None:
        os.lseek(self._file, self._end, os.SEEK_SET)
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, self._end)
            raise OSError(f"{self._path}: the disk is full; what was answered before is kept")
        self._end += len(line)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return  # two runs at once are the user's to avoid there
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{self._path}: another run is using this journal; wait for it or stop it") from None

    def _scan(self) -> tuple[dict[bytes, tuple[int, int]], int]:
        """Key -> (offset, length) of its line, and the end of the last whole line."""
        places: dict[bytes, tuple[int, int]] = {}
        with open(os.dup(self._file), "rb", buffering=_BLOCK) as lines:
            lines.seek(0)
            header = lines.readline()
            if not _HEADER.startswith(header):
                raise ValueError(f"{self._path}: this is not a journal of reports; give another name, or move it away")
            end = len(header) if header == _HEADER else 0
            for number, line in enumerate(lines, start=2):
                if not line.endswith(b"\n"):
                    break
                places[self._key(line, number)] = (end, len(line))
                end += len(line)
        return places, end

    def _key(self, line: bytes, number: int) -> bytes:
        try:
            entry: dict[str, Any] = json.loads(line)
            if isinstance(entry["report"]["tumours"], list):
                return bytes.fromhex(entry["key"])
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError(
            f"{self._path}: line {number} is damaged; delete it to have its report read again, or move the file away"
        )
