# SPDX-License-Identifier: Apache-2.0
"""`rsuper_kernels.compat` against the golden vectors of this folder, and the checker against broken folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden.__main__ import main
from tests.golden.io import GoldenError, gradient_error, read_arrays, read_manifest
from tests.golden.runner import ADAPTERS, run_case

VECTORS = Path(__file__).parent / "vectors"
CASES = read_manifest(VECTORS)["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_case(case):
    outcome = run_case(VECTORS, case)
    assert outcome.status in ("pass", "tie"), str(outcome)


def test_vectors_are_complete_and_small():
    files = {path.name: path.stat().st_size for path in VECTORS.iterdir()}
    assert files.keys() == {"manifest.json", *(case["file"] for case in CASES)}
    assert sum(files.values()) <= 8_000_000
    assert {case["function"] for case in CASES} == ADAPTERS.keys()


# the checker


def copy_case(folder: Path, case_id: str, **changes: object) -> Path:
    """A folder with one case, whose manifest entry or arrays are changed."""
    case = next(case for case in CASES if case["id"] == case_id)
    (folder / "manifest.json").write_text(json.dumps({"cases": [dict(case, **changes)]}))
    shutil.copyfile(VECTORS / case["file"], folder / case["file"])
    return folder / case["file"]


def test_lines_and_total(tmp_path, capsys):
    copy_case(tmp_path, "dilate_k03")
    assert main([str(tmp_path)]) == 0
    line, _, total = capsys.readouterr().out.strip().split("\n")
    assert line.startswith("pass  dilate_k03")
    assert "dilate_volume" in line
    assert "0.00e+00 (tol 0e+00)" in line
    assert total == "1 cases: 1 passed, 0 failed, 0 tie-dependent within bounds"


def test_ties_have_their_own_heading(tmp_path, capsys):
    copy_case(tmp_path, "isolate_d15_tiny_segment_ties")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.index("tie-dependent in the public code") < out.index("tie   isolate_d15_tiny_segment_ties")
    assert "0 failed, 1 tie-dependent" in out


def test_a_wrong_mask_voxel_fails(tmp_path, capsys):
    path = copy_case(tmp_path, "dilate_k03")
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["out.bits"] = arrays["out.bits"].copy()
    arrays["out.bits"][0] ^= 128
    np.savez(path, **arrays)
    assert main([str(tmp_path)]) == 1
    assert "fail  dilate_k03" in capsys.readouterr().out


def test_a_missing_error_fails(tmp_path, capsys):
    copy_case(tmp_path, "dilate_k03", expected_error={"type": "AssertionError"})
    assert main([str(tmp_path)]) == 1
    assert "ValueError expected (AssertionError in the public code), nothing raised" in capsys.readouterr().out


def test_an_unexpected_error_fails(tmp_path, capsys):
    copy_case(tmp_path, "isolate_d61_huge", expected_error=None)
    assert main([str(tmp_path)]) == 1
    assert (
        "unexpected ValueError: tumour: expected a ball of more than half its 47832 voxels" in capsys.readouterr().out
    )


def test_an_unknown_function_fails(tmp_path, capsys):
    copy_case(tmp_path, "dilate_k03", function="erode_volume")
    assert main([str(tmp_path)]) == 1
    assert "no adapter for the function 'erode_volume'" in capsys.readouterr().out


def test_a_corrupt_file_fails(tmp_path, capsys):
    copy_case(tmp_path, "dilate_k03").write_bytes(b"not a zip")
    assert main([str(tmp_path)]) == 1
    assert "dilate_k03.npz is corrupt or not an .npz file" in capsys.readouterr().out


def test_a_missing_file_fails(tmp_path, capsys):
    copy_case(tmp_path, "dilate_k03").unlink()
    assert main([str(tmp_path)]) == 1
    assert "no such file" in capsys.readouterr().out


def test_a_folder_that_cannot_be_read(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "not a readable JSON file" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"cases": [1]}')
    assert main([str(tmp_path)]) == 2
    assert "no list 'cases'" in capsys.readouterr().err


def test_choice_of_cases(capsys):
    assert main([str(VECTORS), "dilate_k0"]) == 0
    assert capsys.readouterr().out.strip().endswith("7 cases: 7 passed, 0 failed, 0 tie-dependent within bounds")
    assert main([str(VECTORS), "nothing"]) == 2
    assert "begins with nothing" in capsys.readouterr().err


# the reader


def stored_gradient(full: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A gradient (1, 2, 1, 2, 2) whose first channel is zero, as the vectors store it."""
    gradient = np.zeros((1, 2, 1, 2, 2))
    gradient[0, 1] = [[[1.0, -2.0], [0.5, 4.0]]]
    flat = gradient.reshape(1, 2, 4)
    arrays = {
        "g.shape": np.array(gradient.shape),
        "g.sum": flat.sum(2),
        "g.sumsq": (flat**2).sum(2),
        "g.absmax": np.abs(flat).max(2),
        "g.nonzero": (flat != 0).sum(2),
    }
    stored = {"g.bc": np.array([[0, 1]]), "g.full": gradient[0, 1:]}
    sparse = {"g.idx": np.array([5, 7]), "g.val": np.array([-2.0, 4.0])}
    return arrays | (stored if full else sparse), gradient


@pytest.mark.parametrize("full", [True, False], ids=["full", "sparse"])
def test_gradient_error(full):
    arrays, gradient = stored_gradient(full)
    assert gradient_error(arrays, "g", gradient) == 0
    for index, error in (((0, 1, 0, 0, 1), 0.01), ((0, 0, 0, 0, 0), 0.01)):
        changed = gradient.copy()
        changed[index] += 0.04
        assert gradient_error(arrays, "g", changed) >= error
    # the sum sees what the sparse values do not
    changed = gradient.copy()
    changed[0, 1, 0, 0, 0] += 0.04
    assert gradient_error(arrays, "g", changed) > 1e-3
    assert gradient_error(arrays, "g", gradient * np.nan) == float("inf")
    with pytest.raises(GoldenError, match=r"g: expected shape \(1, 2, 1, 2, 2\), got \(2, 1, 2, 2\)"):
        gradient_error(arrays, "g", gradient[0])


def test_reader_unpacks_bits_and_widens_halves(tmp_path):
    mask = np.arange(10).reshape(2, 5) % 3 == 0
    path = tmp_path / "case.npz"
    np.savez(
        path, **{"m.bits": np.packbits(mask), "m.shape": np.array(mask.shape)}, half=np.float16([0.5]), meta_json="{}"
    )
    arrays = read_arrays(path)
    assert arrays.keys() == {"m", "half"}
    np.testing.assert_array_equal(arrays["m"], mask)
    assert arrays["m"].dtype == arrays["half"].dtype == np.float32
