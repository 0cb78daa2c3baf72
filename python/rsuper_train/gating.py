# SPDX-License-Identifier: Apache-2.0
"""Where lesions of an organ can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsuper_train.manifest import CaseRecord
from rsuper_train.reports.masks import LabelSet, organ_ids
from rsuper_train.reports.vocabulary import load_vocabulary

Part = tuple[slice, slice, slice]


def organs_of(channel: str, label_set: LabelSet) -> frozenset[int]:
    """Label ids of the organs that a lesion channel belongs to; "lesion" belongs to all that the vocabulary knows.

    Raises:
        ValueError: none of them has a class in the label set.
    """
    vocabulary = load_vocabulary()
    own = (organ_ids(name, label_set, vocabulary) for name in vocabulary.organs_of(channel))
    ids = frozenset[int]().union(*own)
    if not ids:
        raise ValueError(f"gate: no class of the label set {label_set.name} is an organ of the channel {channel}")
    return ids


def around(record: CaseRecord, ids: frozenset[int], margin: Sequence[int]) -> Part | None:
    """The box of labels with a margin in voxels, cut at the volume's borders; None where the case has none of them."""
    boxes = np.array([extent.box for id, extent in record.labels.items() if id in ids and extent.box])
    if not len(boxes):
        return None
    low = np.maximum(boxes[..., 0].min(axis=0) - margin, 0).tolist()
    high = np.minimum(boxes[..., 1].max(axis=0) + margin, record.shape).tolist()
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
