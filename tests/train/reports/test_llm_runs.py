# SPDX-License-Identifier: Apache-2.0
"""Many reports against a scripted server: the bound, the journal, killed runs."""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("openai")

from rsuper_train.reports.llm.journal import Journal
from rsuper_train.reports.progress import report_progress
from rsuper_train.reports.schema import Report, hash_text
from tests.train.reports.llm_cases import TEXT, extractor, good, texts
from tests.train.reports.llm_server import Request, Response, running

# many reports


def test_the_bound_is_kept_and_sustained(tmp_path):
    chance = random.Random(0)

    def uneven(request: Request) -> Response:
        response = good(request)
        response.delay = 1.5 if chance.random() < 0.05 else chance.uniform(0.1, 0.4)
        return response

    with running(uneven) as server:
        reader = extractor(server, concurrency=16)
        reports = asyncio.run(reader.extract_all(texts(240), tmp_path / "journal"))
    assert [report.id for report in reports] == [f"case {i}" for i in range(240)]
    assert server.peak == 16
    assert server.mean_load(16) >= 0.9 * 16


def test_documents_are_drawn_as_they_are_needed(tmp_path):
    drawn = 0
    ahead = []

    def documents():
        nonlocal drawn
        for document in texts(200):
            drawn += 1
            yield document

    with running(good) as server:
        reader = extractor(server, concurrency=4)
        done: list[Report] = []

        def on_done(report: Report) -> None:
            done.append(report)
            ahead.append(drawn - len(done))

        asyncio.run(reader.extract_all(documents(), tmp_path / "journal", on_done))
    assert len(done) == 200
    assert max(ahead) <= 2 * 4 + 1


def test_equal_texts_are_asked_about_once_and_the_journal_is_reused(tmp_path):
    documents = [("a", TEXT), ("b", TEXT), ("c", "Other. " + TEXT), ("d", TEXT), ("e", "")]
    with running(good) as server:
        reader = extractor(server)
        first = asyncio.run(reader.extract_all(documents, tmp_path / "journal"))
        assert len(server.requests) == 2
        again = asyncio.run(reader.extract_all(documents, tmp_path / "journal"))
        assert len(server.requests) == 2
        assert reader.usage.reused == 5
        asyncio.run(extractor(server, model="n").extract_all(documents, tmp_path / "journal"))
        assert len(server.requests) == 4
    assert again == first
    assert [report.id for report in first] == ["a", "b", "c", "d", "e"]
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600
    kept = (tmp_path / "journal").read_text()
    assert "hypodense" not in kept
    assert '"case' not in kept


def test_more_effort_asks_again_about_failures_alone(tmp_path):
    def cut_off(request: Request) -> Response:
        cut = "long" in request.text and request.body["max_tokens"] < 1000
        return Response("", finish_reason="length") if cut else good(request)

    documents = [("a", TEXT), ("b", "long " + TEXT)]
    with running(cut_off) as server:
        for tokens, requests, flags in [(100, 2, 1), (100, 2, 1), (2000, 3, 0), (100, 3, 0)]:
            reports = asyncio.run(extractor(server, max_tokens=tokens).extract_all(documents, tmp_path / "journal"))
            assert (len(server.requests), sum(bool(report.flags) for report in reports)) == (requests, flags)


def test_reports_without_an_answer_are_not_in_the_journal(tmp_path):
    down = True
    with running(lambda request: Response(status=500) if down else good(request)) as server:
        reader = extractor(server, server_retries=0)
        assert asyncio.run(reader.extract_all([("a", TEXT)], tmp_path / "journal"))[0].flags
        down = False
        assert not asyncio.run(reader.extract_all([("a", TEXT)], tmp_path / "journal"))[0].flags


def test_progress_counts_reports_and_flags():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with report_progress(2, console) as on_done:
        on_done(Report(id="a"))
        on_done(Report(id="b", flags=("no text",)))
    assert re.search("2/2.* reports/s.*1 flagged", console.file.getvalue())


# the journal


def stored(path: Path, *names: str) -> None:
    with Journal(path) as journal:
        for name in names:
            journal.store(hash_text(name) * 2, Report(id=name, flags=(name,)))


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_line_is_cut_off(tmp_path, cut):
    path = tmp_path / "journal"
    stored(path, "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path) as journal:
        assert journal.find(hash_text("a") * 2, "x", "") is not None
        assert journal.find(hash_text("b") * 2, "x", "") is None
    stored(path, "b")
    assert path.read_bytes() == whole


def test_a_torn_header_is_written_again(tmp_path):
    stored(tmp_path / "whole")
    (tmp_path / "torn").write_bytes((tmp_path / "whole").read_bytes()[:9])
    stored(tmp_path / "torn")
    assert (tmp_path / "torn").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("content", [b"id,report\n1,liver\n", b"no newline", b"\x00" * 100])
def test_other_files_are_left_alone(tmp_path, content):
    path = tmp_path / "reports.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a journal"):
        Journal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"garbage\n", b"{}\n", b"[]\n", b'{"key": "zz", "report": {"tumours": []}}\n'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "journal"
    stored(path, "a")
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ValueError, match="line 3 is damaged"):
        Journal(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_runs_do_not_share_a_journal(tmp_path):
    with Journal(tmp_path / "journal"), pytest.raises(ValueError, match="another run"):
        Journal(tmp_path / "journal")


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    stored(path, "a")
    whole = path.read_bytes()
    with Journal(path) as journal:
        monkeypatch.setattr(os, "write", lambda file, line, write=os.write: write(file, line[:10]))
        with pytest.raises(OSError, match="disk is full"):
            journal.store("00", Report(id="b"))
    assert path.read_bytes() == whole


RUN = """
import asyncio, signal, sys
from pathlib import Path
from rsuper_train.reports.llm import LlmExtractor, LlmSettings
from rsuper_train.reports.vocabulary import load_vocabulary
from tests.train.reports.llm_cases import texts

# some shells let what they start in the background ignore it, tests and this process included
signal.signal(signal.SIGINT, signal.default_int_handler)
settings = LlmSettings(base_url=sys.argv[1], model="m", concurrency=16)
asyncio.run(LlmExtractor(settings, load_vocabulary()).extract_all(texts(300), Path(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, blow):
    chance = random.Random(1)

    def uneven(request: Request) -> Response:
        response = good(request)
        response.delay = chance.uniform(0.01, 0.06)
        return response

    journal = tmp_path / "journal"
    with running(uneven) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, server.url, str(journal)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while len(server.finished) < 120 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(blow)
        assert process.wait(10) != 0
        before = [re.search(rb'"key": "(\w+)"', line) for line in journal.read_bytes().split(b"\n")[1:-1]]
        asked = len(server.requests)
        assert 80 < len(before) < 300

        reader = extractor(server, concurrency=16)
        reports = asyncio.run(reader.extract_all(texts(300), journal))

    assert [len(report.tumours) for report in reports] == [1] * 300
    assert reader.usage.reused == len(before), "no finished report is lost"
    assert len(server.requests) - asked == 300 - len(before), "and none is asked about again"
    repeated = Counter(request.text for request in server.requests)
    assert set(repeated) == {text for _, text in texts(300)}
    assert max(repeated.values()) <= 2
    assert sum(count == 2 for count in repeated.values()) <= 16, "only what was in flight"
    keys = re.findall(rb'"key": "(\w+)"', journal.read_bytes())
    assert len(keys) == len(set(keys)) == 300
