# SPDX-License-Identifier: Apache-2.0
"""Reports: read into records, and turned into Findings."""

from rsuper_train.reports.findings import to_findings
from rsuper_train.reports.records import Record
from rsuper_train.reports.rules import read_report

__all__ = ["Record", "read_report", "to_findings"]
