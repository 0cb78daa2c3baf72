# SPDX-License-Identifier: Apache-2.0
"""The embedded extractor: words, concepts, sentences, sizes, context and places of radiologists' English."""

from rsuper_train.reports.rules.extractor import RulesExtractor

__all__ = ["RulesExtractor"]
