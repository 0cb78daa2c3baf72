# SPDX-License-Identifier: Apache-2.0
"""A user's folder of cases: which files there are.

    <case>/ct.nii.gz
    <case>/segmentations/<class>.nii.gz    one mask a class; the folder may be called predictions, too
    <case>/labels.nii.gz                   or one label map, which may be called segmentation.nii.gz
    <case>/lesions/<channel>.nii.gz        or, where the name ends in "lesion", among the masks of classes

A lesion mask without a voxel says that there is no tumour; without a mask nothing is known. `.nii` is as good.
And the predictions of its cases:

    <case>/<channel>.nii.gz                    mask
    <case>/probabilities/<channel>.nii.gz      in steps of 1/255
    <case>/prediction.json                     written last: a case without it is not finished
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".nii.gz", ".nii")
MASK_FOLDERS = ("segmentations", "predictions")
LABEL_MAPS = ("labels", "segmentation")
LESION_FOLDER = "lesions"
LESION = "lesion"
"""How names of lesion channels end; alone, the channel of all tumours, whatever their organ."""
PREDICTION = "prediction.json"
PROBABILITIES = "probabilities"


class CaseError(ValueError):
    """A case cannot be read; the message is one sentence that names the file."""


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Args:
        id: name of its folder.
        folder: of the case.
        ct: None where there is none.
        label_map: of all organs; None where there is none.
        organs: class -> its mask.
        lesions: lesion channel -> its mask.
    """

    id: str
    folder: Path
    ct: Path | None = None
    label_map: Path | None = None
    organs: dict[str, Path] = field(default_factory=dict)
    lesions: dict[str, Path] = field(default_factory=dict)

    def used(self) -> Iterator[Path]:
        """The files that make the case: single masks do not count beside a label map."""
        yield from filter(None, (self.ct, self.label_map))
        if self.label_map is None:
            yield from self.organs.values()
        yield from self.lesions.values()


def list_cases(folder: Path) -> dict[str, Path]:
    """Folders of the cases by name, hidden ones left out.

    Raises:
        ValueError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of cases, <case>/ct.nii.gz and <case>/segmentations/*.nii.gz")
    with os.scandir(folder) as entries:
        cases = {entry.name: Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] not in "._"}
    if not cases:
        raise ValueError(f"{folder}: no case in it; expected folders with ct.nii.gz and masks")
    return dict(sorted(cases.items()))


def find_cases(folder: Path) -> dict[str, CaseFiles]:
    """The cases of a folder with their files, by id in sorted order; see `list_cases` for what is refused."""
    return {name: case_files(path) for name, path in list_cases(folder).items()}


def case_files(folder: Path) -> CaseFiles:
    """The files in the folder of a case; `segmentations` comes before `predictions`, `.nii.gz` before `.nii`."""
    own = _volumes(folder)
    masks: dict[str, Path] = {}
    for name in reversed(MASK_FOLDERS):
        masks |= _volumes(folder / name)
    lesions = {name: path for name, path in masks.items() if name.endswith(LESION)} | _volumes(folder / LESION_FOLDER)
    return CaseFiles(
        id=folder.name,
        folder=folder,
        ct=own.get("ct"),
        label_map=next((own[name] for name in LABEL_MAPS if name in own), None),
        organs={name: path for name, path in masks.items() if name not in lesions},
        lesions=lesions,
    )


def _volumes(folder: Path) -> dict[str, Path]:
    """NIfTI files in a folder by their names without suffix, in sorted order; none where there is no folder."""
    found = {}
    for suffix in reversed(SUFFIXES):
        for path in sorted(folder.glob(f"*{suffix}")):
            if path.name[0] not in "._" and path.is_file():
                found[path.name.removesuffix(suffix)] = path
    return dict(sorted(found.items()))
