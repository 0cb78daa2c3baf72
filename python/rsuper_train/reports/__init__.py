# SPDX-License-Identifier: Apache-2.0
"""Radiology reports: read from files, extracted into a table of tumours, and turned into Findings."""
