# SPDX-License-Identifier: Apache-2.0
"""A chat endpoint on 127.0.0.1 that answers as a script says: well, badly, late, with errors, or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Script = Callable[["Request"], "Response | Awaitable[Response]"]


@dataclass
class Request:
    """What the server has received.

    Args:
        text: the report, as it stands between the marks.
        attempt: how often this report was asked about before.
    """

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    text: str
    attempt: int

    @property
    def last(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass
class Response:
    """What it sends: a chat completion around `content`, or `raw` as it is; `drop` closes the connection instead."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    drop: bool = False
    finish_reason: str = "stop"
    refusal: str | None = None

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"error": {"message": "as the script says", "code": "scripted"}}).encode()
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        completion = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return json.dumps({**completion, "usage": usage}).encode()


class Server:
    """What happened so far.

    Attributes:
        url: base_url for clients.
        requests: in the order of arrival.
        finished: texts of reports whose response was sent whole.
        load: (time, requests in flight) at each change.
    """

    def __init__(self, script: Script) -> None:
        self.url = ""
        self.loop: asyncio.AbstractEventLoop
        self.requests: list[Request] = []
        self.finished: list[str] = []
        self.load: list[tuple[float, int]] = []
        self._script = script
        self._asked: dict[str, int] = {}
        self._in_flight = 0

    @property
    def peak(self) -> int:
        return max(count for _, count in self.load)

    def mean_load(self, bound: int) -> float:
        """Requests in flight, averaged from the first to the last moment at which there were `bound`."""
        full = [i for i, (_, count) in enumerate(self.load) if count == bound]
        load = self.load[full[0] : full[-1] + 1]
        area = sum((after[0] - before[0]) * before[1] for before, after in pairwise(load))
        return area / (load[-1][0] - load[0][0])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await self._receive(reader)
        if request is None:
            return False
        self._change(1)
        try:
            response = self._script(request)
            if not isinstance(response, Response):
                response = await response
            await asyncio.sleep(response.delay)
        finally:
            self._change(-1)
        if response.drop:
            return False
        body = response.bytes()
        headers = {"Content-Type": "application/json", **response.headers, "Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {response.status} Scripted\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        if response.status == 200:
            self.finished.append(request.text)
        return True

    async def _receive(self, reader: asyncio.StreamReader) -> Request | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        text = report_of(body)
        attempt = self._asked.get(text, 0)
        self._asked[text] = attempt + 1
        request = Request(head[0].split()[1], headers, body, text, attempt)
        self.requests.append(request)
        return request

    def _change(self, step: int) -> None:
        self._in_flight += step
        self.load.append((time.monotonic(), self._in_flight))


def report_of(body: dict[str, Any]) -> str:
    """The text between the marks of the first user message."""
    messages = body.get("messages", [])
    if len(messages) < 2:
        return ""
    lines = messages[1]["content"].split("\n")
    mark = lines[0].removeprefix("BEGIN REPORT ")
    assert lines[-1] == f"END REPORT {mark}"
    return "\n".join(lines[1:-1])


@contextmanager
def running(script: Script) -> Iterator[Server]:
    """The server in a thread of its own while the block runs."""
    server = Server(script)
    ready = threading.Event()
    stopped = asyncio.Event()

    async def serve() -> None:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 24)
        server.loop = asyncio.get_running_loop()
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stopped.wait()
        listener.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
