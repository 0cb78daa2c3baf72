# SPDX-License-Identifier: Apache-2.0
"""Which cases are trained on, where their crops lie, and what is known in them."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rsuper_kernels import ReportSupervisedLoss
from rsuper_train.cases import Cases, fits
from rsuper_train.config import Augmentation, Config, Data, Sampling, Stage
from rsuper_train.reports.schema import NO_TEXT, Place, Report, Tumour
from rsuper_train.reports.table import write_table
from rsuper_train.samples import TrainingCrops, ValidationCrops, _start, collate
from tests.train.prepared import IDS, PreparedCase, ball, write_prepared

SHAPE = (40, 48, 56)
PATCH = (24, 32, 32)
CHANNELS = ("liver_lesion", "kidney_lesion", "spleen")
SEGMENT = Tumour(organ="liver", subsegments=("segment 5",), diameters=(8.0,), attenuation="hypo")
LEFT = Tumour(organ="kidney", laterality="left", diameters=(6.0, 5.0))
UNCHANGED = Augmentation(flip=(), affine=0.0, noise=0.0, blur=0.0, brightness=0.0, gamma=0.0, low_resolution=0.0)
EMPTY = np.zeros(SHAPE, bool)
LIVER_BALL = ball(SHAPE, (20, 14, 24), 3)


def labels() -> np.ndarray:
    """A liver of three parts, all of which a patch holds but the last, two kidneys and a spleen."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:32, 4:24, 18:50] = IDS["liver_segment_8"]
    labels[12:26, 6:20, 18:34] = IDS["liver_segment_5"]
    labels[14:24, 30:40, 6:14] = IDS["kidney_left"]
    labels[14:24, 30:40, 40:48] = IDS["kidney_right"]
    labels[4:10, 30:40, 20:30] = IDS["spleen"]
    return labels


def ct(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 200, SHAPE).astype(np.int16)


CASES = {
    "both": PreparedCase(ct(1), labels(), {"liver_lesion": LIVER_BALL, "kidney_lesion": EMPTY}),
    "liver": PreparedCase(ct(2), labels(), {"liver_lesion": LIVER_BALL}),
    "small": PreparedCase(ct(3), labels()),
    "large": PreparedCase(ct(4), labels()),
    "healthy": PreparedCase(ct(5), labels()),
    "silent": PreparedCase(ct(6), labels()),
    "nothing": PreparedCase(ct(7), labels()),
}
REPORTS = [
    Report(id="liver", tumours=(LEFT,)),
    Report(id="small", tumours=(SEGMENT,), negatives=(Place(organ="kidney"),)),
    Report(id="large", tumours=(Tumour(organ="liver", diameters=(30.0,)),), negatives=(Place(organ="kidney"),)),
    Report(id="healthy", negatives=(Place(organ="liver"), Place(organ="kidney"))),
    Report(id="silent", flags=(NO_TEXT,)),
    Report(id="stranger", tumours=(SEGMENT,)),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    write_prepared(folder, CASES)
    write_table(REPORTS, folder / "reports.csv")
    return folder


def configuration(prepared: Path, ratio: float = 0.5, augmentation: Augmentation = UNCHANGED, **data: object) -> Config:
    values = {"prepared": prepared, "reports": prepared / "reports.csv", "patch": PATCH, "channels": CHANNELS, **data}
    return Config(data=Data(**values), augmentation=augmentation, stages=(Stage(report_ratio=ratio),))


def crops(config: Config) -> TrainingCrops:
    return TrainingCrops(Cases(config.data), config)


def test_cases_are_what_their_masks_and_reports_make_them(prepared: Path) -> None:
    cases = Cases(configuration(prepared).data)
    assert cases.mask_cases == ("both", "liver")
    assert cases.report_cases == ("healthy", "large", "small")
    notes = " | ".join(cases.notes)
    assert "not prepared: 1 (stranger)" in notes
    assert "say nothing: 1 (silent)" in notes
    assert "not used: 2 (nothing, silent)" in notes
    assert "teach nothing: no region of theirs fits a patch of 24 x 32 x 32: 1 (large)" in notes


def test_a_report_of_a_case_without_its_organs_is_noted(tmp_path: Path) -> None:
    empty = PreparedCase(ct(), np.zeros(SHAPE, np.uint8))
    write_prepared(tmp_path, {"empty": empty, "small": CASES["small"]}, channels=["liver_lesion"])
    write_table([Report(id="empty", tumours=(SEGMENT,)), REPORTS[1]], tmp_path / "reports.csv")
    cases = Cases(configuration(tmp_path, channels=("liver_lesion", "pancreatic_lesion")).data)
    assert cases.report_cases == ("small",)
    assert any("organs found in the CT: 1 (empty)" in note for note in cases.notes)
    assert any("says anything about: 1 (pancreatic_lesion)" in note for note in cases.notes)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (("liver_lesions",), "did you mean 'liver_lesion'"),
        (("xyz",), "those of lesions are adrenal_lesion"),
        (("spleen",), "expected 'lesion', or lesion channels"),
        (("lesion", "liver_lesion"), "not both"),
        (("liver_lesion", "liver_lesion"), "each once"),
    ],
)
def test_channels_that_do_not_fit_are_named(prepared: Path, channels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cases(configuration(prepared, channels=channels).data)


@pytest.mark.parametrize(
    ("ratio", "data", "message"),
    [
        (0.5, {"reports": None}, "stages.0.report_ratio is 0.5, and no case without masks has a report"),
        (0.5, {"channels": ("pancreatic_lesion",)}, "set the ratio to 1"),
    ],
)
def test_a_ratio_without_such_cases_is_refused(prepared: Path, ratio: float, data: dict, message: str) -> None:
    config = configuration(prepared, ratio, **data)
    cases = Cases(config.data)
    if "channels" in data:
        cases.report_cases = ("small",)
    with pytest.raises(ValueError, match=message):
        TrainingCrops(cases, config)


def test_validation_cases_are_held_out(prepared: Path, tmp_path: Path) -> None:
    listed = tmp_path / "validation.txt"
    listed.write_text("liver\nhealthy\n\ngone\n")
    cases = Cases(configuration(prepared, validation=listed).data)
    assert cases.validation == ("healthy", "liver")
    assert cases.mask_cases == ("both",)
    assert any("not prepared: 1 (gone)" in note for note in cases.notes)
    listed.write_text("gone\n")
    with pytest.raises(ValueError, match="names none of the 7"):
        Cases(configuration(prepared, validation=listed).data)
    with pytest.raises(FileNotFoundError, match="one id a line"):
        Cases(configuration(prepared, validation=tmp_path / "none.txt").data)


def test_a_share_of_validation_cases_does_not_move_with_other_cases(tmp_path: Path) -> None:
    many = {
        f"case{i}": PreparedCase(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), {"lesion": np.zeros((1, 1, 1), bool)})
        for i in range(60)
    }
    held_out = []
    for count in (30, 60):
        write_prepared(tmp_path / str(count), dict(list(many.items())[:count]))
        held_out.append(set(Cases(Data(prepared=tmp_path / str(count), validation=0.3)).validation))
    assert held_out[0] == {id for id in held_out[1] if int(id.removeprefix("case")) < 30}
    assert 9 <= len(held_out[1]) <= 27


@given(ratio=st.sampled_from([0.0, 0.1, 0.29, 1 / 3, 0.5, 0.75, 1.0]), start=st.integers(0, 10**7))
@settings(max_examples=40, deadline=None)
def test_ratios_are_exact_and_every_case_is_seen_once_per_round(ratio: float, start: int) -> None:
    config = Config(stages=(Stage(report_ratio=ratio),))
    drawn = TrainingCrops(_FakeCases(), config)
    drawn._crops = _FakeCrops(drawn._crops.cases)  # type: ignore[assignment]
    count = 1000
    ids = [drawn[n] for n in range(start, start + count)]
    reports = [id for id in ids if id.startswith("report")]
    assert abs(len(reports) - ratio * count) <= 1
    for pool, size in ((reports, 5), ([id for id in ids if id.startswith("mask")], 3)):
        seen = collections.Counter(pool)
        assert len(pool) < 2 * size or max(seen.values()) - min(seen[id] for id in seen) <= 2


class _FakeCases:
    lesions, mask_cases = ("lesion",), ("mask0", "mask1", "mask2")
    report_cases = ("report0", "report1", "report2", "report3", "report4")


class _FakeCrops:
    def __init__(self, cases: object) -> None:
        self.cases = cases

    def make(self, id: str, *_: object) -> str:
        return id


def test_rounds_hold_every_case_once(prepared: Path) -> None:
    drawn = crops(configuration(prepared, 1.0))
    rounds = [[drawn[3 * k + i].case_id for i in range(3)] for k in range(6)]
    assert all(sorted(ids) == ["healthy", "large", "small"] for ids in rounds)
    assert len({tuple(ids) for ids in rounds}) > 1


def test_the_same_number_is_the_same_crop_in_any_order_and_process(prepared: Path) -> None:
    config = configuration(prepared, augmentation=Augmentation(affine=0.5, noise=0.5, transpose=True))
    drawn = crops(config)
    forward = [drawn[n] for n in range(6)]
    copied = pickle.loads(pickle.dumps(drawn))
    loader = DataLoader(crops(config), batch_size=2, sampler=range(6), num_workers=2, collate_fn=collate)
    images = torch.cat([batch.image for batch in loader])
    for n in reversed(range(6)):
        again = copied[n]
        assert again.case_id == forward[n].case_id
        assert again.findings == forward[n].findings
        for name in ("image", "ct", "regions", "labels"):
            assert torch.equal(getattr(again, name), getattr(forward[n], name)), name
        assert torch.equal(images[n], forward[n].image)
    assert not torch.equal(forward[0].ct, crops(config.model_copy(update={"seed": 1}))[0].ct)


def test_crops_of_a_report_hold_all_of_a_region_that_it_names(prepared: Path) -> None:
    drawn = crops(configuration(prepared, 1.0, Augmentation(affine=0.7, transpose=True)))
    voxels = int((labels() == IDS["liver_segment_5"]).sum())
    whole, scales = 0, set()
    samples = [sample for n in range(90) if (sample := drawn[n]).case_id == "small"]
    for sample in samples:
        groups = [group for group in sample.findings.groups if not group.negative]
        inside = int((sample.regions == IDS["liver_segment_5"]).sum())
        if groups:
            whole += 1
            scale = groups[0].tumours[0].largest_diameter / 8
            scales.add(round(scale, 3))
            assert inside == pytest.approx(voxels * scale**3, rel=0.05)
            assert groups[0].volume == pytest.approx(np.pi / 6 * 8**3 * scale**3)
        elif inside:
            mask = sample.unknown
            assert mask is not None
            assert torch.equal(mask[0], sample.regions == IDS["liver_segment_5"])
    assert whole >= 0.7 * len(samples)
    assert len(scales) > 5
    assert all(0.8 <= scale <= 1.25 for scale in scales)


def test_a_region_that_does_not_fit_is_unknown_and_negatives_still_teach(prepared: Path) -> None:
    drawn = crops(configuration(prepared, 1.0))
    samples = [sample for n in range(30) if (sample := drawn[n]).case_id == "large"]
    assert all(group.negative for sample in samples for group in sample.findings.groups)
    assert any(sample.findings.groups for sample in samples)
    liver = [IDS["liver_segment_5"], IDS["liver_segment_8"]]
    for sample in samples:
        seen = torch.isin(sample.regions, torch.tensor(liver, dtype=torch.uint8))
        assert seen.any() == (sample.unknown is not None)
        if sample.unknown is not None:
            assert torch.equal(sample.unknown[0], seen)
            assert any("cuts the region" in note for note in sample.notes)


def test_planes_are_known_from_masks_then_reports(prepared: Path) -> None:
    config = configuration(prepared, 0.0).model_copy(update={"sampling": Sampling(tumour_share=1.0, organ_share=0.0)})
    drawn = crops(config)
    by_case = {sample.case_id: sample for sample in (drawn[0], drawn[1])}
    both, liver = by_case["both"], by_case["liver"]
    assert [both.findings.status(0, c) for c in range(3)] == ["annotated"] * 3
    assert liver.findings.status(0, 0) == liver.findings.status(0, 2) == "annotated"
    assert liver.findings.status(0, 1) in ("reported", "unknown")  # as the crop has the left kidney, or not
    for sample in (both, liver):
        assert sample.labels[0].any()  # the crop is around the tumour
        assert not sample.labels[1].any()
        assert torch.equal(sample.labels[2].bool(), sample.regions == IDS["spleen"])


def test_tumours_of_all_organs_are_known_where_their_masks_are(prepared: Path) -> None:
    drawn = crops(configuration(prepared, 0.0, channels=("lesion",)))
    by_case = {sample.case_id: sample for sample in (drawn[0], drawn[1])}
    assert by_case["both"].unknown is None
    partial = by_case["liver"]
    liver = torch.isin(
        partial.regions, torch.tensor([IDS["liver_segment_5"], IDS["liver_segment_8"]], dtype=torch.uint8)
    )
    assert partial.unknown is not None
    assert torch.equal(partial.unknown[0], ~liver & (partial.labels[0] == 0))
    assert partial.findings.status(0, 0) == "annotated"


def test_shares_of_mask_crops(prepared: Path) -> None:
    config = configuration(prepared, 0.0, patch=(8, 8, 8))
    shares = Sampling(tumour_share=0.6, organ_share=0.0)
    drawn = crops(config.model_copy(update={"sampling": shares}))
    with_tumour = np.mean([bool(drawn[n].labels[0].any()) for n in range(120)])
    assert 0.5 < with_tumour < 0.8


def test_a_patch_larger_than_the_volume_is_padded(prepared: Path) -> None:
    drawn = crops(configuration(prepared, 0.5, patch=(48, 40, 60)))
    for n in range(4):
        sample = drawn[n]
        assert sample.ct.shape == (1, 48, 40, 60)
        assert (sample.ct[0, :4] == -1000).all()
        assert (sample.ct[0, :, :, :2] == -1000).all()
        assert not sample.regions[-4:].any()
        inner = sample.ct[0, 4:44, :, 2:58].numpy()
        whole = CASES[sample.case_id].ct
        assert any(np.array_equal(inner, whole[:, start : start + 40]) for start in range(9))


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.data()), min_size=1, max_size=1),
    st.integers(0, 2**32),
)
def test_starts_hold_the_box_and_stay_in_the_volume(axis: list, seed: int) -> None:
    [(n, s, data)] = axis
    first = data.draw(st.integers(0, n - 1))
    end = data.draw(st.integers(first + 1, n))
    [start] = _start([(first, end)], (s,), (n,), np.random.default_rng(seed))  # type: ignore[arg-type]
    if n > s:
        assert 0 <= start <= n - s
    if fits([(first, end)], (s,), (n,)):  # type: ignore[arg-type]
        assert start <= max(first - 1, 0)
        assert min(end + 1, n) <= start + s


def test_a_damaged_array_names_its_case_and_file(tmp_path: Path) -> None:
    write_prepared(tmp_path, {"both": CASES["both"]})
    drawn = crops(configuration(tmp_path, 0.0, reports=None))
    path = tmp_path / "cases" / "both" / "ct.b2nd"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"case both: .*ct\.b2nd cannot be read: .*prepare the data again"):
        drawn[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"case both: .*ct\.b2nd cannot be read"):
        drawn[0]


def test_validation_crops_are_fixed(prepared: Path, tmp_path: Path) -> None:
    listed = tmp_path / "validation.txt"
    listed.write_text("both\nsmall\nlarge\n")
    config = configuration(prepared, augmentation=Augmentation(), validation=listed)
    kept = ValidationCrops(Cases(config.data), config)
    listed.write_text("small\n")
    alone = ValidationCrops(Cases(config.data), config)
    assert [sample.case_id for sample in kept] == ["both", "large", "small"]
    assert torch.equal(kept[2].image, alone[0].image)


def test_a_batch_goes_through_the_loss(prepared: Path) -> None:
    drawn = crops(configuration(prepared, augmentation=Augmentation(affine=1.0, transpose=True)))
    batch = collate([drawn[n] for n in range(6)]).to("cpu", non_blocking=True)
    assert len(batch) == 6
    assert batch.unknown is not None
    criterion = ReportSupervisedLoss(check=True)
    logits = torch.zeros(6, len(CHANNELS), *PATCH, requires_grad=True)
    total = 0.0
    for i in range(len(batch)):
        part = slice(i, i + 1)
        total = (
            total
            + criterion(
                logits[part],
                batch.findings[i],
                batch.regions[part],
                batch.spacing[i],
                ct=batch.ct[part],
                labels=batch.labels[part],
                unknown=batch.unknown[part],
            )["total"]
        )
    total.backward()
    assert torch.isfinite(logits.grad).all()
    assert all(logits.grad[i].any() for i in range(6))
