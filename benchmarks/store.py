# SPDX-License-Identifier: Apache-2.0
"""Random crops from volumes on disk, by format: `python -m benchmarks.store` writes results/store.json and its table.

One thread, as in a process that loads data; files are in the page cache. Zarr is measured where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import blosc2
import numpy as np

from benchmarks.figures import RESULTS
from benchmarks.measure import machine
from rsuper_train.store import FILTERS

RESULT = RESULTS / "store.json"
EDGE, CROP, CROPS = 512, 128, 24
CHUNKS = (32, 64, 96, 128)
CODECS = (("lz4", 5, "bitshuffle"), ("zstd", 1, "shuffle"), ("zstd", 1, "bitshuffle"), ("zstd", 5, "bitshuffle"))


class Format(NamedTuple):
    """A way to store a volume: `write` leaves it under a path, `open` gives what crops are sliced from."""

    library: str
    chunk: int | None
    codec: str
    write: Callable[[Path, np.ndarray], object]
    open: Callable[[Path], Any]


def ct_like(edge: int = EDGE, seed: int = 0) -> np.ndarray:
    """An int16 volume in HU that compresses about as a CT: air, a body of organs, and noise that neighbours share."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 25.0, (edge, edge, edge)).astype(np.float32)
    for axis in (1, 2):
        noise += np.roll(noise, 1, axis)
    organs = rng.choice(np.float32([-100, 30, 60, 120, 200]), (edge // 32,) * 3)
    volume = np.kron(organs, np.ones((32, 32, 32), np.float32)) + noise / 2
    axis = np.linspace(-1, 1, edge, dtype=np.float32)
    outside = (axis[:, None] / 0.6) ** 2 + (axis / 0.85) ** 2 > 1
    volume[:, outside] = -1000 + np.abs(noise[:, outside]) / 4
    return np.rint(volume).astype(np.int16)


def formats() -> Iterator[Format]:
    """Raw voxels as the floor, then each library with each chunk and codec."""
    yield Format("none (memory map)", None, "", lambda path, volume: np.save(path, volume), _open_raw)
    for chunk in CHUNKS:
        for codec, level, order in CODECS:
            yield _blosc2(chunk, codec, level, order)
            if importlib.util.find_spec("zarr"):
                yield _zarr(chunk, codec, level, order)


def _open_raw(path: Path) -> Any:
    return np.load(path.with_name(f"{path.name}.npy"), mmap_mode="r")


def _blosc2(chunk: int, codec: str, level: int, order: str) -> Format:
    cparams = {"codec": blosc2.Codec[codec.upper()], "clevel": level, "filters": FILTERS[order], "nthreads": 1}

    def write(path: Path, volume: np.ndarray) -> None:
        blosc2.asarray(volume, chunks=(chunk,) * 3, cparams=cparams, urlpath=str(path), mode="w")

    def open(path: Path) -> Any:
        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})

    return Format("Blosc2", chunk, f"{codec} {level}, {order}", write, open)


def _zarr(chunk: int, codec: str, level: int, order: str) -> Format:
    import zarr
    from zarr.codecs import BloscCodec

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    codecs = [BloscCodec(typesize=2, cname=codec, clevel=level, shuffle=order)]

    def write(path: Path, volume: np.ndarray) -> None:
        array = zarr.create_array(store=path, shape=volume.shape, chunks=(chunk,) * 3, dtype="i2", compressors=codecs)
        array[...] = volume

    return Format("Zarr", chunk, f"{codec} {level}, {order}", write, lambda path: zarr.open_array(path, mode="r"))


def measure() -> dict[str, Any]:
    volume = ct_like()
    blosc2.set_nthreads(1)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(each, Path(folder) / str(number), volume) for number, each in enumerate(formats())]
    return {"machine": about, "rows": rows}


def _row(each: Format, path: Path, volume: np.ndarray) -> dict[str, Any]:
    start = perf_counter()
    each.write(path, volume)
    written = perf_counter() - start
    array, seconds = each.open(path), []
    for corner in np.random.default_rng(1).integers(0, EDGE - CROP, (CROPS, 3)):
        where = tuple(slice(first, first + CROP) for first in map(int, corner))
        start = perf_counter()
        crop = np.array(array[where])
        seconds.append(perf_counter() - start)
        assert np.array_equal(crop, volume[where])
    files = [file for file in path.parent.rglob("*") if file.is_file() and path.name in file.relative_to(path.parent).parts[0]]
    row = {
        "library": each.library,
        "chunk": each.chunk,
        "codec": each.codec,
        "crops_per_second": round(1 / median(seconds), 1),
        "size": round(sum(file.stat().st_size for file in files) / volume.nbytes, 3),
        "write_seconds": round(written, 1),
    }
    for file in files:
        file.unlink()
    sys.stderr.write(f"{row}\n")
    return row


def table(result: Mapping[str, Any]) -> str:
    """The result for the docs; what `rsuper_train.store` does is bold."""
    lines = ["| library | chunk | codec | crops/s | size | written in |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        cells = [
            row["library"],
            f"{row['chunk']}³" if row["chunk"] else "",
            row["codec"],
            f"{row['crops_per_second']:.0f}",
            f"{row['size']:.0%}",
            f"{row['write_seconds']:.1f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(RESULT.read_text())
    return result


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=2) + "\n")
    sys.stdout.write(f"{table(read())}\n")
