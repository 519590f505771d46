"""What a structure of one case scores under every rule, in space, on pictures and in films."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from voxelsam.errors import ConfigError
from voxelsam.evaluate import presets, surface
from voxelsam.evaluate.measures import definitions, heading, measure, over_cases, scale_of
from voxelsam.evaluate.metrics import dice
from voxelsam.evaluate.presets import DEFAULT, PRESETS, Preset
from voxelsam.space.grid import Grid

EVERYTHING = replace(
    DEFAULT,
    metrics=("HD", "HD95", "HD95_pooled", "ASSD", "ASD", "NSD", "RVE", "RAVD", "VD", "lesions", "multi_threshold"),
)
LENGTHS = ("HD", "HD95", "HD95_pooled", "ASSD", "ASD")
SHAPE = (8, 7, 6)


def scan(shape=SHAPE, spacing=(1.0, 2.0, 5.0), along="space"):
    return Grid(shape, np.diag([*spacing, 1.0]), along)


@pytest.fixture
def pair():
    truth, guess = np.zeros((2, *SHAPE), bool)
    truth[2:6, 2:5, 1:4], guess[3:6, 2:5, 1:5] = True, True
    return guess, truth


NONE = np.zeros(SHAPE, bool)
DIAGONAL = math.hypot(7 * 1.0, 6 * 2.0, 5 * 5.0)


def test_values_are_those_of_the_functions(pair):
    found = measure(*pair, scan(), EVERYTHING)
    apart = surface.distances(*pair, (1.0, 2.0, 5.0))
    assert [found[name] for name in LENGTHS] == [apart.hd, apart.hd95, apart.hd95_pooled, apart.assd, apart.asd]
    assert found["NSD"] == surface.nsd(*pair, (1.0, 2.0, 5.0), 2.0)
    assert found["lesion_F1"] == found["lesion_sensitivity"] == found["lesion_precision"] == 1
    assert (found["lesion_n_ref"], found["lesion_n_pred"]) == (1, 1)


def test_volume_errors_by_hand(pair):
    guess, truth = pair
    assert (guess.sum(), truth.sum()) == (36, 36)
    guess[0, 0, 0:2] = True
    found = measure(guess, truth, scan(), EVERYTHING)
    assert found["RVE"] == found["RAVD"] == pytest.approx(100 * 2 / 36)
    assert found["VD"] == pytest.approx(2 * 10 / 1000)
    found = measure(truth, guess, scan(), EVERYTHING)
    assert found["RVE"] == -found["RAVD"] == pytest.approx(-100 * 2 / 38)
    assert found["VD"] == pytest.approx(-2 * 10 / 1000)


def test_only_what_was_asked_for_is_there(pair):
    assert measure(*pair, scan(), replace(DEFAULT, metrics=())) == {}
    assert list(measure(*pair, scan(), replace(DEFAULT, metrics=("VD", "NSD")))) == ["NSD", "VD"]
    assert set(measure(*pair, scan(), DEFAULT)) == {"HD95", "NSD", "ASSD", "RVE", "VD"}


BOTH = {
    "nan": (math.nan, math.nan, math.nan),
    "one": (0, 1, 0),
    "zero": (math.nan, 0, math.nan),
}


@pytest.mark.parametrize("rule", BOTH)
def test_a_structure_in_neither_mask(rule):
    far, share, error = BOTH[rule]
    found = measure(NONE, NONE, scan(), replace(EVERYTHING, empty=rule))
    assert [found[name] for name in LENGTHS] == pytest.approx([far] * 5, nan_ok=True)
    shares = ("NSD", "lesion_F1", "lesion_sensitivity", "lesion_precision")
    assert [found[name] for name in shares] == pytest.approx([share] * 4, nan_ok=True)
    assert [found[name] for name in ("RVE", "RAVD", "VD")] == pytest.approx([error] * 3, nan_ok=True)


@pytest.mark.parametrize("rule", ["nan", "one", "zero"])
@pytest.mark.parametrize(("penalty", "far"), [("none", math.nan), ("diagonal", DIAGONAL)])
def test_a_structure_in_one_mask_only(pair, rule, penalty, far):
    preset = replace(EVERYTHING, empty=rule, penalty=penalty)
    missed, made_up = measure(NONE, pair[1], scan(), preset), measure(pair[1], NONE, scan(), preset)
    for found in (missed, made_up):
        assert [found[name] for name in LENGTHS] == pytest.approx([far] * 5, nan_ok=True)
        assert found["NSD"] == found["lesion_F1"] == 0
    assert (missed["RVE"], missed["VD"]) == (-100, pytest.approx(-0.36))
    assert math.isnan(made_up["RVE"])
    assert made_up["VD"] == pytest.approx(0.36)
    assert (missed["lesion_sensitivity"], made_up["lesion_precision"]) == (0, 0)
    assert math.isnan(missed["lesion_precision"])


def test_zero_with_a_penalty_makes_absent_structures_far_away():
    preset = replace(EVERYTHING, empty="zero", penalty="diagonal")
    assert measure(NONE, NONE, scan(), preset)["HD"] == pytest.approx(DIAGONAL)
    film = scan(SHAPE, (1.0, 1.0, 0.04), "time")
    assert measure(NONE, NONE, film, preset)["HD"] == pytest.approx(math.hypot(7, 6))


def test_voxels_ignore_the_spacing(pair):
    in_voxels = measure(*pair, scan(), replace(EVERYTHING, units="voxel"))
    assert [in_voxels[name] for name in LENGTHS] == pytest.approx(
        [measure(*pair, scan(spacing=(1.0, 1.0, 1.0)), EVERYTHING)[name] for name in LENGTHS]
    )
    assert in_voxels["VD"] == measure(*pair, scan(), EVERYTHING)["VD"]


@pytest.mark.parametrize(
    ("grid", "units", "unit", "spacing"),
    [
        (scan(), "mm", "mm", (1, 2, 5)),
        (scan(), "voxel", "voxel", (1, 1, 1)),
        (scan(spacing=(1.0, 1.0, 1.0)), "mm", "mm", (1, 1, 1)),
        (scan((8, 7, 1), (1.0, 1.0, 1.0), "single"), "mm", "px", (1, 1, 1)),
        (scan((8, 7, 1), (0.2, 0.3, 4.0), "single"), "mm", "mm", (0.2, 0.3, 1)),
        (scan(SHAPE, (1.0, 1.0, 0.04), "time"), "mm", "px", (1, 1, 1)),
        (scan(SHAPE, (0.5, 0.5, 0.04), "time"), "voxel", "voxel", (1, 1, 1)),
    ],
)
def test_units(grid, units, unit, spacing):
    scale = scale_of(grid, units)
    assert scale.unit == unit
    assert scale.spacing == pytest.approx(spacing)
    assert scale.framewise is (grid.along_k == "time")


def test_pictures_and_single_slices_are_measured_in_their_plane(pair):
    guess, truth = (mask[:, :, 2:3] for mask in pair)
    planar = surface.distances(guess[..., 0], truth[..., 0], (1.0, 2.0))
    for along in ("single", "space"):
        found = measure(guess, truth, scan((8, 7, 1), along=along), EVERYTHING)
        assert [found["HD"], found["ASSD"]] == [planar.hd, planar.assd]
        assert found["NSD"] == surface.nsd(guess[..., 0], truth[..., 0], (1.0, 2.0), 2.0)
        assert ("VD" in found) is (along == "space")


def test_films_are_measured_frame_by_frame(pair):
    guess, truth = pair
    film = scan(SHAPE, (1.0, 1.0, 0.04), "time")
    guess, truth = guess[..., 1:4], truth[..., 1:4].copy()
    truth[:, :, 2] = np.roll(truth[:, :, 2], 2, 0)
    film = scan((8, 7, 3), (1.0, 1.0, 0.04), "time")
    found = measure(guess, truth, film, EVERYTHING)
    each = [surface.distances(guess[..., frame], truth[..., frame], (1.0, 1.0)) for frame in range(3)]
    assert found["HD"] == pytest.approx(np.mean([frame.hd for frame in each]))
    assert found["HD95"] == pytest.approx(np.mean([frame.hd95 for frame in each]))


def test_frames_without_the_structure_do_not_count_and_one_that_only_one_mask_shows_spoils_the_distance():
    film = scan(SHAPE, (1.0, 1.0, 0.04), "time")
    truth, guess = np.zeros((2, *SHAPE), bool)
    truth[2:5, 2:5, 1:3] = guess[3:6, 2:5, 1:3] = True
    assert measure(guess, truth, film, EVERYTHING)["HD"] == 1
    guess[:, :, 2] = False
    found = measure(guess, truth, film, EVERYTHING)
    assert math.isnan(found["HD"])
    assert found["NSD"] == 0.5
    punished = measure(guess, truth, film, replace(EVERYTHING, penalty="diagonal"))
    assert punished["HD"] == pytest.approx((1 + math.hypot(7, 6)) / 2)


def test_lesions_follow_the_choices(pair):
    guess, truth = pair
    guess[0, 0, 0] = True
    assert measure(guess, truth, scan(), EVERYTHING)["lesion_n_pred"] == 2
    assert measure(guess, truth, scan(), replace(EVERYTHING, smallest_lesion=11))["lesion_n_pred"] == 1
    strict = replace(EVERYTHING, match="iou", match_iou=0.99)
    assert measure(guess, truth, scan(), strict)["lesion_F1"] == 0


def test_soft_masks_are_cut_at_every_threshold(pair):
    truth = pair[1]
    sure, unsure = truth.astype(np.float32), 0.6 * truth.astype(np.float32)
    assert measure(truth, truth, scan(), EVERYTHING, sure)["Dice_multi"] == pytest.approx(1)
    assert measure(truth, truth, scan(), EVERYTHING)["Dice_multi"] == pytest.approx(1)
    found = measure(truth, truth, scan(), EVERYTHING, unsure)
    slices = 3 / 6  # of six slices three are empty, and score 1 at every threshold
    assert found["IoU_multi"] == pytest.approx(slices + slices * 3 / 5, abs=1e-4)


def test_over_cases_counts_what_is_left_out():
    cases = [{"HD": 2.0}, {"HD": 4.0}, {"HD": math.nan}, {"HD": math.nan}, {}]
    found = over_cases("HD", cases, cases[:3])
    assert (found.mean, found.deviation, found.cases, found.undefined) == (3, 1, 2, 1)
    assert math.isnan(over_cases("HD", [{"HD": math.nan}], []).mean)


def test_every_value_has_a_definition_and_a_heading(pair):
    names = tuple(measure(*pair, scan(), EVERYTHING))
    told = definitions(names, replace(EVERYTHING, tolerance=3), "voxel")
    assert set(told) == set(names)
    assert "within 3 voxel" in told["NSD"]
    assert "MONAI" in told["HD95"]
    assert "medpy" in told["HD95_pooled"]
    assert [heading(name, EVERYTHING, "px") for name in ("HD95", "NSD", "RVE", "VD")] == [
        "HD95 px", "NSD at 2 px", "RVE %", "VD ml",
    ]  # fmt: skip


@pytest.mark.shared
def test_the_preset_gives_the_published_numbers_of_chaos(shared):
    folder = shared / "data" / "golden_metrics_chaos"
    known = json.loads((folder / "expected.json").read_text())
    guess, truth = (nib.load(folder / f"{name}.nii.gz") for name in ("segmentation", "reference"))
    masks = [np.asarray(image.dataobj) > 0 for image in (guess, truth)]
    found = measure(*masks, Grid(truth.shape, truth.affine, "space"), PRESETS["chaos"])
    found |= {"DICE": dice(*masks)}
    for ours, theirs, digits in (
        ("DICE", "DICE", 5e-4), ("RAVD", "RAVD_percent", 5e-4), ("ASSD", "ASSD_mm", 5e-4), ("HD", "MSSD_mm", 0.5),
    ):  # fmt: skip
        assert found[ours] == pytest.approx(known["recomputed_here"][theirs], rel=1e-5), ours
        assert found[ours] == pytest.approx(known["published"][theirs], abs=digits), ours


class TestPresets:
    def test_each_is_complete(self):
        for name, preset in PRESETS.items():
            assert preset.name == name
            assert preset.notes
        assert presets.preset_of("ma_sam").empty == "one"
        assert PRESETS["ma_sam"].units == PRESETS["samed"].units == PRESETS["left_atrium"].units == "voxel"
        assert PRESETS["nnunet"].metrics == ()
        assert PRESETS["med_sa"].metrics == ("multi_threshold",)

    def test_chaos_is_what_its_organisers_compute(self, pair):
        assert set(measure(*pair, scan(), PRESETS["chaos"])) == {"RAVD", "ASSD", "HD"}
        assert PRESETS["chaos"].faces == "open"

    def test_metrics_are_found_in_any_case_and_once(self):
        assert presets.metrics_of(["hd95", "HD95", "nsd"]) == ("HD95", "NSD")

    def test_changes_show_in_the_name(self):
        assert presets.changed(DEFAULT, tolerance=None) is DEFAULT
        other = presets.changed(DEFAULT, tolerance=1.0, metrics=["hd"])
        assert (other.name, other.tolerance, other.metrics) == ("default, changed", 1.0, ("HD",))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"metrics": ("HD", "hausdorf")}, "no metric 'hausdorf'; there are: Dice, IoU, HD"),
            ({"tolerance": -1.0}, "tolerance"),
            ({"tolerance": math.nan}, "tolerance"),
            ({"units": "cm"}, "units: one of mm, voxel, not 'cm'"),
            ({"empty": "skip"}, "empty: one of"),
            ({"penalty": "mean"}, "penalty: one of"),
            ({"smallest_lesion": -1.0}, "smallest lesion"),
            ({"match_iou": 0.0}, "IoU of lesions"),
        ],
    )
    def test_wrong_choices_are_refused(self, wrong, message):
        with pytest.raises(ConfigError, match=message):
            Preset("mine", **({"metrics": ()} | wrong))

    def test_unknown_preset(self):
        with pytest.raises(ConfigError, match="no preset 'medsam'; there are: default, ma_sam"):
            presets.preset_of("medsam")
