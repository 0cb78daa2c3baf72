# SPDX-License-Identifier: Apache-2.0
"""What a user may choose about the endpoint and how it is asked."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

USUAL_KEY = "OPENAI_API_KEY"

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LlmSettings(BaseModel):
    """An endpoint, a model, and how to ask it.

    Args:
        base_url: of the endpoint, "http://localhost:8000/v1"; nothing is sent anywhere else.
        model: its name at the endpoint.
        api_key_env: the environment variable that holds the key. Unset, no key is sent (local servers need none),
            unless the name is not the usual one: then it is missed.
        concurrency: requests in flight.
        timeout: seconds for one answer, from sending to its last byte.
        retries: how often a report is asked again after an invalid answer, and after a timeout.
        server_retries: how often a request is sent again after 429, 5xx, a lost connection or a reply that is none.
        backoff: seconds before the first of these; each next one waits twice as long, at most a minute, or as long as
            the server's Retry-After asks.
        max_tokens: of one answer; None leaves the parameter out.
        temperature: 0 for the likeliest answer; None leaves the parameter out, for models that refuse it.
        seed: for servers that take one.
        prices: money per million tokens of input and of output; the summary then has a cost.
        extra_body: further fields of each request ({"chat_template_kwargs": {"enable_thinking": False}}).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    model: Annotated[str, Field(min_length=1)]
    api_key_env: Annotated[str, Field(min_length=1)] = USUAL_KEY
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 16
    timeout: Seconds = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    server_retries: Annotated[int, Field(ge=0, le=20)] = 6
    backoff: Seconds = 1.0
    max_tokens: Annotated[int, Field(ge=1)] | None = 4096
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    seed: int | None = None
    prices: tuple[Price, Price] | None = None
    extra_body: dict[str, Any] = {}

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError('expected an address such as "http://localhost:8000/v1"')
        if "@" in parts.netloc:
            raise ValueError("expected an address without a user name or password; a key belongs into the environment")
        if not parts.hostname.isascii() or parts.port == 0:
            raise ValueError("expected a host name in ASCII, and a port from 1 to 65535")
        return url

    def api_key(self) -> str:
        """The key, or a word in its place that local servers ignore.

        Raises:
            ValueError: a variable was named, and is not set; or it holds no key.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and self.api_key_env != USUAL_KEY:
            raise ValueError(f"the environment variable {self.api_key_env}, which should hold the key, is not set")
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"the environment variable {self.api_key_env} holds characters that no key has")
        return key or "none"
