# SPDX-License-Identifier: Apache-2.0
"""Checks a table of reports: by itself, against its texts, and against a folder of CTs and masks."""
