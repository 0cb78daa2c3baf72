# SPDX-License-Identifier: Apache-2.0
"""Checks a table of reports: by itself, against its texts, and against a folder of CTs and masks."""

from rsuper_train.reports.check.problems import Problem
from rsuper_train.reports.check.run import run_check

__all__ = ["Problem", "run_check"]
