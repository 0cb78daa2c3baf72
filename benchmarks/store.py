# SPDX-License-Identifier: Apache-2.0
"""Random crops from volumes on disk, by format: `python -m benchmarks.store` writes results/store.json.

One thread, as in a process that loads data, and files in the page cache. Times are those of the processor, so that
other programs do not count. Zarr is measured where it is installed (`pip install zarr`).
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, NamedTuple

import blosc2
import numpy as np

from benchmarks.figures import RESULTS, keep, read
from benchmarks.measure import machine
from rsuper_train.store import BLOCK, CHUNK, PACKING, open_volume, write_volume

RESULT = RESULTS / "store.json"
EDGE, CROP, CROPS = 512, 128, 32
CHUNKS = (32, 64, 96, 128)
CODECS = (("lz4", 5, "bitshuffle"), ("zstd", 1, "shuffle"), ("zstd", 5, "bitshuffle"))


class Format(NamedTuple):
    """A way to store a volume: `write` leaves it under a path, `open` gives what crops are sliced from."""

    library: str
    chunk: str
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
    """What `rsuper_train.store` does, raw voxels as the floor, then each library with each chunk and codec."""
    codec = f"{PACKING['codec'].name.lower()} {PACKING['clevel']}, {PACKING['filters'][0].name.lower()}"
    yield Format("rsuper_train.store", f"{CHUNK}³ in blocks of {BLOCK}³", codec, write_volume, open_volume)
    yield Format("none, a memory map", "", "", lambda path, volume: volume.tofile(path), _open_raw)
    for chunk in CHUNKS:
        for codec in CODECS:
            yield _blosc2(chunk, *codec)
            if importlib.util.find_spec("zarr"):
                yield _zarr(chunk, *codec)


def _open_raw(path: Path) -> Any:
    return np.memmap(path, np.int16, "r", shape=(EDGE,) * 3)


def _blosc2(chunk: int, codec: str, level: int, order: str) -> Format:
    filters = [blosc2.Filter[order.upper()]]
    cparams = {"codec": blosc2.Codec[codec.upper()], "clevel": level, "filters": filters, "nthreads": 1}

    def write(path: Path, volume: np.ndarray) -> None:
        blosc2.asarray(volume, chunks=(chunk,) * 3, cparams=cparams, urlpath=str(path), mode="w")

    return Format("Blosc2", f"{chunk}³", f"{codec} {level}, {order}", write, open_volume)


def _zarr(chunk: int, codec: str, level: int, order: str) -> Format:
    import zarr
    from zarr.codecs import BloscCodec

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    codecs = [BloscCodec(typesize=2, cname=codec, clevel=level, shuffle=order)]

    def write(path: Path, volume: np.ndarray) -> None:
        array = zarr.create_array(store=path, shape=volume.shape, chunks=(chunk,) * 3, dtype="i2", compressors=codecs)
        array[...] = volume

    return Format("Zarr", f"{chunk}³", f"{codec} {level}, {order}", write, lambda path: zarr.open_array(path, mode="r"))


def corners() -> Iterator[tuple[slice, ...]]:
    """Where the crops lie."""
    for corner in np.random.default_rng(1).integers(0, EDGE - CROP, (CROPS, 3)).tolist():
        yield tuple(slice(first, first + CROP) for first in corner)


def measure() -> dict[str, Any]:
    about, volume = machine() | {"blosc2": blosc2.__version__}, ct_like()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(each, Path(folder) / str(number), volume) for number, each in enumerate(formats())]
    return {"machine": about, "rows": rows}


def _row(each: Format, path: Path, volume: np.ndarray) -> dict[str, Any]:
    start = process_time()
    each.write(path, volume)
    written = process_time() - start
    array, seconds = each.open(path), []
    for where in corners():
        start = process_time()
        crop = np.array(array[where])
        seconds.append(process_time() - start)
        assert np.array_equal(crop, volume[where])
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    row = {
        "library": each.library,
        "chunk": each.chunk,
        "codec": each.codec,
        "crops_per_second": round(1 / median(seconds)),
        "size": round(sum(file.stat().st_size for file in files) / volume.nbytes, 3),
        "write_seconds": round(written, 2),
    }
    for file in files:
        file.unlink()
    return row


def table(result: Mapping[str, Any]) -> str:
    """The result for the docs."""
    lines = ["| library | chunk | codec | crops/s | size | written in |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        figures = f"{row['crops_per_second']:,} | {row['size']:.0%} | {row['write_seconds']:.1f} s"
        lines.append(f"| {row['library']} | {row['chunk']} | {row['codec']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    keep(RESULT, measure())
    sys.stdout.write(f"{table(read(RESULT))}\n")
