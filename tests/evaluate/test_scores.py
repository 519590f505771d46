import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from voxelsam.errors import OutputError
from voxelsam.evaluate.metrics import Counts
from voxelsam.evaluate.presets import PRESETS
from voxelsam.evaluate.scores import CaseScore, Failure, Report
from voxelsam.files import write_text
from voxelsam.volumes.labels import Labels

NONE = Counts(0, 0, 0, 100)


def case(name, liver, tumour):
    files = Path(f"guess/{name}.nii.gz"), Path(f"truth/{name}.nii.gz")
    return CaseScore(name, *files, (1.5, 2.0, 3.0), 0.001, {1: liver, 7: tumour})


@pytest.fixture
def report(labels):
    """Dice of the liver 1 and 0.5; of the tumour 0.5 and undefined."""
    cases = (
        case("a", Counts(10, 0, 0, 90), Counts(2, 2, 2, 94)),
        case("b", Counts(5, 5, 5, 85), NONE),
    )
    return Report(labels, "nan", cases, (Failure("c", "shapes differ", "GEO-01"),), ("d",))


def test_undefined_scores_are_left_out_of_means_and_counted(report):
    liver, tumour = report.classes
    assert (liver.name, liver.dice, liver.dice_lowest, liver.cases, liver.both_empty) == ("liver", 0.75, 0.5, 2, 0)
    assert liver.dice_deviation == 0.25
    assert (tumour.name, tumour.dice, tumour.cases, tumour.both_empty) == ("tumour", 0.5, 1, 1)
    assert report.mean_dice == 0.625


@pytest.mark.parametrize(("rule", "dice", "cases"), [("nan", 0.5, 1), ("one", 0.75, 2), ("zero", 0.25, 2)])
def test_rule_decides_the_mean_and_never_the_count_of_both_empty(report, labels, rule, dice, cases):
    tumour = Report(labels, rule, report.cases).classes[1]
    assert (tumour.dice, tumour.cases, tumour.both_empty) == (dice, cases, 1)


def test_class_that_is_nowhere_has_no_mean_and_does_not_spoil_the_others(labels):
    report = Report(labels, "nan", (case("a", Counts(10, 0, 0, 90), NONE),))
    assert math.isnan(report.classes[1].dice)
    assert report.mean_dice == 1


def test_rows_are_classes_and_a_mean(report):
    rows = report.rows()
    assert [row["name"] for row in rows] == ["liver", "tumour", "mean"]
    assert rows[-1]["dice"] == 0.625
    assert rows[-1]["dice_lowest"] == 0.5
    assert rows[-1]["both_empty"] == 1


class TestRegions:
    @pytest.fixture
    def report(self):
        """The region has a score of its own, far from those of its parts."""
        labels = Labels({"background": 0, "rim": 1, "cup": 2}, regions={"disc": (1, 2)})
        counts = {1: Counts(2, 2, 2, 94), 2: Counts(3, 1, 1, 95), (1, 2): Counts(9, 0, 0, 91)}
        return Report(labels, "nan", (CaseScore("a", Path("g"), Path("t"), (1.0, 1.0, 1.0), 0.0, counts),))

    def test_they_stand_beside_the_classes_and_change_no_mean(self, report):
        assert [(row.name, row.value, row.dice) for row in report.regions] == [("disc", (1, 2), 1.0)]
        assert [row["name"] for row in report.rows()] == ["rim", "cup", "disc", "mean"]
        assert report.mean_dice == report.case_dice(report.cases[0]) == pytest.approx((0.5 + 0.75) / 2)

    def test_files_have_them_under_their_values(self, report, tmp_path):
        summary = json.loads(report.write(tmp_path).read_text())
        assert summary["mean"]["(1, 2)"]["name"] == "disc"
        assert summary["metric_per_case"][0]["metrics"]["(1, 2)"]["TP"] == 9
        assert summary["foreground_mean"]["Dice"] == pytest.approx(0.625)
        assert summary["labels"]["disc"] == [1, 2]
        with (tmp_path / "summary.csv").open(newline="") as file:
            assert [(row["class"], row["label"]) for row in csv.DictReader(file)][-1] == ("disc", "(1, 2)")


def test_worst_case_comes_first_and_undefined_last(report, labels):
    report = Report(labels, "nan", (case("empty", NONE, NONE), *report.cases))
    assert [item.case for item in report.worst_first()] == ["b", "a", "empty"]


def test_summary_has_the_keys_of_nnunet(report, tmp_path):
    summary = json.loads(report.write(tmp_path).read_text())
    first = summary["metric_per_case"][0]
    assert first["reference_file"] == str(Path("truth/a.nii.gz"))
    assert first["prediction_file"] == str(Path("guess/a.nii.gz"))
    keys = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    assert keys <= first["metrics"]["7"].keys()
    assert keys <= summary["mean"]["1"].keys()
    assert keys == summary["foreground_mean"].keys()
    assert summary["mean"]["1"]["Dice"] == 0.75
    assert summary["mean"]["1"]["TP"] == 7.5
    assert summary["foreground_mean"]["Dice"] == 0.625
    assert summary["foreground_mean"]["TP"] == 4.25


def test_summary_says_how_it_was_made(report, tmp_path):
    summary = json.loads(report.write(tmp_path / "scores.json").read_text())
    assert summary["labels"] == {"background": 0, "liver": 1, "tumour": 7}
    assert summary["empty"]["rule"] == "nan"
    assert summary["counts"] == {"scored": 2, "failed": 1, "without_reference": 1}
    assert summary["failures"] == [{"case": "c", "reason": "shapes differ", "code": "GEO-01"}]
    assert summary["geometry"] == {"tolerance_mm": 0.5, "largest_displacement_mm": 0.001}
    assert summary["metric_per_case"][0]["spacing"] == [1.5, 2.0, 3.0]
    assert "Dice" in summary["definitions"]
    assert summary["voxelsam"]


def test_summary_is_strict_json_with_null_for_no_number(report, tmp_path):
    def refuse(word):
        raise AssertionError(word)

    summary = json.loads(report.write(tmp_path).read_text(), parse_constant=refuse)
    assert summary["metric_per_case"][1]["metrics"]["7"]["Dice"] is None
    assert summary["metric_per_case"][1]["metrics"]["7"]["both_empty"] is True


def test_table_has_one_row_per_case_and_class(report, tmp_path):
    report.write(tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"], row["label"]) for row in rows] == [
        ("a", "liver", "1"), ("a", "tumour", "7"), ("b", "liver", "1"), ("b", "tumour", "7"),
    ]  # fmt: skip
    assert [row["Dice"] for row in rows] == ["1.0", "0.5", "0.5", ""]
    assert [row["both_empty"] for row in rows] == ["False", "False", "False", "True"]
    assert {row["empty_rule"] for row in rows} == {"nan"}


def test_files_are_whole_or_not_there(report, tmp_path, monkeypatch):
    report.write(tmp_path)
    before = (tmp_path / "summary.json").read_text()

    def fail(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        report.write(tmp_path)
    assert (tmp_path / "summary.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.csv", "summary.json"]


def test_text_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "below.txt", "x")


class TestMeasures:
    """Two cases and a third that misses the tumour: distances of liver 2 and 4 mm, of the tumour 6 mm and undefined."""

    @pytest.fixture
    def report(self, labels):
        some, missed = Counts(10, 2, 2, 86), Counts(0, 0, 4, 96)
        values = (
            ("a", some, some, {1: {"HD95": 2.0, "NSD": 0.8}, 7: {"HD95": 6.0, "NSD": 0.4}}),
            ("b", some, missed, {1: {"HD95": 4.0, "NSD": 0.6}, 7: {"HD95": math.nan, "NSD": 0.0}}),
            ("c", some, NONE, {1: {"HD95": 6.0, "NSD": 0.1}, 7: {"HD95": math.nan, "NSD": math.nan}}),
        )
        cases = tuple(
            replace(case(name, liver, tumour), measures=measures, unit="voxel")
            for name, liver, tumour, measures in values
        )
        return Report(labels, "nan", cases, preset=replace(PRESETS["samed"], penalty="none"))

    def test_means_leave_out_what_is_undefined_and_say_so(self, report):
        liver, tumour = report.classes
        assert (liver.measures["HD95"].mean, liver.measures["HD95"].undefined) == (4, 0)
        assert (tumour.measures["HD95"].mean, tumour.measures["HD95"].cases) == (6, 1)
        assert tumour.measures["HD95"].undefined == 1  # the case that neither mask shows is no failure
        assert (tumour.one_empty, tumour.both_empty) == (1, 1)
        assert tumour.measures["NSD"].mean == pytest.approx(0.2)

    def test_mean_over_classes(self, report):
        mean = report.rows()[-1]
        assert (mean["measures"]["HD95"]["mean"], mean["measures"]["HD95"]["undefined"]) == (5, 1)

    def test_summary_has_values_definitions_and_counts(self, report, tmp_path):
        summary = json.loads(report.write(tmp_path).read_text())
        tumour = summary["mean"]["7"]
        assert (tumour["HD95"], tumour["n_one_empty"], tumour["n_undefined"]) == (6, 1, {"HD95": 1, "NSD": 0})
        assert summary["metric_per_case"][1]["metrics"]["7"]["HD95"] is None
        assert summary["foreground_mean"]["HD95"] == 5
        assert summary["units"] == summary["metric_per_case"][0]["unit"] == "voxel"
        assert "in voxel" in summary["definitions"]["HD95"]
        assert summary["preset"]["name"] == "samed"
        assert summary["empty"]["penalty"] == "none"
        assert summary["empty"]["penalty_meaning"]

    def test_table_has_them_as_columns(self, report, tmp_path):
        report.write(tmp_path)
        with (tmp_path / "summary.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["HD95"] for row in rows] == ["2.0", "6.0", "4.0", "", "6.0", ""]
        assert {(row["unit"], row["penalty"]) for row in rows} == {("voxel", "none")}

    def test_lesions_stand_under_their_own_key(self, labels, tmp_path):
        values = {1: {"lesion_F1": 0.5, "lesion_n_ref": 3.0}}
        scored = replace(case("a", Counts(1, 1, 1, 7), NONE), measures=values)
        summary = json.loads(Report(labels, "nan", (scored,)).write(tmp_path).read_text())
        assert summary["metric_per_case"][0]["metrics"]["1"]["lesions"] == {"F1": 0.5, "n_ref": 3}
        assert summary["mean"]["1"]["lesions"]["F1"] == 0.5
        assert "26 neighbours" not in summary["definitions"]
        assert set(summary["definitions"]["lesions"]) == {"F1", "n_ref"}
