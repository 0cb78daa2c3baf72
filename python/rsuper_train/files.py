# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or not there, maps that users write, and what went wrong in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it; nothing is left behind when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise at_path(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def at_path(path: Path, error: OSError) -> OSError:
    """The same error, with the file that people know: a full disk names none."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8, whole or not at all."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_map(path: Path, expected: str) -> dict[Any, Any]:
    """A map in a YAML or JSON file.

    Raises:
        ValueError: the file is neither, or holds no map; `expected` says what was looked for.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is neither YAML nor JSON in UTF-8: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected {expected}, got {type(data).__name__}")
    return data


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
