# SPDX-License-Identifier: Apache-2.0
"""The network's input channels."""

import numpy as np

from rsuper_train.inputs import network_input
from rsuper_train.manifest import CaseRecord, Extent, Intensity, Source

RECORD = CaseRecord(
    id="case",
    shape=(1, 1, 4),
    spacing=(1, 1, 1),
    source=Source(shape=(4, 1, 1), affine=(), files={}),
    labels={2: Extent(voxels=1, box=((0, 1), (0, 1), (1, 2)), median=100.0), 300: Extent(voxels=0)},
)
CT = np.array([[[40, 80, -1000, 140]]], np.int16)
LABELS = np.array([[[0, 2, 2, 300]]], np.uint16)


def test_inputs_are_in_the_order_asked_for() -> None:
    image = network_input(CT, LABELS, RECORD, Intensity(mean=40, sd=20), ("organs", "contrast", "ct"))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[:, 0, 0], [[0, 1, 1, 1], [0, -0.5, -4, 2.5], [0, 2, -52, 5]])


def test_contrast_of_a_crop_is_that_of_the_whole() -> None:
    whole = network_input(CT, LABELS, RECORD, Intensity(), ("contrast",))
    crop = network_input(CT[..., 1:2], LABELS[..., 1:2], RECORD, Intensity(), ("contrast",))
    np.testing.assert_array_equal(crop, whole[..., 1:2])


def test_a_case_without_labels_is_measured_against_soft_tissue() -> None:
    bare = RECORD.model_copy(update={"labels": {}})
    image = network_input(CT, np.zeros_like(LABELS), bare, Intensity(), ("contrast", "organs"))
    np.testing.assert_allclose(image[:, 0, 0], [[0, 1, -4, 2.5], [0, 0, 0, 0]])
