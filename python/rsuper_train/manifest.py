# SPDX-License-Identifier: Apache-2.0
"""What `rsuper prepare` writes about its cases, and what everything after it reads.

    <prepared>/manifest.json
    <prepared>/cases/<case>/ct, labels, lesions (see `store`), case.json

`ct` is int16 in HU, clipped; `labels` holds the label set's ids; bit i of `lesions` is the manifest's i-th channel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsuper_train.axes import Box, Spacing, Voxels
from rsuper_train.files import write_text
from rsuper_train.reports.masks import LabelSet

VERSION = 1
MANIFEST = "manifest.json"
CASES = "cases"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Extent(_Model):
    """How much of a volume a label or a lesion channel covers.

    Args:
        voxels: their number.
        box: None where there are none.
        median: HU of its CT; None where there are none.
    """

    voxels: Annotated[int, Field(ge=0)]
    box: Box | None = None
    median: float | None = None


class Source(_Model):
    """The grid of the CT as it came, and its files, so that a change of them is noticed.

    Args:
        shape: voxels along the axes of the file.
        affine: from voxels of the file to mm (RAS+), by rows.
        files: name of the file within the case -> bytes and time of the last change (ns).
    """

    shape: Voxels
    affine: tuple[tuple[float, float, float, float], ...]
    files: dict[str, tuple[int, int]]


class CaseRecord(_Model):
    """One prepared case.

    Args:
        id: name of its folder.
        shape: voxels (D, H, W).
        spacing: mm (D, H, W).
        source: where it came from.
        labels: label id -> its extent; ids without a voxel are left out.
        lesions: channel -> extent of its mask; channels without a mask file are left out, an empty mask is not.
        notes: what was repaired or left out, for people.
        checksums: name of the array -> SHA-256 of its file.
    """

    id: str
    shape: Voxels
    spacing: Spacing
    source: Source
    labels: dict[int, Extent] = {}
    lesions: dict[str, Extent] = {}
    notes: tuple[str, ...] = ()
    checksums: dict[str, str] = {}


class Intensity(_Model):
    """Mean and standard deviation in HU of what is labelled and no lung or gas, for the network's input."""

    mean: float = 0.0
    sd: Annotated[float, Field(gt=0)] = 1.0


class Manifest(_Model):
    """A prepared dataset.

    Args:
        version: of this format.
        spacing: mm (D, H, W) that cases were resampled to; None: each keeps its own.
        clip: HU to which CTs were clipped.
        intensity: over all cases.
        label_set: class -> id in `labels`.
        label_set_name: see `reports.masks.load_label_set`.
        label_places: places that a user's label set names itself -> classes.
        channels: lesion channels, in the order of the bits of `lesions`.
        cases: by id.
        failed: case -> why it could not be prepared.
    """

    version: int = VERSION
    spacing: Spacing | None
    clip: tuple[int, int]
    intensity: Intensity
    label_set_name: str
    label_set: dict[str, int]
    label_places: dict[str, tuple[str, ...]] = {}
    channels: tuple[str, ...]
    cases: dict[str, CaseRecord]
    failed: dict[str, str] = {}

    @property
    def classes(self) -> LabelSet:
        """The label set, for the places of reports."""
        return LabelSet(self.label_set_name, self.label_set, self.label_places)

    def write(self, folder: Path) -> None:
        write_text(folder / MANIFEST, self.model_dump_json(indent=1))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared dataset.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: it is of another version, or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; make it with `rsuper prepare DATA {folder}`")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join([str(path), *map(str, first["loc"])])
        raise ValueError(f"{where}: {first['msg']}; prepare the data again") from None
    if manifest.version != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, got {manifest.version}; prepare the data again")
    return manifest
