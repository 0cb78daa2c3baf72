# SPDX-License-Identifier: Apache-2.0
"""What the model is told: the guideline with the vocabulary's organs, and the report as marked data."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from rsuper_train.reports.llm.answer import answer_schema
from rsuper_train.reports.schema import hash_text
from rsuper_train.reports.vocabulary import Vocabulary

Message = dict[str, str]

LONGEST_ECHO = 20_000


class Prompt:
    """The conversation about a report.

    Attributes:
        schema: JSON schema of the answer.
        hash: changes with the prompt's words, the vocabulary's organs and the schema.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        template = resources.files(__package__).joinpath("prompt.md").read_text(encoding="utf-8")
        paired = [name for name, organ in vocabulary.organs.items() if organ.paired]
        environment = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
        self._system = environment.from_string(template).render(organs=vocabulary.organs, paired=paired)
        self.schema: dict[str, Any] = answer_schema(vocabulary)
        self.hash = hashlib.sha256((self._system + json.dumps(self.schema)).encode()).hexdigest()[:16]

    def ask(self, text: str) -> list[Message]:
        """The messages that ask about a report.

        The mark is a hash of the report, so that no report can contain its own end.
        """
        mark = hash_text(text)
        data = f"BEGIN REPORT {mark}\n{_sendable(text)}\nEND REPORT {mark}"
        return [{"role": "system", "content": self._system}, {"role": "user", "content": data}]

    def ask_again(self, text: str, answer: str, problem: str) -> list[Message]:
        """The same, with the last answer and what was wrong with it."""
        # some servers refuse a message without content
        echo = [{"role": "assistant", "content": answer[:LONGEST_ECHO]}] if answer.strip() else []
        order = f"This answer is not valid:\n{problem}\nGive the whole JSON object again, corrected."
        return [*self.ask(text), *echo, {"role": "user", "content": order}]


def _sendable(text: str) -> str:
    """`text` as UTF-8 can carry it, character for character: no lone surrogates, no NUL, which servers choke on."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
