# SPDX-License-Identifier: Apache-2.0
"""Reports: what they say about tumours, read from text and turned into Findings."""
