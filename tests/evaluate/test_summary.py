import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from voxelsam.errors import InputError
from voxelsam.evaluate.presets import DEFAULT
from voxelsam.evaluate.run import evaluate
from voxelsam.evaluate.scores import nulled
from voxelsam.evaluate.summary import Summary, case_of, is_region, label_of, read

NAN = math.nan
NNUNET = {
    "foreground_mean": {"Dice": 0.75, "FN": 5, "FP": 5, "IoU": 0.6, "TN": 80, "TP": 10, "n_pred": 15, "n_ref": 15},
    "mean": {"1": {"Dice": 0.75, "FN": 5, "FP": 5, "IoU": 0.6, "TN": 80, "TP": 10, "n_pred": 15, "n_ref": 15}},
    "metric_per_case": [
        {
            "metrics": {
                "1": {"Dice": 0.75, "FN": 5, "FP": 5, "IoU": 0.6, "TN": 80, "TP": 10, "n_pred": 15, "n_ref": 15},
                "(3, 1)": {"Dice": NAN, "FN": 0, "FP": 0, "IoU": NAN, "TN": 100, "TP": 0, "n_pred": 0, "n_ref": 0},
            },
            "prediction_file": "/results/fold_0/validation/la_007.nii.gz",
            "reference_file": "/preprocessed/gt_segmentations/la_007.nii.gz",
        }
    ],
}  # fmt: skip
"""What nnU-Net v2 writes (evaluate_predictions.py): sorted keys, NaN, regions as text of a tuple."""


def written(tmp_path, content, name="summary.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=4))
    return path


def test_nnunets_summary_is_read(tmp_path):
    found = read(written(tmp_path, NNUNET))
    assert found.scores["la_007"]["1"] == {"Dice": 0.75, "IoU": 0.6}
    assert math.isnan(found.scores["la_007"]["(1, 3)"]["Dice"])
    assert found.voxels["la_007"]["1"]["n_ref"] == 15
    assert found.references["la_007"] == Path("/preprocessed/gt_segmentations/la_007.nii.gz")
    assert found.labels == ("1", "(1, 3)")
    assert found.metrics == ("Dice", "IoU")
    assert found.rule == "nan"
    assert not found.names


def test_our_summary_comes_back_as_it_went(pairs, labels, tmp_path):
    measuring = replace(DEFAULT, metrics=("RVE", "VD", "lesions"))
    report = evaluate(*pairs, labels=labels, out=tmp_path / "summary.json", preset=measuring)
    found = read(tmp_path / "summary.json")
    assert found.names == {"1": "liver", "7": "tumour"}
    assert found.rule == "nan"
    assert list(found.scores) == ["a", "b"]
    assert found.scores["b"]["1"]["Dice"] == pytest.approx(report.cases[1].counts[1].dice("nan"))
    assert math.isnan(found.scores["b"]["7"]["Dice"])
    assert found.voxels["b"]["1"]["n_ref"] == report.cases[1].counts[1].present
    for value, measures in report.cases[1].measures.items():
        for name, expected in measures.items():
            part = found.voxels if name.startswith("lesion_n_") else found.scores
            assert part["b"][str(value)][name] == pytest.approx(expected, nan_ok=True)
    assert {"RVE", "VD", "lesion_F1"} <= set(found.metrics)
    assert "lesion_F1" in found.definitions
    again = Summary.of(nulled(report.to_json()), "report")
    assert again.scores["b"]["1"] == pytest.approx(found.scores["b"]["1"], nan_ok=True)


def test_ours_and_nnunets_say_the_same_about_dice(pairs, labels):
    ours = Summary.of(evaluate(*pairs, labels=labels, preset="nnunet").to_json(), "ours")
    theirs = Summary.of(NNUNET, "theirs")
    assert ours.definitions["Dice"] == theirs.definitions["Dice"]
    assert ours.rule == theirs.rule


def test_a_table_has_cases_down_and_labels_across():
    table = Summary.of(NNUNET, "x").table("Dice", ["la_007"], ["(1, 3)", "1", "5"])
    assert table.tolist() == [[pytest.approx(NAN, nan_ok=True), 0.75, pytest.approx(NAN, nan_ok=True)]]


@pytest.mark.parametrize(
    ("key", "label"), [("1", "1"), (1, "1"), ("(1,)", "1"), ("(2, 1)", "(1, 2)"), ("(1, 2, 12)", "(1, 2, 12)")]
)
def test_labels_have_one_spelling(key, label):
    assert label_of(key) == label
    assert is_region(label) == ("," in label)


@pytest.mark.parametrize("file", ["/a/b/c_1.nii.gz", "C:\\a\\c_1.nii.gz", "c_1.nii.gz", "c_1.nrrd"])
def test_cases_are_named_after_files_of_any_system(file):
    assert case_of(file) == "c_1"


def test_the_background_is_no_class():
    entry = NNUNET["metric_per_case"][0]
    found = Summary.of({"metric_per_case": [entry | {"metrics": {"0": {"Dice": 1.0}, "2": {"Dice": 0.5}}}]}, "x")
    assert found.labels == ("2",)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[1, 2]",
        "{}",
        '{"metric_per_case": {}}',
        '{"metric_per_case": []}',
        '{"metric_per_case": [{"metrics": {}}]}',
        '{"metric_per_case": [{"prediction_file": "a.nii.gz", "reference_file": "a.nii.gz"}]}',
        '{"metric_per_case": [{"case": "a", "reference_file": "a", "metrics": {"liver": {"Dice": 1}}}]}',
        '{"metric_per_case": [{"case": "a", "reference_file": "a", "metrics": {"1": {"Dice": "high"}}}], "mean": 3}',
    ],
)
def test_what_is_no_summary_is_refused_by_name(tmp_path, content):
    with pytest.raises(InputError, match=r"summary\.json.*"):
        read(written(tmp_path, content))


def test_a_missing_summary_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "summary.json")


def test_a_case_that_is_there_twice_is_refused():
    entry = NNUNET["metric_per_case"][0]
    with pytest.raises(InputError, match="la_007 is there twice"):
        Summary.of({"metric_per_case": [entry, entry]}, "x")
