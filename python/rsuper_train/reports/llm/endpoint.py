# SPDX-License-Identifier: Apache-2.0
"""One endpoint: sends a conversation, waits out what passes by itself, and tells apart what does not."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import re
import time
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rsuper_train.reports.llm.prompt import Message
from rsuper_train.reports.llm.settings import LlmSettings

LONGEST_WAIT = 60.0
LONGEST_RETRY_AFTER = 600.0

_FORMATS = ("json_schema", "json_object", "plain")
_HARMLESS = re.compile(r"[\w.\[\]-]{1,64}")

log = logging.getLogger(__name__)


class EndpointError(ConnectionError):
    """The endpoint cannot be used as things are; the message says what to do. No report is to blame."""


class Unanswered(Exception):
    """A report has no answer, for a reason that may be gone another time; the text is free of the report's words."""

    def __init__(self, reason: str, *, no_connection: bool = False) -> None:
        super().__init__(reason)
        self.no_connection = no_connection


class Usage(BaseModel):
    """What a run has cost.

    Args:
        requests: sent, among them those that failed.
        input_tokens: as the endpoint counts them; 0 where it does not.
        output_tokens: likewise.
        cost: by the prices in the settings; None without prices.
        answered: reports read in this run.
        reused: reports taken from the journal or from an equal text.
        flagged: reports with a flag, wherever they came from.
        unanswered: reports flagged for want of an answer, which a later run asks about again.
        answer_format: how answers were asked for: "json_schema", "json_object" or "plain".
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    answered: int = 0
    reused: int = 0
    flagged: int = 0
    unanswered: int = 0
    answer_format: str = _FORMATS[0]

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", cost {self.cost:.2f}"
        return (
            f"{self.answered:,} reports read, {self.reused:,} reused, {self.unanswered:,} without an answer,"
            f" {self.flagged:,} flagged; {self.requests:,} requests, {self.input_tokens:,} tokens in,"
            f" {self.output_tokens:,} out{cost}"
        )


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Reply(BaseModel):
    """What of a chat completion is used."""

    model_config = ConfigDict(frozen=True)

    choices: list[_Choice]
    usage: _Tokens | None = None

    @property
    def content(self) -> str:
        return self.choices[0].message.content or ""

    @property
    def stopped(self) -> str | None:
        """Why there is no whole answer, and will be none by asking again; None where there may be one."""
        choice = self.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            return "the model refused"
        if choice.finish_reason == "length":
            return "the answer was cut off at the largest number of tokens"
        return None


class Endpoint:
    """A client of `settings.base_url` and of nothing else: no redirects, no proxies from the environment.

    Attributes:
        has_replied: to any request so far, which settles the format of answers too.

    Raises:
        ModuleNotFoundError: the package `openai` is missing.
        ValueError: the named key is not in the environment.
    """

    def __init__(self, settings: LlmSettings, schema: dict[str, Any], usage: Usage) -> None:
        try:
            import openai
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "No module named 'openai', which talks to language models: pip install 'rsuper-kernels[llm]'"
            ) from None
        self._openai = openai
        # at DEBUG, older releases of the client log whole requests, reports and all
        logging.getLogger("openai").setLevel(max(logging.INFO, logging.getLogger("openai").getEffectiveLevel()))
        self._settings = settings
        self._schema = schema
        self._usage = usage
        self.has_replied = False
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(  # httpx or httpx2, as the release of openai has it
            max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
        )
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key(),
            max_retries=0,
            timeout=settings.timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, trust_env=False, timeout=settings.timeout, limits=limits
            ),
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, messages: list[Message]) -> Reply:
        """The reply to a conversation.

        Raises:
            Unanswered: not for this request, or not now; asking again later may help.
            EndpointError: not for any request.
        """
        failures = timeouts = 0
        while True:
            retry_after = 0.0
            try:
                return await self._ask_in_some_format(messages)
            except (asyncio.TimeoutError, self._openai.APITimeoutError):
                timeouts += 1
                if timeouts > self._settings.retries:
                    raise Unanswered(f"none within {self._settings.timeout:g} s") from None
            except self._openai.APIStatusError as error:
                failures += 1
                code = error.status_code
                self._stop_if_hopeless(error)
                if code not in (408, 409, 429) and code < 500:
                    raise Unanswered(f"the endpoint refused the request: {_describe(error)}") from None
                if failures > self._settings.server_retries:
                    raise Unanswered(f"the endpoint failed: {_describe(error)}") from None
                retry_after = _retry_after(error.response.headers.get("retry-after", ""))
            except self._openai.APIConnectionError:
                failures += 1
                if failures > self._settings.server_retries:
                    raise Unanswered("no connection", no_connection=True) from None
            except (ValidationError, IndexError, self._openai.OpenAIError, UnicodeDecodeError):
                failures += 1
                if failures > self._settings.server_retries:
                    raise Unanswered("the endpoint replied something that is no chat completion") from None
            await asyncio.sleep(self._pause(failures + timeouts, retry_after))

    def _pause(self, failures: int, retry_after: float) -> float:
        """Seconds to wait: exponential, spread so that requests which failed together do not return together."""
        wait = min(LONGEST_WAIT, self._settings.backoff * 2.0 ** (failures - 1))
        return retry_after + wait * random.uniform(0.5, 1.0)

    async def _ask_in_some_format(self, messages: list[Message]) -> Reply:
        """Ask for the strictest format that the endpoint takes; that of the first reply holds for the whole run."""
        for name in _FORMATS[_FORMATS.index(self._usage.answer_format) :]:
            try:
                reply = await asyncio.wait_for(self._send(messages, name), self._settings.timeout)
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError):
                if self.has_replied or name == _FORMATS[-1]:
                    raise
                continue
            self._settle(name)
            return reply
        raise AssertionError("the last format returns or raises")

    def _settle(self, name: str) -> None:
        if self.has_replied:
            return
        self.has_replied = True
        self._usage.answer_format = name
        if name != _FORMATS[0]:
            log.warning("the endpoint refuses structured output by JSON schema; answers are asked for as %s", name)

    async def _send(self, messages: list[Message], format_name: str) -> Reply:
        self._usage.requests += 1
        settings = self._settings
        options: dict[str, Any] = {
            name: getattr(settings, name)
            for name in ("temperature", "max_tokens", "seed")
            if getattr(settings, name) is not None
        }
        if format_name != "plain":
            options["response_format"] = self._response_format(format_name)
        # the client's own parsing hands through what is no completion
        raw = await self._client.chat.completions.with_raw_response.create(
            model=settings.model,
            messages=messages,  # type: ignore[arg-type]
            extra_body=settings.extra_body or None,
            **options,
        )
        reply = Reply.model_validate_json(raw.content)
        reply.choices[0]
        self._count(reply)
        return reply

    def _response_format(self, name: str) -> dict[str, Any]:
        if name == "json_object":
            return {"type": name}
        return {"type": name, "json_schema": {"name": "report", "strict": True, "schema": self._schema}}

    def _count(self, reply: Reply) -> None:
        tokens = reply.usage or _Tokens()
        self._usage.input_tokens += tokens.prompt_tokens
        self._usage.output_tokens += tokens.completion_tokens
        if self._settings.prices:
            price_in, price_out = self._settings.prices
            cost = (tokens.prompt_tokens * price_in + tokens.completion_tokens * price_out) / 1e6
            self._usage.cost = (self._usage.cost or 0.0) + cost

    def _stop_if_hopeless(self, error: Any) -> None:
        """Raise what no retry, and no other report, would change."""
        settings, code = self._settings, error.status_code
        if code in (401, 403):
            raise EndpointError(
                f"{settings.base_url} refuses the key (HTTP {code}): put a valid one into the environment variable"
                f" {settings.api_key_env}, or name another variable"
            ) from None
        if code == 404:
            raise EndpointError(
                f"{settings.base_url} knows no model {settings.model!r}, or is not the address of an API (HTTP 404):"
                f" its models are listed at {settings.base_url.rstrip('/')}/models; the address usually ends in /v1"
            ) from None
        if 300 <= code < 400:
            raise EndpointError(
                f"{settings.base_url} redirects to another address (HTTP {code}), where reports are not sent: give the"
                " address of the endpoint itself"
            ) from None


def _describe(error: Any) -> str:
    """Status and error codes; the server's sentences may quote the report."""
    body = error.body if isinstance(error.body, dict) else {}
    words = [str(body[key]) for key in ("code", "type", "param") if body.get(key)]
    return " ".join([f"HTTP {error.status_code}", *(word for word in words if _HARMLESS.fullmatch(word))])


def _retry_after(value: str) -> float:
    """Seconds in a Retry-After header, a number or a date; 0 for none."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if seconds == seconds else 0.0
