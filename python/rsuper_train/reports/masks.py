# SPDX-License-Identifier: Apache-2.0
"""From the places of reports to label ids: the classes of a segmentation model, or of a user's own mapping file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rsuper_train.files import read_map
from rsuper_train.reports.places import format_place, parse_place
from rsuper_train.reports.schema import Place
from rsuper_train.reports.vocabulary import Organ, Vocabulary

LABEL_SETS = ("abdomenatlas", "totalsegmentator")
"""The label sets that this package knows."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a label map.

    Args:
        name: the vocabulary's masks of that name are used; for a name that it does not know, those of the other sets.
        ids: class -> id in the label map, from 1.
        places: place as tables write it ("kidney, upper pole") -> classes, before what the vocabulary says; "{side}"
            in a class stands for left and right.
    """

    name: str
    ids: Mapping[str, int]
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Region(NamedTuple):
    """Where a place lies in a label map.

    Args:
        ids: label ids whose union it is, in increasing order.
        exact: False where it is larger than the place, because a part or a side has no class of its own.
    """

    ids: tuple[int, ...]
    exact: bool = True


def load_label_set(name: str | Path) -> LabelSet:
    """A label set of this package by name ("totalsegmentator", "abdomenatlas"), or that of the user's file.

    The file is YAML or JSON: `labels:`, a map from class to id, and optionally `name:` and `places:`, a map from
    places to lists of classes; or nothing but the map from class to id. An nnU-Net dataset.json is such a file.

    Raises:
        ValueError: neither a known name nor a file; contents that are no label set.
    """
    if str(name) in LABEL_SETS:
        text = resources.files(__package__).joinpath("label_sets", f"{name}.yaml").read_text(encoding="utf-8")
        return LabelSet(str(name), yaml.safe_load(text)["labels"])
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"label set: there is no file {path}; the names known are {', '.join(LABEL_SETS)}")
    data = read_map(path, "a map from class to label id")
    return _label_set(path, data if isinstance(data.get("labels"), dict) else {"labels": data})


def _label_set(path: Path, data: dict[str, Any]) -> LabelSet:
    ids = {}
    for name, id in data["labels"].items():
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise ValueError(f"{path}: {name}: expected the id of a label, a whole number, got {id!r}")
        if id > 0:
            ids[str(name)] = id
    if not ids:
        raise ValueError(f"{path}: there is no label but the background")
    places = data.get("places") or {}
    if not isinstance(places, dict):
        raise ValueError(f"{path}: places: expected a map from places to lists of classes, got {places!r}")
    label_set = LabelSet(
        str(data.get("name") or path.stem),
        ids,
        {format_place(parse_place(str(place))): tuple(_classes(path, place, names)) for place, names in places.items()},
    )
    for place, names in label_set.places.items():
        for name in names:
            if not any(_ids((name,), ("left", "right"), ids)):
                raise ValueError(f"{path}: places: {place}: there is no class {name!r} among the labels")
    return label_set


def _classes(path: Path, place: object, names: object) -> Iterable[str]:
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: places: {place}: expected a list of classes, got {names!r}")
    return map(str, names)


def region(place: Place, label_set: LabelSet, vocabulary: Vocabulary) -> Region | None:
    """The label ids of a place; None where its organ has no class.

    A side that is not said, or bilateral, is both; parts join; a part without a class is the whole organ, on its side.
    A whole organ is its own class together with those of its parts, since a voxel of a label map has one class.
    """
    organ = vocabulary.organs.get(place.organ, Organ(names=()))
    whole = _whole(place, organ, label_set)
    if not place.subsegments:
        return whole
    parts = [_part(place, name, organ, label_set) for name in place.subsegments]
    if not all(parts):
        return whole and Region(whole.ids, exact=False)
    return _union(part for part in parts if part)


def organ_ids(organ: str, label_set: LabelSet, vocabulary: Vocabulary) -> frozenset[int]:
    """All label ids of an organ, both sides; none where it has no class."""
    whole = region(Place(organ=organ), label_set, vocabulary)
    return frozenset(whole.ids) if whole else frozenset()


def ids_by_organ(label_set: LabelSet, vocabulary: Vocabulary) -> dict[str, frozenset[int]]:
    """`organ_ids` of every organ of the vocabulary."""
    return {name: organ_ids(name, label_set, vocabulary) for name in vocabulary.organs}


def _whole(place: Place, organ: Organ, label_set: LabelSet) -> Region | None:
    own = _find(place, (), organ.masks, label_set)
    parts = [_part(place, name, organ, label_set) for name in organ.subsegments]
    if own is None and not (parts and all(parts)):
        return None
    return _union([*([own] if own else []), *(part for part in parts if part)])


def _part(place: Place, name: str, organ: Organ, label_set: LabelSet) -> Region | None:
    part = organ.subsegments.get(name)
    return _find(place, (name,), part.masks if part else {}, label_set)


def _find(
    place: Place, parts: tuple[str, ...], masks: Mapping[str, tuple[str, ...]], label_set: LabelSet
) -> Region | None:
    """What the label set's own places say of the place with these parts; else the vocabulary's masks; else its name."""
    sides = (place.laterality,) if place.laterality in ("left", "right") else ("left", "right")
    asked = Place(organ=place.organ, subsegments=parts)
    sided = [format_place(asked.model_copy(update={"laterality": side})) for side in sides]
    names = [name for text in sided for name in label_set.places.get(text, ())]
    exact = bool(names) or len(sides) == 2
    if not names:
        names = list(label_set.places.get(format_place(asked), ()))
    if not names:
        names = [*_named(masks, label_set), *sided, format_place(asked)]
    names = [name for name in names if any(_ids((name,), sides, label_set.ids))]
    if not names:
        return None
    exact = exact or all("{side}" in name or name in sided for name in names)
    return Region(tuple(sorted(set(_ids(names, sides, label_set.ids)))), exact)


def _named(masks: Mapping[str, tuple[str, ...]], label_set: LabelSet) -> tuple[str, ...]:
    """The vocabulary's classes for this label set. A set that it does not know may go by the names of another."""
    if label_set.name in masks or label_set.name in LABEL_SETS:
        return masks.get(label_set.name, ())
    # half of them, so that a set with femurs alone has no bones, and one without cysts has kidneys
    usable = [
        names
        for names in masks.values()
        if 2 * sum(any(_ids((name,), ("left", "right"), label_set.ids)) for name in names) >= len(names)
    ]
    return tuple(name for names in usable for name in names)


def _ids(names: Iterable[str], sides: Iterable[str | None], ids: Mapping[str, int]) -> Iterator[int]:
    for name in names:
        for side in sides:
            if (full := name.replace("{side}", str(side))) in ids:
                yield ids[full]


def _union(regions: Iterable[Region]) -> Region:
    joined = list(regions)
    ids = sorted({id for item in joined for id in item.ids})
    return Region(tuple(ids), exact=all(item.exact for item in joined))
