"""What training scans were like: scans within pass, scans outside are told, and what nobody knows is not told."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from voxelsam import config
from voxelsam.space.grid import Grid
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.ranges import LEVELS, Look, Ranges, Span, look, measure, seen

CT = Intensity("window", low=-100, high=300)
FLAT = tuple(0.1 + level / 200 for level in LEVELS)
USUAL = Look((0.8, 0.8, 5.0), (512, 512, 40), (FLAT,))
OTHER = Look((0.9, 0.9, 4.0), (512, 512, 60), (FLAT,))
RANGES = Ranges.of([USUAL, OTHER], [{"liver": 1200.0, "tumour": 0.0}, {"liver": 1600.0, "tumour": 5.0}])


def test_the_training_scans_themselves_are_inside() -> None:
    assert [RANGES.outside(one, ["CT"]) for one in (USUAL, OTHER)] == [{}, {}]


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"spacing": (0.8, 0.8, 7.6)}, ["spacing of slices"]),
        ({"spacing": (0.8, 0.8, 2.6)}, ["spacing of slices"]),
        ({"spacing": (0.8, 0.8, 7.4)}, []),
        ({"spacing": (2.0, 0.8, 5.0)}, ["spacing of columns"]),
        ({"size": (512, 512, 19)}, ["number of slices"]),
        ({"size": (512, 512, 121)}, ["number of slices"]),
        ({"size": (512, 512, 21)}, []),
        ({"size": (512, 100, 40)}, ["number of rows"]),
        ({"intensity": (tuple(value + 0.2 for value in FLAT),)}, ["intensities of CT"]),
        ({"intensity": (tuple(value + 0.1 for value in FLAT),)}, []),
        ({"intensity": ()}, []),
        ({"spacing": (0.8, 0.8, 900.0), "size": (512, 512, 4000), "along_k": "time"}, []),
    ],
)
def test_what_lies_outside_is_told(change: dict[str, object], about: list[str]) -> None:
    assert list(RANGES.outside(replace(USUAL, **change), ["CT"])) == about  # type: ignore[arg-type]


def test_the_message_holds_both_numbers() -> None:
    (text,) = RANGES.outside(replace(USUAL, spacing=(0.8, 0.8, 10.0)), ["CT"]).values()
    assert text == "slices lie 10 mm apart, training had 4 to 5 mm (median 4.5)"


@pytest.mark.parametrize(
    ("name", "millilitres", "complaint"),
    [
        ("liver", 1300, ""),
        ("liver", 599, "599 ml, training had 1.2e\\+03 to 1.6e\\+03 ml"),
        ("liver", 3201, "3.2e\\+03 ml"),
        ("liver", 0, "absent, but each of the 2"),
        ("tumour", 0, ""),
        ("tumour", 11, "tumour has 11 ml"),
        ("spleen", 5, ""),
    ],
)
def test_odd_volumes(name: str, millilitres: float, complaint: str) -> None:
    text = RANGES.odd_volume(name, millilitres)
    assert bool(text) == bool(complaint)
    assert re.search(complaint, text)


def test_they_survive_json() -> None:
    assert config.parse(Ranges, json.loads(json.dumps(config.plain(RANGES)))) == RANGES


def test_one_case_without_intensities_leaves_them_out() -> None:
    assert Ranges.of([USUAL, replace(OTHER, intensity=())], [{}, {}]).intensity == ()


def test_quantiles_of_a_large_scan_are_near_those_of_all_voxels() -> None:
    data = np.random.default_rng(0).normal(50, 20, (2, 160, 150, 90)).astype(np.float32)
    assert len(measure(data)) == 2
    np.testing.assert_allclose(measure(data)[1], np.percentile(data[1], LEVELS), atol=0.5)


def test_a_fixed_scale_shows_other_units_and_an_own_scale_does_not() -> None:
    data = np.random.default_rng(0).normal(50, 20, (1, 20, 20, 20))
    ours, shifted = measure(data), measure(data * 10 + 1000)
    own = Intensity("percentile")
    assert seen(ours, CT) != seen(shifted, CT)
    np.testing.assert_allclose(seen(ours, own), seen(shifted, own))
    assert all(0 <= value <= 1 for value in seen(shifted, CT)[0])


def test_a_constant_scan_has_a_look() -> None:
    assert seen(((5.0,) * len(LEVELS),), Intensity("minmax")) == ((0.0,) * len(LEVELS),)


def test_the_look_follows_the_plane_and_not_the_order_of_axes() -> None:
    quantiles = ((0.0,) * len(LEVELS),)
    sagittal = Grid((9, 40, 36), np.array([[0, 2.0, 0, 0], [0, 0, 3.0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]]))
    axial = Grid((40, 36, 9), np.diag([2.0, 3.0, 5.0, 1.0]))
    first, second = (look(grid, quantiles, "auto", CT) for grid in (sagittal, axial))
    assert first == second
    assert first.spacing == pytest.approx((2, 3, 5))
    assert first.size == (40, 36, 9)


def test_span_is_least_median_greatest() -> None:
    assert Span.of([3, 1, 10]) == Span(1, 3, 10)
