# SPDX-License-Identifier: Apache-2.0
"""Reports read by a language model behind an OpenAI-compatible endpoint: bounded, resumable, to that endpoint only."""

from rsuper_train.reports.llm.endpoint import EndpointError, Usage
from rsuper_train.reports.llm.extractor import LlmExtractor
from rsuper_train.reports.llm.settings import LlmSettings

__all__ = ["EndpointError", "LlmExtractor", "LlmSettings", "Usage"]
