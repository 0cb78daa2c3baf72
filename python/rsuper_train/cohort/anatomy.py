# SPDX-License-Identifier: Apache-2.0
"""The real CT behind the demo: loading, axis order, organ names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

ORGAN_LABELS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5}
"""Label ids of the organs the reports speak about (TotalSegmentator numbering)."""

CT_FILE = "example_ct_sm.nii.gz"
LABEL_FILE = "example_seg.nii.gz"


@dataclass(frozen=True)
class Anatomy:
    """A CT and its organ labels, both (D, H, W): slices run to the head, rows to anterior, columns to patient right."""

    ct: np.ndarray  # float32, HU
    labels: np.ndarray  # uint8
    spacing: tuple[float, float, float]  # mm, (D, H, W)


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


def load_anatomy(folder: Path | None = None) -> Anatomy:
    """Read the CT slab and its organ labels and bring both to (D, H, W) order, whatever their orientation on disk."""
    folder = folder or data_folder()
    ct = nib.as_closest_canonical(nib.load(folder / CT_FILE))
    labels = nib.as_closest_canonical(nib.load(folder / LABEL_FILE))
    if ct.shape != labels.shape or not np.allclose(ct.affine, labels.affine, atol=1e-3):
        raise ValueError(f"{folder}: the CT {ct.shape} and the labels {labels.shape} are not on the same voxel grid")
    x, y, z = ct.header.get_zooms()[:3]
    return Anatomy(
        ct=np.ascontiguousarray(ct.get_fdata(dtype=np.float32).transpose(2, 1, 0)),
        labels=np.ascontiguousarray(np.asarray(labels.dataobj).astype(np.uint8).transpose(2, 1, 0)),
        spacing=(float(z), float(y), float(x)),
    )
