# SPDX-License-Identifier: Apache-2.0
"""The breaks of mutations.py still fit the kernels, and README.md lists them."""

from tests.emulation import mutations


def test_every_text_is_there_once():
    assert mutations.gone() == []


def test_the_table_is_of_these_breaks():
    rows = mutations.PAGE.read_text().partition("<!-- mutations -->")[2].splitlines()[3:]
    names = [row.split("|")[1].strip() for row in rows if row.startswith("| ")]
    assert names == [mutation.name for mutation in mutations.MUTATIONS]
