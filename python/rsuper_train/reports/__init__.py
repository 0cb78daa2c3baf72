# SPDX-License-Identifier: Apache-2.0
"""Reports: written from records, read back into records, and turned into Findings."""

from rsuper_train.reports.record_findings import to_findings
from rsuper_train.reports.records import Record
from rsuper_train.reports.rules import read_report
from rsuper_train.reports.sentences import write_report

__all__ = ["Record", "read_report", "to_findings", "write_report"]
