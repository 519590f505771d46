import json
import math
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from voxelsam import checks
from voxelsam.data import phantom
from voxelsam.errors import ConfigError, InputError, InputWarning
from voxelsam.evaluate import evaluate, soft
from voxelsam.evaluate.presets import DEFAULT, changed
from voxelsam.formats import read_labels, write_volume
from voxelsam.infer.prediction import Prediction
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Volume


def moved(grid, mm):
    affine = grid.affine.copy()
    affine[0, 3] += mm
    return Grid(grid.shape, affine)


def test_scores_by_hand(pairs, labels):
    report = evaluate(*pairs, labels=labels)
    liver, tumour = report.classes
    assert [case.case for case in report.cases] == ["a", "b"]
    assert liver.dice == pytest.approx((1 + 2 / 3) / 2)
    assert liver.iou == pytest.approx((1 + 1 / 2) / 2)
    assert (tumour.dice, tumour.cases, tumour.both_empty) == (1, 1, 1)
    assert report.cases[0].spacing == pytest.approx((1.5, 2, 3))


def test_references_against_themselves_are_perfect(pairs, labels):
    report = evaluate(pairs[1], pairs[1], labels=labels)
    assert report.mean_dice == 1
    assert not report.failures


def test_rule_for_both_empty_is_used_and_stated(pairs, labels, tmp_path):
    report = evaluate(*pairs, labels=labels, empty="ma_sam", out=tmp_path / "out")
    assert report.empty == "one"
    assert report.classes[1].cases == 2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["empty"]["rule"] == "one"


def test_another_shape_is_a_failure_and_not_a_score(pairs, save, labels):
    guess, truth = pairs
    save(guess / "b.nii.gz", np.zeros((6, 5, 3)), Grid((6, 5, 3), np.eye(4)))
    report = evaluate(guess, truth, labels=labels)
    assert [case.case for case in report.cases] == ["a"]
    (failure,) = report.failures
    assert (failure.case, failure.code) == ("b", "GEO-01")


@pytest.mark.filterwarnings("ignore::voxelsam.errors.InputWarning")
@pytest.mark.parametrize(("mm", "scored"), [(0.4, 2), (0.6, 1), (-3, 1)])
def test_half_a_millimetre_is_the_limit(pairs, save, grid, labels, mm, scored):
    guess, truth = pairs
    save(guess / "b.nii.gz", np.zeros(grid.shape), moved(grid, mm))
    report = evaluate(guess, truth, labels=labels)
    assert len(report.cases) == scored
    assert [failure.code for failure in report.failures] == ["GEO-02"] * (2 - scored)


def test_equal_arrays_with_flipped_axes_are_no_pair(pairs, save, grid, labels):
    guess, truth = pairs
    flipped = grid.affine @ np.diag([-1.0, 1, 1, 1])
    save(guess / "a.nii.gz", np.ones(grid.shape), Grid(grid.shape, flipped))
    assert [failure.case for failure in evaluate(guess, truth, labels=labels).failures] == ["a"]


def test_small_displacement_is_scored_and_reported(pairs, save, grid, labels):
    guess, truth = pairs
    save(guess / "b.nii.gz", np.zeros(grid.shape), moved(grid, 0.2))
    with pytest.warns(InputWarning, match="GEO-02"):
        report = evaluate(guess, truth, labels=labels)
    assert report.cases[1].displacement == pytest.approx(0.2, abs=1e-4)


def test_unknown_values_and_broken_files_are_failures(pairs, save, grid, labels):
    guess, truth = pairs
    save(guess / "a.nii.gz", np.full(grid.shape, 3), labels=Labels({"background": 0, "other": 3}))
    (guess / "b.nii.gz").write_bytes(b"<html>")
    report = evaluate(guess, truth, labels=labels)
    assert not report.cases
    assert [failure.code for failure in report.failures] == ["LAB-02", "SET-03"]
    assert math.isnan(report.mean_dice)


def test_missing_predictions_stop_unless_allowed(pairs, labels):
    guess, truth = pairs
    (guess / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of 2 references have no prediction.*: b;"):
        evaluate(guess, truth, labels=labels)
    report = evaluate(guess, truth, labels=labels, allow_missing=True)
    assert [case.case for case in report.cases] == ["a"]
    assert [(failure.case, failure.reason) for failure in report.failures] == [("b", "there is no prediction")]


def test_predictions_without_reference_are_named_in_a_warning(pairs, labels):
    guess, truth = pairs
    shutil.copy(guess / "a.nii.gz", guess / "x.nii.gz")
    with pytest.warns(InputWarning, match="without a reference.*x"):
        report = evaluate(guess, truth, labels=labels)
    assert report.extra == ("x",)
    assert len(report.cases) == 2


def test_nothing_to_compare_is_refused(pairs, tmp_path, save, grid, labels):
    save(tmp_path / "other" / "z.nii.gz", np.zeros(grid.shape))
    with pytest.raises(InputError, match="nothing to compare"):
        evaluate(tmp_path / "other", pairs[1], labels=labels)


@pytest.mark.parametrize("side", [0, 1])
def test_folders_that_are_missing_or_empty_are_named(pairs, tmp_path, labels, side):
    folders = list(pairs)
    folders[side] = tmp_path / "nowhere"
    with pytest.raises(InputError, match="nowhere"):
        evaluate(*folders, labels=labels)
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(InputError, match="nowhere"):
        evaluate(*folders, labels=labels)


def test_a_case_twice_is_refused(pairs, save, grid, labels):
    save(pairs[0] / "a.nii", np.zeros(grid.shape))
    with pytest.raises(InputError, match="case a is there twice"):
        evaluate(*pairs, labels=labels)


def test_unknown_rule_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="no rule"):
        evaluate(tmp_path, tmp_path, empty="maybe")


def test_other_files_in_the_folder_are_not_predictions(pairs, labels):
    (pairs[0] / "summary.json").write_text("{}")
    (pairs[0] / ".hidden.nii.gz").write_text("")
    assert not evaluate(*pairs, labels=labels).extra


def test_table_comes_from_the_description_above_the_folder(pairs, labels):
    (pairs[1].parent / "dataset.json").write_text(json.dumps({"labels": labels.to_json()}))
    assert evaluate(*pairs).labels == labels


def test_description_without_a_table_is_refused(pairs):
    (pairs[1] / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match="no readable table"):
        evaluate(*pairs)


def test_table_is_made_from_the_values_where_none_is_known(pairs):
    report = evaluate(*pairs)
    assert report.labels.values == {"background": 0, "label_1": 1, "label_7": 7}


def test_references_by_case_id(pairs, labels):
    guess, truth = pairs
    with pytest.warns(InputWarning, match="without a reference"):
        report = evaluate(guess, {"b": truth / "a.nii.gz"}, labels=labels)
    assert [case.reference.name for case in report.cases] == ["a.nii.gz"]


def test_two_files(pairs, labels):
    report = evaluate(pairs[0] / "b.nii.gz", pairs[1] / "a.nii.gz", labels=labels)
    assert [case.case for case in report.cases] == ["a"]


def test_progress_is_told_about_every_case(pairs, labels):
    told = []
    evaluate(*pairs, labels=labels, progress=lambda *step: told.append(step))
    assert told == [(0, 2, "a"), (1, 2, "b")]


def test_ignored_voxels_do_not_count(tmp_path, save, grid):
    table = Labels({"background": 0, "liver": 1}, ignore=9)
    truth, guess = np.zeros(grid.shape), np.zeros(grid.shape)
    truth[:2], truth[2:4], guess[:4] = 1, 9, 1
    save(tmp_path / "t" / "a.nii.gz", truth, labels=table)
    save(tmp_path / "g" / "a.nii.gz", guess, labels=table)
    assert evaluate(tmp_path / "g", tmp_path / "t", labels=table).mean_dice == 1
    guess[5] = 9
    save(tmp_path / "g" / "a.nii.gz", guess, labels=table)
    (failure,) = evaluate(tmp_path / "g", tmp_path / "t", labels=table).failures
    assert "ignore value 9" in failure.reason


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom.make(tmp_path_factory.mktemp("data"), cases=3, test_cases=1, folds=1, shape=(24, 22, 8))


def test_data_set_folder_gives_table_and_the_part_that_was_predicted(dataset):
    report = evaluate(dataset / "labelsTr", dataset)
    assert report.labels.names == phantom.ORGANS
    assert len(report.cases) == 3
    assert report.mean_dice == 1


def test_label_folder_of_a_data_set_gives_the_table(dataset):
    report = evaluate(dataset / "labelsTs", dataset / "labelsTs")
    assert report.labels.names == phantom.ORGANS
    assert len(report.cases) == 1


def test_swapped_kidneys_cost_both_organs(dataset, tmp_path, save):
    truth = read_labels(dataset / "labelsTr" / "phantom_000.nii.gz")
    swapped = np.choose(truth.data, [0, 1, 3, 2, 4, 5, 6])
    save(tmp_path / "phantom_000.nii.gz", swapped, truth.grid, truth.labels)
    report = evaluate(tmp_path, dataset, allow_missing=True)
    scores = {row.name: row.dice for row in report.classes}
    assert scores["kidney_left"] == scores["kidney_right"] == 0
    assert scores["liver"] == 1


@pytest.fixture
def picture(tmp_path):
    """Writes rows of values as a mask."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(rows, np.uint8)).save(path)

    return write


NESTED = {"background": 0, "disc": [1, 2], "cup": 2}


def test_regions_are_scored_as_a_whole(tmp_path, picture):
    picture("truth/a.png", [[0, 1, 1], [2, 2, 0]])
    picture("guess/a.png", [[0, 1, 2], [1, 2, 2]])
    report = evaluate(tmp_path / "guess", tmp_path / "truth", labels=Labels.from_json(NESTED))
    counts = report.cases[0].counts[1, 2]
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (4, 1, 0, 1)
    assert report.regions[0].dice == pytest.approx(8 / 9)
    assert [row.dice for row in report.classes] == pytest.approx([0.5, 0.4])


def test_voxels_that_nobody_labelled_count_in_no_region(tmp_path, picture):
    picture("truth/a.png", [[0, 1, 1], [2, 2, 9]])
    picture("guess/a.png", [[0, 1, 1], [2, 2, 2]])
    report = evaluate(tmp_path / "guess", tmp_path / "truth", labels=Labels.from_json(NESTED | {"ignore": 9}))
    assert (report.regions[0].dice, report.cases[0].counts[1, 2].tn) == (1, 1)


def test_masks_of_pictures_are_paired_by_name_whatever_their_format(tmp_path, picture):
    picture("truth/a.png", [[0, 1], [1, 0]])
    picture("guess/a.tif", [[0, 1], [0, 0]])
    report = evaluate(tmp_path / "guess", tmp_path / "truth")
    assert report.mean_dice == pytest.approx(2 / 3)
    assert report.cases[0].spacing == (1, 1, 1)


def test_a_mask_of_another_size_is_a_failure(tmp_path, picture):
    picture("truth/a.png", [[0, 1], [1, 0]])
    picture("guess/a.png", [[0, 1, 0], [1, 0, 0]])
    assert [failure.code for failure in evaluate(tmp_path / "guess", tmp_path / "truth").failures] == ["GEO-01"]


def test_pictures_beside_a_data_set_are_no_references(tmp_path, picture):
    for name in ("set/labelsTr/a.png", "set/imagesTr/a_0000.png", "set/preview.png", "guess/a.png"):
        picture(name, [[0, 1], [1, 0]])
    table = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".png"}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(table))
    assert evaluate(tmp_path / "guess", tmp_path / "set").classes[0].name == "lesion"


def test_distances_are_in_mm_of_the_reference(pairs, labels):
    report = evaluate(*pairs, labels=labels)
    first, second = report.cases
    assert first.measures[1] == {"HD95": 0, "ASSD": 0, "NSD": 1, "RVE": 0, "VD": 0}
    assert second.measures[1]["RVE"] == -50
    assert second.measures[1]["VD"] == pytest.approx(-2 * 2 * 4 * 9 / 1000)
    assert second.measures[1]["HD95"] == pytest.approx(3)  # two voxels of 1.5 mm
    assert math.isnan(second.measures[7]["HD95"])
    assert report.classes[1].measures["HD95"].undefined == 0
    assert report.unit == "mm"


def test_preset_decides_what_is_measured(pairs, labels):
    report = evaluate(*pairs, labels=labels, preset="ma_sam")
    assert (report.empty, report.unit, report.measured) == ("one", "voxel", ("HD95_pooled",))
    assert report.cases[1].measures[1]["HD95_pooled"] == pytest.approx(2)
    assert report.cases[1].measures[7]["HD95_pooled"] == 0
    assert evaluate(*pairs, labels=labels, preset="nnunet").measured == ()
    with pytest.raises(ConfigError, match="no preset"):
        evaluate(*pairs, labels=labels, preset="medsam")


def test_regions_are_measured_as_a_whole(tmp_path, picture):
    picture("truth/a.png", [[0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]])
    picture("guess/a.png", [[0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]])
    report = evaluate(tmp_path / "guess", tmp_path / "truth", labels=Labels.from_json(NESTED))
    (case,) = report.cases
    assert (case.measures[1]["HD95"], case.measures[2]["HD95"], case.measures[1, 2]["HD95"]) == (1, 1, 0)
    assert (report.unit, "VD" in report.measured) == ("px", False)
    assert report.regions[0].measures["NSD"].mean == 1


def test_voxels_that_nobody_labelled_are_in_neither_mask(tmp_path, picture):
    picture("truth/a.png", [[0, 1, 1, 9, 9, 9]])
    picture("guess/a.png", [[0, 1, 1, 0, 0, 1]])
    report = evaluate(tmp_path / "guess", tmp_path / "truth", labels=Labels.from_json(NESTED | {"ignore": 9}))
    assert report.cases[0].measures[1]["HD95"] == 0


def test_workers_change_nothing(pairs, save, grid, labels):
    save(pairs[0] / "a.nii.gz", np.ones(grid.shape), moved(grid, 0.4))  # warns
    save(pairs[0] / "b.nii.gz", np.zeros((6, 5, 3)), Grid((6, 5, 3), np.eye(4)))  # fails
    few, steps, seen = changed(DEFAULT, metrics=("HD95", "RVE")), [], []
    for workers in (1, 2):
        with warnings.catch_warnings(record=True) as told, checks.watching() as watch:
            warnings.simplefilter("always")
            report = evaluate(
                *pairs, labels=labels, preset=few, workers=workers, progress=lambda *step: steps.append(step)
            )
        seen.append((report.to_csv(), report.failures, [str(each.message) for each in told], watch.findings))
    assert seen[0] == seen[1]
    assert seen[0][2]
    assert {finding.where for finding in seen[0][3]} == {"a"}
    assert steps == [(0, 2, "a"), (1, 2, "b")] * 2


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(pairs, workers):
    with pytest.raises(ConfigError, match="workers: at least 1"):
        evaluate(*pairs, workers=workers)


class TestSoft:
    """Probability maps beside the masks."""

    @pytest.fixture
    def maps(self, pairs, grid):
        def write(case, name, values, grid=grid):
            path = soft.map_path(pairs[0] / f"{case}.nii.gz", case, name)
            path.parent.mkdir(exist_ok=True)
            write_volume(path, Volume(np.asarray(values, np.float32)[None], grid))

        return write

    def test_they_lie_where_predict_writes_them(self, tmp_path, labels, grid):
        odd = Labels({"background": 0, "left kidney/upper": 1})
        empty = LabelMap(np.zeros(grid.shape, np.uint8), grid, odd)
        prediction = Prediction(empty, Volume(np.zeros((1, *grid.shape)), grid))
        (path,) = prediction.maps(tmp_path / soft.FOLDER / "a").values()
        assert soft.map_path(tmp_path / "a.nii.gz", "a", "left kidney/upper") == path

    def test_they_are_scored_at_every_threshold(self, pairs, labels, maps):
        truth = {case: read_labels(pairs[1] / f"{case}.nii.gz").data for case in ("a", "b")}
        for case, values in truth.items():
            for name, value in (("liver", 1), ("tumour", 7)):
                maps(case, name, (values == value) * 0.6)
        report = evaluate(*pairs, labels=labels, preset="med_sa")
        assert report.cases[0].measures[1]["IoU_multi"] == pytest.approx(3 / 5, abs=1e-3)
        assert report.cases[1].measures[7]["IoU_multi"] == 1  # nothing there, and nothing predicted

    def test_masks_without_maps_count_as_certain_and_that_is_told(self, pairs, labels):
        with pytest.warns(InputWarning, match="no probability maps .* for a, b; their masks count as certain"):
            report = evaluate(*pairs, labels=labels, preset="med_sa")
        assert report.cases[0].measures[1]["Dice_multi"] == 1

    def test_a_map_elsewhere_is_a_failure(self, pairs, labels, grid, maps):
        maps("a", "liver", np.zeros(grid.shape), moved(grid, 9))
        maps("b", "liver", np.zeros(grid.shape))
        report = evaluate(*pairs, labels=labels, preset="med_sa")
        assert [(failure.case, failure.code) for failure in report.failures] == [("a", "GEO-02")]


def test_tilted_slices_are_told(pairs, save, labels):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 1.0
    tilted = Grid((6, 5, 4), affine)
    for folder in pairs:
        for case in ("a", "b"):
            save(folder / f"{case}.nii.gz", np.ones(tilted.shape), tilted)
    with pytest.warns(InputWarning) as told:
        evaluate(*pairs, labels=labels)
    assert any("slices of a, b are tilted; distances" in str(each.message) for each in told)
