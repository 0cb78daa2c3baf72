# SPDX-License-Identifier: Apache-2.0
"""Cases on real anatomy: deformed copies of one CT with implanted lesions, and a report for each."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from rsuper_train.cohort.case import Anatomy, Case, Truth
from rsuper_train.cohort.lesions import LesionOptions, Organ, add_lesions, smooth_field
from rsuper_train.layout import CaseFiles
from rsuper_train.read import Options, read_case
from rsuper_train.reports.generator import PLACES
from rsuper_train.reports.masks import load_label_set

CT_FILE = "example_ct_sm.nii.gz"
LABEL_FILE = "example_seg.nii.gz"
LABEL_SET = "totalsegmentator"
ORGAN_LABELS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5}
"""Label ids of the organs the reports speak about."""
FIELD_OF_VIEW = (24, 98, 118)
"""Voxels of a case, (D, H, W); each case is a random window of this size."""
SHARES = {"liver": 0.5, "spleen": 0.2, "right kidney": 0.15, "left kidney": 0.15}
ORGANS = tuple(Organ(place, SHARES[str(place)], {ORGAN_LABELS[str(place)]: ""}) for place in PLACES)
LESIONS = LesionOptions(diameters=(18.0, 36.0), attenuation=(1.0, 0.0, 0.0), contrast=(55.0, 55.0))


def data_folder() -> Path:
    """Folder of the embedded CT: RSUPER_DATA if set, else `examples/data` of this clone or of the working directory."""
    if chosen := os.environ.get("RSUPER_DATA"):
        candidates = [Path(chosen)]
    else:
        candidates = [root / "examples" / "data" for root in (*Path(__file__).resolve().parents, Path.cwd())]
    for folder in candidates:
        if (folder / CT_FILE).is_file() and (folder / LABEL_FILE).is_file():
            return folder
    looked = candidates[0] if chosen else "examples/data in this clone and in the working directory"
    raise FileNotFoundError(
        f"The demo's CT was not found (looked for {CT_FILE} and {LABEL_FILE} in {looked}). "
        "Run the demo inside a clone of the repository, or set RSUPER_DATA to the folder that holds the two files."
    )


@cache
def load_anatomy(folder: Path) -> Anatomy:
    """The CT slab and its organ labels."""
    files = CaseFiles(folder.name, folder, ct=folder / CT_FILE, label_map=folder / LABEL_FILE)
    read = read_case(files, Options(load_label_set(LABEL_SET), spacing=None, clip=(-1024, 3071)))
    return Anatomy(read.ct.astype(np.float32), read.labels, read.record.spacing)


def make_case(
    anatomy: Anatomy, rng: np.random.Generator, case_id: str, lesions: LesionOptions = LESIONS
) -> tuple[Case, Truth]:
    """Deform, crop and noise the anatomy, implant lesions and write the report."""
    copy = _deform(anatomy, rng)
    copy.ct[:] += rng.normal(0.0, 6.0, copy.ct.shape).astype(np.float32) + np.float32(rng.normal(0.0, 3.0))
    return add_lesions(copy, ORGANS, lesions, rng, case_id)


def _deform(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """A randomly cropped, rotated, scaled and elastically bent copy: CT (linear) and labels (nearest)."""
    slab, window = np.array(anatomy.ct.shape), np.array(FIELD_OF_VIEW)
    start = rng.uniform(0.0, slab - window)
    centre = (slab - 1) / 2.0
    grid = np.indices(FIELD_OF_VIEW) + (start - centre)[:, None, None, None]

    angle = np.deg2rad(rng.uniform(-7.0, 7.0))
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    scale = np.array([1.0, *rng.uniform(0.93, 1.07, 2)])
    grid = np.einsum("ij,jdhw->idhw", rotation * scale, grid) + centre[:, None, None, None]

    for axis, amplitude in enumerate((0.5, 1.5, 1.5)):  # voxels
        grid[axis] += amplitude * smooth_field(FIELD_OF_VIEW, (16.0, 16.0, 16.0), rng)
    ct = ndimage.map_coordinates(anatomy.ct, grid, order=1, mode="nearest", output=np.float32)
    labels = ndimage.map_coordinates(anatomy.labels, grid, order=0, mode="nearest", output=np.uint8)
    return Anatomy(ct, labels, anatomy.spacing)
