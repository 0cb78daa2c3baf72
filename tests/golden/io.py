# SPDX-License-Identifier: Apache-2.0
"""Reader of golden vectors: one `<case>.npz` per case and a `manifest.json` per folder; numpy only.

Array names: `in_*` are inputs, `out*` are outputs. `X.bits` with `X.shape` is a binary array (`np.packbits`, C order).
float16 arrays hold exact values and are read as float32. A gradient `G` is stored as `G.shape`, the per-(b, c)
summaries `G.sum`, `G.sumsq`, `G.absmax`, `G.nonzero`, and either `G.full` (whole channels, listed in `G.bc`) or
`G.idx`/`G.val` (chosen flat indices).
"""

import json
import zipfile
from pathlib import Path

import numpy as np


class GoldenError(Exception):
    """A folder, manifest or vector that cannot be read; the message names the path and the reason."""


def read_manifest(folder: str | Path) -> dict:
    """Read `folder/manifest.json`; raises GoldenError when it is missing, is no JSON or has no list of cases."""
    folder = Path(folder)
    if not folder.is_dir():
        raise GoldenError(f"no such folder: {folder}")
    path = folder / "manifest.json"
    if not path.is_file():
        raise GoldenError(f"no manifest.json in {folder}: is this a folder of golden vectors?")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise GoldenError(f"{path} is not a readable JSON file: {error}") from error
    cases = manifest.get("cases") if isinstance(manifest, dict) else None
    if not isinstance(cases, list) or not all(
        isinstance(case, dict) and {"id", "file", "function"} <= set(case) for case in cases
    ):
        raise GoldenError(f"{path} has no list 'cases' of entries with id, file and function")
    return manifest


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read one vector as name -> array, bits unpacked to float32 and float16 widened.

    Raises:
        GoldenError: a missing or corrupt file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            raw = {name: stored[name] for name in stored.files if name != "meta_json"}
    except FileNotFoundError:
        raise GoldenError(f"no such file: {path}") from None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise GoldenError(f"{path} is corrupt or not an .npz file: {error}") from error
    arrays = {}
    for name, value in raw.items():
        if name.endswith(".bits"):
            shape = tuple(int(size) for size in raw[f"{name[:-5]}.shape"])
            arrays[name[:-5]] = np.unpackbits(value)[: int(np.prod(shape))].reshape(shape).astype(np.float32)
        elif not (name.endswith(".shape") and f"{name[:-6]}.bits" in raw):
            arrays[name] = value.astype(np.float32) if value.dtype == np.float16 else value
    return arrays


def gradient_error(
    arrays: dict[str, np.ndarray], name: str, gradient: np.ndarray, loose: np.ndarray | None = None
) -> float:
    """Worst relative difference of `gradient` (B, C, *S) to the stored summary `name`.

    Compared: the stored values and the channels that must be exactly zero, relative to the largest stored magnitude;
    the sum of each channel, relative to sqrt(voxels * sum of squares); the sum of squares, relative to the largest one.
    A NaN counts as infinite. Differences at `loose` voxels (bool, the shape of the gradient) count a hundredth.
    """
    gradient = np.asarray(gradient, np.float64)
    shape = tuple(arrays[f"{name}.shape"].tolist())
    if gradient.shape != shape:
        raise GoldenError(f"{name}: expected shape {shape}, got {gradient.shape}")
    if not np.isfinite(gradient).all():
        return float("inf")
    # an all-zero reference leaves 1e-30, so that any other value shows as a huge error
    largest = float(arrays[f"{name}.absmax"].max()) or 1e-30
    scale = np.full(shape, largest) if loose is None else np.where(loose, 100 * largest, largest)
    planes = gradient.reshape(*shape[:2], -1)
    sumsq = arrays[f"{name}.sumsq"]
    differences = [
        np.abs(planes[arrays[f"{name}.nonzero"] == 0]).max(initial=0.0) / largest,
        np.abs(planes.sum(-1) - arrays[f"{name}.sum"]).max() / (np.sqrt(sumsq.max() * planes.shape[-1]) or 1e-30),
        np.abs((planes**2).sum(-1) - sumsq).max() / (sumsq.max() or 1e-30),
    ]
    if f"{name}.full" in arrays:
        pairs = zip(arrays[f"{name}.bc"], arrays[f"{name}.full"], strict=True)
        differences += [(np.abs(gradient[b, c] - plane) / scale[b, c]).max() for (b, c), plane in pairs]
    else:
        index = arrays[f"{name}.idx"]
        differences.append(
            (np.abs(gradient.ravel()[index] - arrays[f"{name}.val"]) / scale.ravel()[index]).max(initial=0.0)
        )
    return float(max(differences))
