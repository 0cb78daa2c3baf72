# SPDX-License-Identifier: Apache-2.0
"""What reports say, as tables: completed, checked and refused with the place named."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from rsuper_kernels import FindingGroup, Findings, Tumour

NAMES = ("liver lesion", "kidney lesion", "liver")
REGIONS = {"liver": 3, "left kidney": 5, "right kidney": 6}


def findings(*groups: FindingGroup, **options) -> Findings:
    return Findings(groups, **{"batch_size": 2, "channels": NAMES, "region_names": REGIONS, **options})


@pytest.mark.parametrize(
    ("diameters", "completed", "volume"),
    [((10,), (10, 10, 10), 523.599), ((10, 11), (10, 11, 10.5), 604.757), ((9, 20, 14), (9, 20, 14), 1319.469)],
)
def test_sizes_are_completed(diameters, completed, volume):
    tumour = Tumour(diameters)
    assert tumour.diameters == completed
    assert tumour.volume == pytest.approx(volume, abs=1e-3)
    assert tumour.expected_volume == tumour.volume
    assert tumour.largest_diameter == max(completed)
    assert tumour.size_known


def test_a_given_volume_stands():
    assert Tumour((10.0, 12.0), volume=700).volume == 700


def test_unknown_size_is_the_smallest_plausible_tumour():
    tumour = Tumour(attenuation="hypo")
    assert (tumour.size_known, tumour.volume, tumour.diameters) == (False, None, None)
    assert (tumour.largest_diameter, tumour.expected_volume) == (5.0, 66.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"diameters": (-1.0,)}, ValueError, r"diameters: expected one to three positive lengths in mm, got \(-1.0,\)"),
        ({"diameters": (5.0, math.nan)}, ValueError, r"diameters: expected .* got \(5.0, nan\)"),
        ({"diameters": (0.0,)}, ValueError, "diameters: expected one to three positive lengths"),
        ({"diameters": (math.inf,)}, ValueError, "diameters: expected one to three positive lengths"),
        ({"diameters": ()}, ValueError, r"diameters: expected one to three positive lengths in mm, got \(\)"),
        ({"diameters": 12.0}, TypeError, "diameters: expected one to three lengths in mm as a tuple, got 12.0"),
        (
            {"diameters": ("wide",)},
            TypeError,
            r"diameters: expected one to three lengths in mm as a tuple, got \('wide',\)",
        ),
        ({"diameters": (12.0, 1200.0)}, ValueError, r"diameters: expected at most 500 mm, got \(12.0, 1200.0\)"),
        ({"volume": 500.0}, ValueError, "volume: 500.0 mm3 was given without diameters; give one to three diameters"),
        ({"diameters": (5.0,), "volume": 0.0}, ValueError, r"volume: expected a positive number of mm3 .* got 0.0"),
        ({"diameters": (5.0,), "volume": math.nan}, ValueError, "volume: expected a positive number of mm3 .* got nan"),
        ({"diameters": (5.0,), "volume": -3}, ValueError, "volume: expected a positive number of mm3 .* got -3"),
        (
            {"attenuation": "dark"},
            ValueError,
            "attenuation: expected one of hypo, iso, hyper, mixed, unknown, got 'dark'",
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else None,
)
def test_tumour_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        Tumour(**arguments)


def test_group():
    group = FindingGroup(0, "liver lesion", "liver", (Tumour((10.0,)), Tumour()))
    assert group.region == ("liver",)
    assert group.volume == pytest.approx(523.599 + 66, abs=1e-3)
    assert group.location_known
    assert group.open_ended  # one of its sizes is unknown
    assert not group.negative


@pytest.mark.parametrize(
    ("group", "negative", "location_known", "open_ended"),
    [
        (FindingGroup(0, 0, 3), True, True, False),
        (FindingGroup(0, 0), True, False, False),
        (FindingGroup(0, 0, (3, 4), (Tumour((5.0,)),)), False, True, False),
        (FindingGroup(0, 0, 3, (Tumour((5.0,)),), count_known=False), False, True, True),
        (FindingGroup(0, 0, 3, (Tumour(),)), False, True, True),
        (FindingGroup(0, 0, None, (Tumour((5.0,)),)), False, False, False),
    ],
    ids=["negative", "negative everywhere", "sized", "multiple", "unsized", "somewhere"],
)
def test_what_a_group_says(group, negative, location_known, open_ended):
    assert (group.negative, group.location_known, group.open_ended) == (negative, location_known, open_ended)


def test_multiple_undescribed_tumours_are_at_least_one_of_unknown_size():
    group = FindingGroup(0, 0, 3, count_known=False)
    assert group.tumours == (Tumour(),)
    assert not group.negative


def test_names_become_numbers():
    table = findings(FindingGroup(1, "kidney lesion", ("left kidney", 6)), annotated={(0, "liver lesion")})
    assert table.groups[0].channel == 1
    assert table.groups[0].region == (5, 6)
    assert table.annotated == {(0, 0)}
    assert [table.channel_name(c) for c in range(3)] == list(NAMES)
    assert Findings(channels=2).channel_name(1) == "channel 1"


def test_status_and_planes():
    groups = (
        FindingGroup(0, 0, 3, (Tumour((9.0,)),)),
        FindingGroup(1, 1, 5),
        FindingGroup(0, 0, 5),
        FindingGroup(1, 0, 3, (Tumour((9.0,)),)),
    )
    table = findings(*groups, lesion_channels=("liver lesion", "kidney lesion"), annotated={(1, 0)})
    assert table.planes() == {(0, 0): [0, 2], (1, 1): [1]}
    status = {(b, c): table.status(b, c) for b in range(2) for c in range(3)}
    assert status == {
        (0, 0): "reported",
        (0, 1): "unknown",
        (0, 2): "annotated",  # holds no tumours
        (1, 0): "annotated",
        (1, 1): "negative",
        (1, 2): "annotated",
    }


def test_no_findings():
    table = Findings(batch_size=2, channels=3)
    assert table.planes() == {}
    assert {table.status(b, c) for b in range(2) for c in range(3)} == {"unknown"}


def test_tables_do_not_change():
    table = findings(FindingGroup(0, 0, 3))
    with pytest.raises(FrozenInstanceError):
        table.batch_size = 5


def test_collate_shifts_samples():
    first = findings(FindingGroup(1, 0, 3, (Tumour((9.0,)),)), annotated={(0, 1)})
    second = findings(FindingGroup(0, 1, 5), FindingGroup(1, 0, 3), annotated={(1, 2)})
    joined = Findings.collate([first, second])
    assert joined.batch_size == 4
    assert [(g.sample, g.channel) for g in joined.groups] == [(1, 0), (2, 1), (3, 0)]
    assert joined.annotated == {(0, 1), (3, 2)}
    assert joined.groups[0].tumours == first.groups[0].tumours


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "collate: expected at least one Findings, got none"),
        ([Findings(channels=2), Findings(channels=3)], "collate: findings 1 are over channels 3, findings 0 over 2"),
        (
            [Findings(channels=2, region_names={"liver": 3}), Findings(channels=2, region_names={"liver": 4})],
            "collate: findings 1 name their regions {'liver': 4}, findings 0 {'liver': 3}",
        ),
    ],
    ids=["nothing", "channels", "regions"],
)
def test_collate_refusals(batch, message):
    with pytest.raises(ValueError, match=message):
        Findings.collate(batch)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (FindingGroup(2, 0), r"groups\[0\]: expected a sample from 0 to 1, got 2"),
        (FindingGroup(-1, 0), r"groups\[0\]: expected a sample from 0 to 1, got -1"),
        (FindingGroup(0, 3), r"groups\[0\]: expected a channel from 0 to 2, got 3"),
        (
            FindingGroup(0, "spleen lesion"),
            r"groups\[0\]: no channel 'spleen lesion'; the channels are liver lesion, kid",
        ),
        (FindingGroup(0, "liver"), r"groups\[0\]: liver \(sample 0\) is not among the lesion channels"),
        (FindingGroup(1, 0, 4), r"groups\[0\] \(sample 1, liver lesion\): region id 4 does not exist; .*\[3, 5, 6\]"),
        (
            FindingGroup(1, 1, "spleen"),
            r"groups\[0\] \(sample 1, kidney lesion\): no region 'spleen'; region_names: liver, l",
        ),
    ],
    ids=["sample", "negative sample", "channel", "channel name", "organ channel", "region id", "region name"],
)
def test_group_refusals(group, message):
    with pytest.raises(ValueError, match=message):
        findings(group, lesion_channels=(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lesion_channels": (5,)}, "lesion_channels: expected a channel from 0 to 2, got 5"),
        ({"lesion_channels": ("lung lesion",)}, "lesion_channels: no channel 'lung lesion'"),
        ({"annotated": {(2, 0)}}, "annotated: expected a sample from 0 to 1, got 2"),
        ({"annotated": {(0, 7)}}, "annotated: expected a channel from 0 to 2, got 7"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_table_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        findings(**options)


def test_names_need_tables_of_names():
    with pytest.raises(ValueError, match="channel 'liver lesion' was given by name; give Findings the channels' names"):
        Findings((FindingGroup(0, "liver lesion"),), channels=2)
    with pytest.raises(ValueError, match=r"groups\[0\] .*no region 'liver'; region_names: none were given"):
        Findings((FindingGroup(0, 0, "liver"),), channels=2)
    with pytest.raises(ValueError, match=r"region id -1 does not exist; expected ids of at least 0"):
        Findings((FindingGroup(0, 0, -1),), channels=2)


def test_kinds_are_checked():
    with pytest.raises(TypeError, match=r"tumours: expected a sequence of Tumour, got Tumour\("):
        FindingGroup(0, 0, 3, Tumour((9.0,)))
    with pytest.raises(TypeError, match=r"tumours: expected a sequence of Tumour, got \[9.0\]"):
        FindingGroup(0, 0, 3, [9.0])
    with pytest.raises(TypeError, match=r"groups\[0\]: expected the sample's index in the batch, got 0.5"):
        findings(FindingGroup(0.5, 0, 3))


def test_contradictions_are_refused():
    tumour = FindingGroup(1, 0, 3, (Tumour((9.0,)),))
    with pytest.raises(
        ValueError, match=r"sample 1, liver lesion: a negative for the whole patch .* beside reported tumours"
    ):
        findings(tumour, FindingGroup(1, 0))
    # in another sample or channel, of a region, or on a plane whose labels decide, it does not contradict
    findings(tumour, FindingGroup(0, 0), FindingGroup(1, 1), FindingGroup(1, 0, 5))
    findings(tumour, FindingGroup(1, 0), annotated={(1, 0)})


def test_numbers_of_numpy_are_numbers():
    group = FindingGroup(np.int64(1), np.int64(0), np.int64(3), [Tumour(np.array([9.0, 8.0]))])
    table = findings(group)
    assert table.groups[0] == findings(FindingGroup(1, 0, 3, (Tumour((9.0, 8.0)),))).groups[0]
