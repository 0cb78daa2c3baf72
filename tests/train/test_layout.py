# SPDX-License-Identifier: Apache-2.0
"""A folder of cases: what is taken for what."""

from __future__ import annotations

import pytest

pytest.importorskip("nibabel")

from rsuper_train.layout import case_files, find_cases, list_cases


def touch(folder, *names: str):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_files_of_a_case(tmp_path):
    folder = touch(
        tmp_path / "a",
        "ct.nii.gz",
        "notes.txt",
        "segmentations/liver.nii.gz",
        "segmentations/liver_lesion.nii.gz",
        "segmentations/._liver.nii.gz",
        "segmentations/readme.md",
        "predictions/liver.nii.gz",
        "predictions/spleen.nii",
        "lesions/kidney_lesion.nii.gz",
        "lesions/tumour.nii.gz",
    )
    files = case_files(folder)
    assert (files.id, files.ct, files.label_map) == ("a", folder / "ct.nii.gz", None)
    assert files.organs == {
        "liver": folder / "segmentations/liver.nii.gz",
        "spleen": folder / "predictions/spleen.nii",
    }
    assert files.lesions == {
        "liver_lesion": folder / "segmentations/liver_lesion.nii.gz",
        "kidney_lesion": folder / "lesions/kidney_lesion.nii.gz",
        "tumour": folder / "lesions/tumour.nii.gz",
    }
    assert len(list(files.used())) == 6


@pytest.mark.parametrize(
    ("names", "ct", "label_map"),
    [
        ((), None, None),
        (("ct.nii", "labels.nii"), "ct.nii", "labels.nii"),
        (("ct.nii", "ct.nii.gz", "segmentation.nii.gz"), "ct.nii.gz", "segmentation.nii.gz"),
        (("segmentation.nii.gz", "labels.nii"), None, "labels.nii"),
    ],
)
def test_names(tmp_path, names, ct, label_map):
    (tmp_path / "a").mkdir()
    files = case_files(touch(tmp_path / "a", *names))
    assert (files.ct and files.ct.name, files.label_map and files.label_map.name) == (ct, label_map)


def test_a_label_map_comes_before_single_masks(tmp_path):
    folder = touch(tmp_path, "ct.nii.gz", "labels.nii.gz", "segmentations/liver.nii.gz", "lesions/lesion.nii.gz")
    used = {path.name for path in case_files(folder).used()}
    assert used == {"ct.nii.gz", "labels.nii.gz", "lesion.nii.gz"}


def test_cases_are_sorted_and_hidden_ones_left_out(tmp_path):
    touch(tmp_path, "b/ct.nii.gz", "a/ct.nii.gz", ".git/x", "_old/x", "table.csv")
    assert list(list_cases(tmp_path)) == list(find_cases(tmp_path)) == ["a", "b"]


def test_folders_without_cases(tmp_path):
    for folder, message in ((tmp_path, "no case in it"), (tmp_path / "none", "expected a folder of cases")):
        with pytest.raises(ValueError, match=message):
            find_cases(folder)
