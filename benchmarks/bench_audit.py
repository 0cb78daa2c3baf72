# SPDX-License-Identifier: Apache-2.0
"""Crops per minute that the audit scores when the network has run: read from disk, volume, ball and attenuation loss,
components and contrast. Crops of 96^3 voxels of 1 mm with a reported tumour each; see `extra_info`.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rsuper_train.audit import run_audit
from rsuper_train.audit_scores import score_site, view
from rsuper_train.audit_sites import Site
from rsuper_train.reports.schema import Report, Tumour
from tests.train.prepared import IDS, FakePredictor, PreparedCase, write_prepared

CASES = 40
EDGE = 66
"""Voxels of the region; its margin of 15 mm makes a crop of 96."""
SHAPE = (EDGE + 30,) * 3


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> list[Site]:
    folder = tmp_path_factory.mktemp("audit")
    rng = np.random.default_rng(0)
    cases, probabilities, reports = {}, {}, []
    for number in range(CASES):
        id, radius, centre = f"case {number}", rng.uniform(4, 14), rng.uniform(30, 66, 3)
        labels = np.zeros(SHAPE, np.uint8)
        labels[15:-15, 15:-15, 15:-15] = IDS["liver_segment_5"]
        cases[id] = PreparedCase(rng.normal(100, 15, SHAPE), labels)
        distance = np.sqrt(((np.indices(SHAPE) - centre[:, None, None, None]) ** 2).sum(0))
        noise = rng.normal(0, 1.5, SHAPE)
        probabilities[id] = (1 / (1 + np.exp(distance - radius - noise)))[None].astype(np.float32)
        tumour = Tumour(organ="liver", subsegments=("segment 5",), diameters=(2 * radius,), attenuation="hypo")
        reports.append(Report(id=id, tumours=(tumour,)))
    write_prepared(folder / "prepared", cases)
    predictor = FakePredictor(("liver_lesion",), probabilities)
    result = run_audit(folder / "prepared", reports, predictor, folder, Console(quiet=True))
    found = [score.site for case in result.ranked for score in case.sites]
    assert view(found[0]).ct.shape == SHAPE
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.benchmark(group="audit: scoring cached crops of 96^3")
def test_score(benchmark, sites: list[Site], workers: int) -> None:
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        score = partial(score_site, threshold=0.5)
        benchmark.pedantic(lambda: list(pool.map(score, sites)), rounds=5, warmup_rounds=1)
    benchmark.extra_info["crops per minute"] = 60 * len(sites) / benchmark.stats.stats.median
    benchmark.extra_info["MB per crop"] = sum(Path(site.crop).stat().st_size for site in sites) / len(sites) / 1e6
