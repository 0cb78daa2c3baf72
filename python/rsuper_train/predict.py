# SPDX-License-Identifier: Apache-2.0
"""From CTs as they come to masks and probabilities of lesions on their own grid, see `layout`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import chain, combinations
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from rich.console import Console
from rich.progress import track

from rsuper_train import nifti
from rsuper_train.checkpoint import checkpoint_provenance, load_manifest, load_network
from rsuper_train.config import Config, parse_config
from rsuper_train.files import first_line, write_text
from rsuper_train.gating import Part, around, organs_of
from rsuper_train.grids import to_source_grid
from rsuper_train.inputs import network_input
from rsuper_train.layout import LESION, PREDICTION, PROBABILITIES, CaseError, CaseFiles, find_cases
from rsuper_train.manifest import CaseRecord, Manifest
from rsuper_train.masks import drop_small, near
from rsuper_train.networks import heads
from rsuper_train.processes import tell_failure
from rsuper_train.read import Options, Volume, read_case, stamps


class Predictor:
    """A network, or several whose probabilities are averaged.

    Args:
        checkpoints: run folders or checkpoint files; they have to agree in outputs, inputs, patch and preprocessing.
        device: "auto", "cpu", "cuda:1", ...
        channels: which of the network's outputs; None: the lesion channels, or all where there are none of those.
        overrides: fields of the configuration's section `predict` to change.

    Raises:
        ValueError: networks that do not agree, no such device, a channel that they do not have, an override out of
            range, a gate around an organ without a class in the label set.
    """

    def __init__(
        self,
        checkpoints: Sequence[Path],
        device: str = "auto",
        channels: Sequence[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = _device(device)
        loaded = [load_network(path, self.device) for path in checkpoints]
        self.networks = [network for network, _ in loaded]
        self.config, self.manifest = _agree(checkpoints, [config for _, config in loaded])
        self.label_set = self.manifest.classes
        self.options = parse_config({"predict": self.config.predict.model_dump() | dict(overrides or {})}).predict
        self.channels = _select(self.config.data.channels, channels)
        gated = [name for name in self.channels if name.endswith(LESION) and self.options.gate is not None]
        self.gates = {name: organs_of(name, self.label_set) for name in gated}
        self.needs_organs = bool(self.gates) or set(self.config.data.inputs) != {"ct"}
        self.provenance = {
            "networks": [checkpoint_provenance(path) for path in checkpoints],
            "channels": list(self.channels),
            "options": self.options.model_dump(mode="json"),
        }
        self._outputs = [self.config.data.channels.index(name) for name in self.channels]
        axes = [2 + "DHW".index(axis) for axis in self.options.mirror]
        self._flips = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))

    def probabilities(self, record: CaseRecord, ct: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Probabilities of a prepared CT or a part of it, by sliding windows with Gaussian blending; not gated.

        Beyond the input, memory is that of the result and of one channel more. Where the patch is larger, air is put
        behind the CT.

        Args:
            record: of the case.
            ct: HU (D, H, W), clipped.
            labels: label map (D, H, W); of no account where the network's only input is the CT.

        Returns:
            float32 (C, D, H, W), in the order of `channels`.

        Raises:
            ValueError: the case was prepared for another spacing than the network's.
        """
        trained, inputs, patch = self.manifest.spacing, self.config.data.inputs, self.config.data.patch
        if trained is not None and not np.allclose(record.spacing, trained, rtol=0.01):
            raise ValueError(f"{record.id}: expected voxels of {trained} mm, as in training, got {record.spacing} mm")
        beyond = [(0, max(0, size - own)) for size, own in zip(patch, ct.shape, strict=True)]
        if np.any(beyond):
            ct, labels = np.pad(ct, beyond, constant_values=self.manifest.clip[0]), np.pad(labels, beyond)
        image = torch.from_numpy(network_input(ct, labels, record, self.manifest.intensity, inputs))
        with torch.inference_mode():
            result = sliding_window_inference(
                image[None],
                patch,
                self.config.hardware.batch,
                self._window,
                overlap=self.options.overlap,
                mode="gaussian",
                sw_device=self.device,
                device=torch.device("cpu"),
            )
        d, h, w = (size - behind for size, (_, behind) in zip(ct.shape, beyond, strict=True))
        return result[0, :, :d, :h, :w].numpy()

    def _window(self, window: torch.Tensor) -> torch.Tensor:
        """Probabilities of windows (B, C_in, *patch), averaged over networks and mirrored axes."""
        half = self.device.type == "cuda" and self.config.hardware.precision != "32-true"
        total = window.new_zeros(len(window), len(self.channels), *window.shape[2:])
        for network in self.networks:
            for axes in self._flips:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                    logits = heads(network(window.flip(axes)), window.shape[2:])[0]
                total += logits[:, self._outputs].float().sigmoid().flip(axes)
        return total / (len(self.networks) * len(self._flips))


def predict_folder(
    predictor: Predictor,
    data: Path,
    out: Path,
    console: Console,
    *,
    cases: Sequence[str] | None = None,
    overwrite: bool = False,
) -> dict[str, str]:
    """Predict a folder of cases. Those that are finished are skipped; one that fails does not stop the others.

    Args:
        predictor: the networks.
        data: <data>/<case>/ct.nii.gz, with organ masks where the network's inputs or the gates need them.
        out: where predictions go.
        console: gets a line a case.
        cases: ids; None: all.
        overwrite: predict everything anew, and replace what other networks or options predicted.

    Returns:
        Cases that failed, and why.

    Raises:
        ValueError: no such case; predictions by other networks or options are in the way; `out` lies in `data`.
        OSError: `out` cannot be written.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"{out}: expected a folder outside of {data}, whose folders are taken for cases")
    found = find_cases(data)
    if missing := [id for id in cases or () if id not in found]:
        raise ValueError(f"{data}: there is no case {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}")
    wanted = [_wanted(predictor, found[id]) for id in dict.fromkeys(found if cases is None else cases)]
    waiting = [files for files in wanted if overwrite or not _is_finished(predictor, files, out / files.id)]
    if len(waiting) < len(wanted):
        console.print(f"{len(wanted) - len(waiting)} of {len(wanted)} cases were finished before", highlight=False)
    failed: dict[str, str] = {}
    for files in track(waiting, "predict", console=console, transient=True, disable=not console.is_terminal):
        try:
            line = _summary(predict_case(predictor, files, out / files.id))
            console.print(f"{files.id}: {line}", markup=False, highlight=False, soft_wrap=True)
        except (CaseError, MemoryError, RuntimeError) as error:  # torch's want of memory is a RuntimeError
            failed[files.id] = first_line(error)
            tell_failure(console, files.id, first_line(error))
        except OSError as error:
            why = error.strerror or first_line(error)
            raise OSError(f"{out / files.id}: {why}; finished cases are kept, run it again to go on") from None
    return failed


def read_ids(text: str) -> list[str]:
    """Ids of cases, by commas or from a text file with one a line."""
    ids = Path(text).read_text(encoding="utf-8-sig").splitlines() if isfile(text) else text.split(",")
    return [id.strip() for id in ids if id.strip()]


def predict_case(predictor: Predictor, files: CaseFiles, out: Path) -> dict[str, Any]:
    """Predict one case into a folder of its own; returns what prediction.json says.

    Masks are cut from the probabilities as they are written, so that who cuts them again gets the same.

    Raises:
        CaseError: the case cannot be read, lacks organ masks that are needed, or the network gave no numbers.
    """
    started = time.monotonic()
    volume = _read(predictor, files)
    affine = np.array(volume.record.source.affine)
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    notes, channels = list(volume.record.notes), {}
    _clear(out)
    for name, probabilities in _gated(predictor, volume, notes):
        highest = float(probabilities.max())
        if not math.isfinite(highest):
            raise CaseError(f"{files.folder}: the network's output for {name} is not a number")
        probabilities = to_source_grid(probabilities, volume.record, 1)
        probabilities *= 255
        scaled = np.rint(probabilities, out=probabilities).astype(np.uint8)
        mask = scaled >= predictor.options.threshold * 255
        drop_small(mask, predictor.options.smallest, voxel)
        nifti.write(out / f"{name}.nii.gz", mask.view(np.uint8), affine)
        nifti.write(out / PROBABILITIES / f"{name}.nii.gz", scaled, affine, 1 / 255)
        channels[name] = {"max_probability": highest, "volume_mm3": float(mask.sum()) * voxel}
    prediction = {
        "case": files.id,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "device": str(predictor.device),
        "provenance": predictor.provenance,
        "source": volume.record.source.files,
        "threshold": predictor.options.threshold,
        "spacing": volume.record.spacing,
        "channels": channels,
        "notes": notes,
    }
    write_text(out / PREDICTION, json.dumps(prediction, indent=1))
    return prediction


def identity(provenance: Mapping[str, Any]) -> object:
    """What of a provenance decides what is predicted."""
    return [network["sha256"] for network in provenance["networks"]], provenance["channels"], provenance["options"]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device: {name} cannot be used here: {first_line(error)}") from None


def _agree(checkpoints: Sequence[Path], configs: Sequence[Config]) -> tuple[Config, Manifest]:
    """The first network's configuration and data, when the others saw their cases in the same way."""
    manifests = [load_manifest(path) for path in checkpoints]
    facts = [
        config.data.model_dump(include={"channels", "inputs", "patch"})
        | manifest.model_dump(include={"spacing", "clip", "intensity", "label_set", "label_places"})
        for config, manifest in zip(configs, manifests, strict=True)
    ]
    for path, own in zip(checkpoints, facts, strict=True):
        for name, value in own.items():
            if value != facts[0][name]:
                raise ValueError(f"{path}: {name}: expected {facts[0][name]} as in {checkpoints[0]}, got {value}")
    return configs[0], manifests[0]


def _select(outputs: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    for name in asked or ():
        if name not in outputs:
            raise ValueError(f"channels: the network has no {name!r}, it has {', '.join(outputs)}")
    return tuple(asked or [name for name in outputs if name.endswith(LESION)] or outputs)


def _summary(prediction: Mapping[str, Any]) -> str:
    found = prediction["channels"].items()
    volumes = [f"{name} {of['volume_mm3'] / 1000:.1f} ml (p {of['max_probability']:.2f})" for name, of in found]
    return "; ".join([", ".join(volumes), f"{prediction['seconds']:.0f} s", *prediction["notes"]])


def _wanted(predictor: Predictor, files: CaseFiles) -> CaseFiles:
    """The files that a prediction depends on."""
    files = replace(files, lesions={})
    return files if predictor.needs_organs else replace(files, label_map=None, organs={})


def _is_finished(predictor: Predictor, files: CaseFiles, folder: Path) -> bool:
    earlier = _load_prediction(folder)
    if earlier is None:
        return False
    if identity(earlier["provenance"]) != identity(predictor.provenance):
        raise ValueError(
            f"{folder / PREDICTION}: this is by other networks, channels or options; "
            "predict into another folder, or with --overwrite"
        )
    source = {name: tuple(stamp) for name, stamp in earlier["source"].items()}
    return source == stamps(files) and all(path.is_file() for path in _images(folder, earlier))


def _load_prediction(folder: Path) -> dict[str, Any] | None:
    """What prediction.json says of a case; None where the case is not finished.

    Raises:
        ValueError: `rsuper predict` has not written it.
    """
    path = folder / PREDICTION
    if not path.is_file():
        return None
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return {name: earlier[name] for name in ("provenance", "source", "channels")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected what `rsuper predict` writes; delete it: {first_line(error)}") from None


def _images(folder: Path, prediction: Mapping[str, Any]) -> list[Path]:
    return [parent / f"{name}.nii.gz" for name in prediction["channels"] for parent in (folder, folder / PROBABILITIES)]


def _clear(folder: Path) -> None:
    """Make the folder; remove an earlier prediction, and what one that was killed left half written."""
    earlier = _load_prediction(folder)
    for path in [*folder.rglob(".*.part"), *(_images(folder, earlier) if earlier else []), folder / PREDICTION]:
        path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _read(predictor: Predictor, files: CaseFiles) -> Volume:
    manifest = predictor.manifest
    volume = read_case(files, Options(predictor.label_set, manifest.spacing, manifest.clip))
    if predictor.needs_organs and not volume.record.labels:
        why = "the gate needs" if predictor.gates else f"the inputs {', '.join(predictor.config.data.inputs)} need"
        raise CaseError(
            f"{files.folder}: {why} organ masks, segmentations/<class>.nii.gz or labels.nii.gz, of the label set "
            f"{predictor.label_set.name}; there is none with a voxel"
        )
    return volume


def _gated(predictor: Predictor, volume: Volume, notes: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Channels and probabilities (D, H, W), 0 beyond the gates; windows lie only where something can be kept."""
    record, gates, gate = volume.record, predictor.gates, predictor.options.gate or 0.0
    reach = [math.ceil(gate / step) for step in record.spacing]
    whole = slice(None), slice(None), slice(None)
    seen: Part | None = whole
    if len(gates) == len(predictor.channels):
        context = [margin + size // 4 for margin, size in zip(reach, predictor.config.data.patch, strict=True)]
        seen = around(record, frozenset[int]().union(*gates.values()), context)
    found = () if seen is None else predictor.probabilities(record, volume.ct[seen], volume.labels[seen])
    for index, name in enumerate(predictor.channels):
        kept = around(record, gates[name], reach) if name in gates else whole
        result = np.zeros(record.shape, np.float32)
        if kept is None:
            notes.append(f"{name}: its organ is not in the masks, so that nothing is predicted")
        else:
            result[seen] = found[index]
        if kept and name in gates:
            within = result[kept] * near(np.isin(volume.labels[kept], list(gates[name])), gate, record.spacing)
            result[:] = 0
            result[kept] = within
        yield name, result
