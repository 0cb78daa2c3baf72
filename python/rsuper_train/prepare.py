# SPDX-License-Identifier: Apache-2.0
"""From a folder of cases to a prepared dataset: arrays on one spacing, stored for random crops, and a manifest.

CTs are interpolated linearly, lesion masks likewise, keeping their volume; label maps take the nearest voxel. A cubic
spline takes 30 times as long and errs by 32 HU where linear interpolation errs by 35 (a CT's slices, halved in number).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from rsuper_train.layout import CaseFiles, find_cases
from rsuper_train.manifest import CASES, MANIFEST, CaseRecord, Intensity, Manifest
from rsuper_train.processes import Failure, tell_failure, try_each_case
from rsuper_train.read import Options, Volume, read_case, stamps
from rsuper_train.store import SUFFIX, write_volume

CASE = "case.json"
ARRAYS = ("ct", "labels", "lesions")
NOTES_SHOWN = 10
LOWEST = -200
"""HU from which a voxel counts for the intensities: labelled lungs and gas would set the scale of all organs."""


class Finished(BaseModel):
    """What the folder of a prepared case says of itself.

    Args:
        record: for the manifest.
        options: with which it was prepared.
        bits: channel -> its bit in `lesions`.
        moments: number, sum and sum of squares of the HU inside labels and lesions, from LOWEST.
    """

    record: CaseRecord
    options: str
    bits: dict[str, int]
    moments: tuple[int, float, float]


@dataclass(frozen=True)
class _Task:
    files: CaseFiles
    options: Options
    folder: Path


def prepare(data: Path, out: Path, options: Options, workers: int, console: Console) -> Manifest:
    """Prepare the cases of a folder; those that are finished already, and whose files are as they were, are kept.

    Args:
        data: see `layout`.
        out: see `manifest`.
        options: the lesion channels are taken from the data.
        workers: processes.
        console: where cases that fail are named, and notes.

    Raises:
        ValueError: no cases; none that can be prepared; `out` was prepared with other options, or lies in `data`.
        OSError: `out` cannot be written; finished cases are kept.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"{out}: expected a folder outside of {data}, whose folders are taken for cases")
    cases, folder = find_cases(data), out / CASES
    options = replace(options, channels=tuple(sorted(set().union(*(files.lesions for files in cases.values())))))
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
    finished = _find_finished(folder, cases, options)
    tasks = {id: _Task(files, options, folder) for id, files in cases.items() if id not in finished}
    before, failed = len(finished), {}
    if tasks:
        (out / MANIFEST).unlink(missing_ok=True)
    done = try_each_case(_prepare_case, tasks, workers)
    for id, result in track(done, "prepare", len(cases), before, console=console, transient=True):
        if isinstance(result, Failure):
            failed[id] = result.message
            tell_failure(console, id, result.message)
        else:
            finished[id] = result
    if not finished:
        raise ValueError(f"{data}: none of its {len(failed)} cases could be prepared")
    manifest = _manifest(finished, failed, options)
    manifest.write(out)
    _print_summary(console, out, manifest, before)
    return manifest


def _find_finished(folder: Path, cases: Mapping[str, CaseFiles], options: Options) -> dict[str, Finished]:
    """The cases that need no work."""
    finished = {}
    for id, files in cases.items():
        try:
            found = Finished.model_validate_json((folder / id / CASE).read_bytes())
        except (OSError, ValidationError):
            continue
        if found.options != str(options):
            raise ValueError(
                f"{folder.parent}: prepared with {found.options}, now asked for {options}; "
                "choose another folder, or delete this one"
            )
        whole = all((folder / id / f"{name}{SUFFIX}").is_file() for name in ARRAYS)
        if whole and found.bits == _bits(files, options) and found.record.source.files == stamps(files):
            finished[id] = found
    return finished


def _bits(files: CaseFiles, options: Options) -> dict[str, int]:
    return {channel: options.channels.index(channel) for channel in files.lesions}


def _prepare_case(task: _Task) -> Finished:
    """The folder of a case appears with everything in it."""
    volume = read_case(task.files, task.options)
    part = task.folder / f".{task.files.id}.{os.getpid()}.part"
    target = task.folder / task.files.id
    try:
        part.mkdir()
        arrays = {"ct": volume.ct, "labels": volume.labels, "lesions": volume.lesions}
        checksums = {name: write_volume(part / f"{name}{SUFFIX}", array) for name, array in arrays.items()}
        finished = Finished(
            record=volume.record.model_copy(update={"checksums": checksums}),
            options=str(task.options),
            bits=_bits(task.files, task.options),
            moments=_moments(volume),
        )
        (part / CASE).write_text(finished.model_dump_json(indent=1), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    except OSError as error:
        raise OSError(
            f"{target}: {error.strerror}; finished cases are kept: run the same command again to go on"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return finished


def _moments(volume: Volume) -> tuple[int, float, float]:
    number, total, squares = 0, 0.0, 0.0
    for ct, labels, lesions in zip(volume.ct, volume.labels, volume.lesions, strict=True):
        values = ct[((labels > 0) | (lesions > 0)) & (ct >= LOWEST)].astype(float)
        number, total, squares = number + values.size, total + values.sum(), squares + values @ values
    return number, float(total), float(squares)


def _manifest(finished: Mapping[str, Finished], failed: Mapping[str, str], options: Options) -> Manifest:
    return Manifest(
        spacing=options.spacing,
        clip=options.clip,
        intensity=_intensity((each.moments for each in finished.values()), options.clip),
        label_set_name=options.label_set.name,
        label_set=dict(options.label_set.ids),
        label_places=dict(options.label_set.places),
        channels=options.channels,
        cases={id: finished[id].record for id in sorted(finished)},
        failed=dict(sorted(failed.items())),
    )


def _intensity(moments: Iterable[tuple[int, float, float]], clip: tuple[int, int]) -> Intensity:
    """Mean and deviation; the middle and a quarter of the range of HU where nothing is labelled."""
    number, total, squares = map(sum, zip(*moments, strict=True))
    mean = total / number if number else sum(clip) / 2
    variance = squares / number - mean**2 if number else 0.0
    return Intensity(mean=mean, sd=variance**0.5 if variance > 1 else (clip[1] - clip[0]) / 4)


def _print_summary(console: Console, out: Path, manifest: Manifest, before: int) -> None:
    notes = [f"{id}: {note}" for id, record in manifest.cases.items() for note in record.notes]
    for note in notes[:NOTES_SHOWN]:
        console.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)
    if len(notes) > NOTES_SHOWN:
        console.print(f"... and {len(notes) - NOTES_SHOWN} more notes, see {escape(str(out / MANIFEST))}")
    console.print(
        f"{len(manifest.cases)} cases prepared ({before} of them before), {len(manifest.failed)} failed; lesion masks: "
        f"{escape(', '.join(manifest.channels)) or 'none'}; inside labels {manifest.intensity.mean:.0f} ± "
        f"{manifest.intensity.sd:.0f} HU. Written: {escape(str(out / MANIFEST))}",
        highlight=False,
        soft_wrap=True,
    )
