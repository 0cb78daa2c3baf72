# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: organs, their parts and masks, and the words of reports, in one YAML file that users may extend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsuper_train.files import read_map
from rsuper_train.layout import LESION

Words = Annotated[tuple[str, ...], Field(default=())]


ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
"""Numbers of liver segments as reports write them, from 1."""


class Part(BaseModel):
    """A sub-segment: how reports name it, and its masks, by the name of the label set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Words
    masks: dict[str, tuple[str, ...]] = {}


class Organ(BaseModel):
    """An organ: how reports name it, its parts, its masks.

    Args:
        names: nouns and adjectives ("kidney", "renal").
        paired: it has a left and a right.
        channel: the network's channel for its lesions.
        public: its name in the columns of the public per-CT table, where it has one.
        masks: label set -> class names whose union is the organ; "{side}" stands for left and right.
        subsegments: its parts by their names in tables.
        groups: names of unions of parts ("right lobe") -> the parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Words
    paired: bool = False
    channel: str = "lesion"
    public: str | None = None
    masks: dict[str, tuple[str, ...]] = {}
    subsegments: dict[str, Part] = {}
    groups: dict[str, tuple[str, ...]] = {}

    def parts_named(self, word: str) -> tuple[str, ...]:
        """The parts that a word names: one by its name in tables, those of a group, those that reports call so."""
        if word in self.subsegments:
            return (word,)
        return self.groups.get(word) or tuple(name for name, part in self.subsegments.items() if word in part.names)


class Vocabulary(BaseModel):
    """All words that extractors, readers and the mapping to masks know.

    Args:
        organs: by their names in tables.
        elsewhere: anatomy that is not an organ of the table; a lesion or a size there is not a tumour of an organ.
        attenuation: "hypo", "iso", "hyper", "mixed" -> words.
        lesions: type of lesion -> words.
        cues: kind of cue ("negation", "history", ...) -> words; the rules say what each kind does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    organs: dict[str, Organ]
    elsewhere: Words
    attenuation: dict[str, tuple[str, ...]]
    lesions: dict[str, tuple[str, ...]]
    cues: dict[str, tuple[str, ...]]

    def organs_of(self, channel: str) -> tuple[str, ...]:
        """The organs whose tumours a lesion channel holds; "lesion" holds those of all."""
        return tuple(name for name, organ in self.organs.items() if channel in (organ.channel, LESION))


def load_vocabulary(extensions: Sequence[Path] = ()) -> Vocabulary:
    """The vocabulary of this package, extended by the user's files, in order.

    Maps are joined key by key, lists are appended, other values are replaced.

    Raises:
        ValueError: a file that is no YAML, or has a key or value that the vocabulary does not have; both are named.
    """
    return _load(tuple(Path(path) for path in extensions))


@lru_cache(maxsize=8)
def _load(extensions: tuple[Path, ...]) -> Vocabulary:
    text = resources.files(__package__).joinpath("vocabulary.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    for path in extensions:
        data = _join(data, read_map(path, "the vocabulary's keys (organs, lesions, ...)"), str(path))
        _check(data, path)
    return Vocabulary.model_validate(data)


def _join(old: Any, new: Any, where: str) -> Any:
    """`new` over `old`: maps are joined, lists appended."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {
            key: _join(old[key], value, f"{where}: {key}") if key in old else value for key, value in new.items()
        }
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *(word for word in new if word not in old)]
    if isinstance(old, (dict, list)) or isinstance(new, (dict, list)):
        raise ValueError(f"{where}: expected a {type(old).__name__} as in the package's vocabulary, got {new!r}")
    return new


def _check(data: dict[str, Any], path: Path) -> None:
    try:
        Vocabulary.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
