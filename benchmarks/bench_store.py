# SPDX-License-Identifier: Apache-2.0
"""Crops of 128^3 from an int16 volume of 512^3 on disk, from the page cache; raw voxels are the floor."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest

from benchmarks.store import corners, ct_like, formats


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return ct_like()


@pytest.mark.parametrize("each", list(formats())[:2], ids=lambda each: each.library)
@pytest.mark.benchmark(group="store: a crop of 128^3")
def test_crop(benchmark, each, volume, tmp_path) -> None:
    each.write(tmp_path / "volume", volume)
    stored, places = each.open(tmp_path / "volume"), cycle(corners())
    benchmark.pedantic(lambda: np.array(stored[next(places)]), rounds=32, warmup_rounds=2)
    benchmark.extra_info["share of the raw size"] = (tmp_path / "volume").stat().st_size / volume.nbytes
