# SPDX-License-Identifier: Apache-2.0
"""A report, answers to it, and extractors of a scripted server."""

from __future__ import annotations

import json
from typing import Any

from rsuper_train.reports.llm import LlmExtractor, LlmSettings
from rsuper_train.reports.schema import Report
from rsuper_train.reports.vocabulary import load_vocabulary
from tests.train.reports.llm_server import Request, Response, Script, Server, running

VOCABULARY = load_vocabulary()
NONE = json.dumps({"rows": [], "negatives": []})
TEXT = "LIVER: A hypodense lesion of 12 mm in segment 5. No renal mass."
SENTENCE = "A hypodense lesion of 12 mm in segment 5."


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "quote": SENTENCE,
        "organ": "liver",
        "laterality": "none",
        "subsegments": ["segment 5"],
        "diameters": [12],
        "unit": "mm",
        "attenuation": "hypo",
        "type": "lesion",
        "certainty": "certain",
        "count": 1,
    }
    return {**plain, **changes}


def answer(*rows: dict[str, Any], negatives: tuple[dict[str, Any], ...] = ()) -> str:
    return json.dumps({"rows": rows, "negatives": negatives})


def negative(organ: str, laterality: str = "none", *parts: str) -> dict[str, Any]:
    return {"organ": organ, "laterality": laterality, "subsegments": parts}


def texts(count: int) -> list[tuple[str, str]]:
    return [(f"case {i}", f"Report {i}. {TEXT}") for i in range(count)]


def extractor(server: Server, **changes: Any) -> LlmExtractor:
    options: dict[str, Any] = {"base_url": server.url, "model": "m", "backoff": 0.005, "timeout": 10, **changes}
    return LlmExtractor(LlmSettings(**options), VOCABULARY)


def extract(script: Script, text: str = TEXT, **changes: Any) -> tuple[Report, Server, LlmExtractor]:
    with running(script) as server:
        reader = extractor(server, **changes)
        return reader.extract("case 1", text), server, reader


def good(_: Request) -> Response:
    return Response(answer(row(), negatives=(negative("kidney"),)))


def then_good(*first: Response) -> Script:
    """These responses in turn, then good ones."""
    return lambda request: first[request.attempt] if request.attempt < len(first) else good(request)
