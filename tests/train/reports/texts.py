# SPDX-License-Identifier: Apache-2.0
"""Invented reports and sentences in several styles, to be mutated and timed; they stand in texts.txt."""

from pathlib import Path

_reports, _sentences = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n%%\n")
REPORTS = tuple(_reports.split("\n%\n"))
SENTENCES = tuple(_sentences.splitlines())
