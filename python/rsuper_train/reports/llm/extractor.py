# SPDX-License-Identifier: Apache-2.0
"""The extractor: many reports in flight, each finished one in the journal, in the order of the input at the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rsuper_train.reports.llm.answer import InvalidAnswer, parse_answer, to_report
from rsuper_train.reports.llm.endpoint import Endpoint, EndpointError, Unanswered, Usage
from rsuper_train.reports.llm.journal import Journal
from rsuper_train.reports.llm.prompt import Prompt
from rsuper_train.reports.llm.settings import LlmSettings
from rsuper_train.reports.schema import NO_ANSWER, NO_TEXT, Report, hash_text
from rsuper_train.reports.vocabulary import Vocabulary

OnDone = Callable[[Report], object]


class LlmExtractor:
    """Reads reports with a language model behind an OpenAI-compatible endpoint.

    No report is lost: one that the model does not read is flagged "no valid answer: ..." with the reason, and has no
    rows. One with a row whose quote or size is not in the text is flagged as such.

    Args:
        settings: endpoint, model, and how to ask.
        vocabulary: organs and parts that answers may name.

    Attributes:
        name: of the extractor in tables, "llm:<model>".
        usage: requests, tokens and cost of the last run, up to date while it goes on.
    """

    def __init__(self, settings: LlmSettings, vocabulary: Vocabulary) -> None:
        self.name = f"llm:{settings.model}"
        self.usage = Usage()
        self.settings = settings
        self._vocabulary = vocabulary
        self._prompt = Prompt(vocabulary)

    def extract(self, id: str, text: str) -> Report:
        """Read one report, without a journal. Not for use inside a running event loop.

        Raises:
            EndpointError: wrong key, unknown model, no such endpoint.
        """
        return asyncio.run(self._extract(id, text))

    async def extract_all(
        self, documents: Iterable[tuple[str, str]], journal: Path, on_done: OnDone | None = None
    ) -> list[Report]:
        """Read many reports, `concurrency` at a time, and continue where the journal ends.

        Args:
            documents: pairs of id and text, drawn as they are needed.
            journal: file of answers, made if it is not there. Those of the same text, model and prompt are reused;
                equal texts are asked about once. Reports that could not be asked about are not in it.
            on_done: called with each report as it is finished, in any order.

        Returns:
            One report per document, in the order of the documents.

        Raises:
            EndpointError: wrong key, unknown model, no such endpoint, or one that stopped answering. What was
                answered before is in the journal.
            ValueError: the journal is another file, damaged, or in use.
        """
        self.usage = Usage()
        with Journal(journal) as kept:
            async with Endpoint(self.settings, self._prompt.schema, self.usage) as endpoint:
                return await _Run(self, endpoint, kept, on_done).finish(documents)

    async def _extract(self, id: str, text: str) -> Report:
        self.usage = Usage()
        async with Endpoint(self.settings, self._prompt.schema, self.usage) as endpoint:
            try:
                return await self.read(endpoint, id, text)
            except Unanswered as error:
                _stop_without_connection(error, self.settings)
                return self.flagged(id, text, f"{NO_ANSWER}: {error}")

    async def read(self, endpoint: Endpoint, id: str, text: str) -> Report:
        """Ask about one report until the answer is valid, or the retries are used up.

        Raises:
            Unanswered, EndpointError: as `Endpoint.ask`.
        """
        if not text.strip():
            return self.flagged(id, text, NO_TEXT)
        messages = self._prompt.ask(text)
        reason = ""
        for _ in range(self.settings.retries + 1):
            reply = await endpoint.ask(messages)
            if reply.stopped:
                return self.flagged(id, text, f"{NO_ANSWER}: {reply.stopped}")
            try:
                answer = parse_answer(reply.content, self._vocabulary)
            except InvalidAnswer as error:
                reason = error.reason
                messages = self._prompt.ask_again(text, reply.content, str(error))
            else:
                return to_report(answer, id, text, self._vocabulary, self.name)
        return self.flagged(id, text, f"{NO_ANSWER}: {reason}")

    def flagged(self, id: str, text: str, flag: str) -> Report:
        return Report(id=id, flags=(flag,), extractor=self.name, text_hash=hash_text(text))

    def keys(self, text: str) -> tuple[str, str]:
        """Names in the journal of the answer to a report, and of the failure to get one.

        The first holds text, model, prompt and what else the answer depends on. The second has in addition what a user
        changes to get an answer after all, and then wants the report to be asked about again.
        """
        chosen = self.settings
        question = [chosen.model, self._prompt.hash, chosen.temperature, chosen.seed, chosen.extra_body]
        effort = [chosen.max_tokens, chosen.retries]
        return _digest([question, text]), _digest([question, effort, text])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()[:32]


class _Task(NamedTuple):
    keys: tuple[str, str]
    id: str
    text: str


class _Run:
    """One pass over the documents: a feeder, a queue, and `concurrency` workers that each take the next report as soon
    as they are free, so that a slow answer holds up nobody. Texts live from the feeder to the answer and no longer."""

    def __init__(self, extractor: LlmExtractor, endpoint: Endpoint, journal: Journal, on_done: OnDone | None) -> None:
        self._extractor = extractor
        self._endpoint = endpoint
        self._journal = journal
        self._on_done = on_done
        self._usage = extractor.usage
        self._settings = extractor.settings
        self._queue: asyncio.Queue[_Task | None] = asyncio.Queue(maxsize=self._settings.concurrency)
        self._reports: list[Report | None] = []
        # key of a report in the queue or in flight -> where it and its equals stand in the input, and their ids
        self._waiting: dict[str, list[tuple[int, str]]] = {}
        self._failures_in_a_row = 0

    async def finish(self, documents: Iterable[tuple[str, str]]) -> list[Report]:
        workers = [self._work() for _ in range(self._settings.concurrency)]
        tasks = [asyncio.ensure_future(job) for job in (self._feed(documents), *workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [report for report in self._reports if report is not None]

    async def _feed(self, documents: Iterable[tuple[str, str]]) -> None:
        for place, (id, text) in enumerate(documents):
            self._reports.append(None)
            keys = self._extractor.keys(text)
            known = self._journal.find(keys[0], id, text) or self._journal.find(keys[1], id, text)
            if known is not None:
                self._usage.reused += 1
                self._done(place, known)
                await asyncio.sleep(0)  # a long stretch of known reports must not starve the workers
            elif keys[0] in self._waiting:
                self._usage.reused += 1
                self._waiting[keys[0]].append((place, id))
            else:
                self._waiting[keys[0]] = [(place, id)]
                await self._queue.put(_Task(keys, id, text))
        for _ in range(self._settings.concurrency):
            await self._queue.put(None)

    async def _work(self) -> None:
        while (task := await self._queue.get()) is not None:
            report = await self._read(task)
            for place, id in self._waiting.pop(task.keys[0]):
                self._done(place, report if id == report.id else report.model_copy(update={"id": id}))

    async def _read(self, task: _Task) -> Report:
        try:
            report = await self._extractor.read(self._endpoint, task.id, task.text)
        except Unanswered as error:
            self._usage.unanswered += 1
            self._stop_if_dead(error)
            return self._extractor.flagged(task.id, task.text, f"{NO_ANSWER}: {error}")
        self._usage.answered += 1
        self._failures_in_a_row = 0
        failed = any(flag.startswith(NO_ANSWER) for flag in report.flags)
        self._journal.store(task.keys[failed], report)
        return report

    def _stop_if_dead(self, error: Unanswered) -> None:
        """Do not flag a hundred thousand reports because the server is down."""
        self._failures_in_a_row += 1
        if not self._endpoint.has_replied:
            _stop_without_connection(error, self._settings)
        if self._failures_in_a_row >= 2 * self._settings.concurrency:
            raise EndpointError(
                f"{self._settings.base_url} left {self._failures_in_a_row} reports in a row without an answer, the last"
                f" because: {error}. Start again when it works; what was answered is kept in the journal"
            )

    def _done(self, place: int, report: Report) -> None:
        self._reports[place] = report
        self._usage.flagged += bool(report.flags)
        if self._on_done is not None:
            self._on_done(report)


def _stop_without_connection(error: Unanswered, settings: LlmSettings) -> None:
    if error.no_connection:
        raise EndpointError(
            f"nothing answers at {settings.base_url}: is the server up, and this its address?"
        ) from None
