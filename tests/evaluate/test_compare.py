import copy
import csv
import io
import json
import math
import re
import shutil

import numpy as np
import pytest

from voxelsam.errors import ConfigError, InputError
from voxelsam.evaluate.comparable import Model
from voxelsam.evaluate.compare import compare
from voxelsam.evaluate.models import gather
from voxelsam.evaluate.presets import DEFAULT
from voxelsam.evaluate.scores import DEFINITIONS, nulled
from voxelsam.evaluate.summary import Summary

NAN = math.nan


def content(scores, *, nnunet=False, rule="nan", names=("liver", "tumour"), present=20, metric="Dice", **more):
    """A summary's content: ``scores`` by case, one per label 1, 2 …; references have ``present`` voxels of 100."""
    cases = []
    for case, values in scores.items():
        metrics = {}
        for label, value in enumerate(values, start=1):
            voxels = {"TP": 5, "FP": 3, "FN": present - 5, "TN": 97 - present, "n_pred": 8, "n_ref": present}
            metrics[str(label)] = {metric: value, "IoU": value} | voxels
        entry = {"metrics": metrics, "prediction_file": f"p/{case}.nii.gz", "reference_file": f"gone/{case}.nii.gz"}
        cases.append(entry if nnunet else entry | {"case": case})
    if nnunet:
        return {"metric_per_case": cases, "mean": {}, "foreground_mean": {}}
    count = len(next(iter(scores.values())))
    return {
        "metric_per_case": cases,
        "mean": {str(label): {"name": names[label - 1]} for label in range(1, count + 1)},
        "definitions": DEFINITIONS | {"HD95": "95th percentile in mm", "RVE": "in %"},
        "empty": {"rule": rule, "penalty": "none"},
        "units": "mm",
        "failures": [],
    } | more


def model(name, scores, **options):
    return Model(name, f"{name}.json", Summary.of(content(scores, **options), name))


A = {f"c{n}": (0.90 + 0.01 * n, 0.5) for n in range(8)}
B = {f"c{n}": (0.88 + 0.005 * n, 0.5) for n in range(8)}


def row(result, label, first=None):
    return next(each for each in result.differences if each.label == label and first in (None, each.first))


def test_means_differences_and_wins_by_hand():
    result = compare([model("A", A), model("B", B)])
    liver, tumour, mean = (row(result, label) for label in ("1", "2", "mean"))
    assert liver.interval.value == pytest.approx(0.0375)  # 0.02 + 0.005 n, mean over 0 … 7
    assert liver.interval.low < 0.0375 < liver.interval.high
    assert liver.interval.low > 0.02
    assert (liver.cases.wins, liver.cases.ties, liver.cases.losses) == (8, 0, 0)
    assert liver.p == pytest.approx(2 / 2**8)
    assert liver.effect == 1
    assert (tumour.interval.value, tumour.p, tumour.effect) == (0, 1, 0)
    assert tumour.cases.ties == 8
    assert mean.interval.value == pytest.approx(0.0375 / 2)
    assert {each.name for each in result.differences} == {"liver", "tumour", "mean"}


def test_p_values_are_corrected_over_classes_and_those_of_means_by_themselves():
    result = compare([model("A", A), model("B", B)])
    assert row(result, "1").corrected == pytest.approx(2 * row(result, "1").p)
    assert row(result, "1").tests == 2
    assert row(result, "mean").corrected == row(result, "mean").p
    assert row(result, "mean").tests == 1
    third = compare([model("A", A), model("B", B), model("C", dict.fromkeys(A, (0.1, 0.1)))])
    assert row(third, "1").tests == 6
    assert row(third, "mean").tests == 3
    assert len(third.differences) == 9


def test_swapping_models_turns_everything_round():
    random = np.random.default_rng(1)
    one, other = ({f"c{n}": tuple(random.uniform(0.5, 1, 2).tolist()) for n in range(12)} for _ in range(2))
    there, back = (
        compare(pair) for pair in ([model("A", one), model("B", other)], [model("B", other), model("A", one)])
    )
    for first, second in zip(there.differences, back.differences, strict=True):
        assert second.interval.value == pytest.approx(-first.interval.value)
        assert second.interval.low == pytest.approx(-first.interval.high, abs=1e-6)
        assert second.effect == pytest.approx(-first.effect)
        assert (second.p, second.corrected) == (first.p, first.corrected)
        assert (second.cases.wins, second.cases.losses) == (first.cases.losses, first.cases.wins)


def test_identical_models_do_not_differ_and_it_is_said():
    result = compare([model("A", A), model("B", A)])
    for each in result.differences:
        assert (each.interval.value, each.interval.low, each.interval.high) == (0, 0, 0)
        assert (each.p, each.effect, each.cases.ties) == (1, 0, 8)
        assert each.note == "no difference in any case"
    assert any("are they the same model" in note for note in result.notes)


def test_of_distances_the_smaller_one_wins():
    near, far = ({f"c{n}": (size + 0.1 * n,) for n in range(7)} for size in (2.0, 5.0))
    result = compare([model("near", near, metric="HD95"), model("far", far, metric="HD95")], "HD95")
    (only,) = result.differences
    assert only.interval.value == pytest.approx(-3)
    assert only.cases.wins == 7
    assert only.effect == 1


def test_of_signed_errors_the_one_closer_to_zero_wins():
    small, large = {"a": (-1.0,), "b": (2.0,), "c": (0.5,)}, {"a": (5.0,), "b": (-9.0,), "c": (-0.4,)}
    result = compare([model("small", small, metric="RVE"), model("large", large, metric="RVE")], "RVE")
    (only,) = result.differences
    assert (only.cases.wins, only.cases.losses) == (2, 1)
    assert result.means[0].interval.value == pytest.approx(3.5 / 3)
    assert "|RVE|" in result.to_html()


def test_the_margin_of_a_tie():
    result = compare([model("A", A), model("B", B)], tie=0.0301)
    assert (row(result, "1").cases.wins, row(result, "1").cases.ties) == (5, 3)
    assert row(result, "1").p < 0.05


def test_undefined_scores_are_left_out_counted_and_said():
    holes = dict(B) | {"c0": (NAN, 0.5), "c1": (0.2, NAN)}
    result = compare([model("A", A), model("B", holes)])
    liver = row(result, "1")
    assert (liver.interval.cases, liver.pairs) == (7, 7)
    assert dict(liver.undefined) == {"first": 0, "second": 1, "both": 0}
    assert any("in B only: 2, in both: 0" in note and "favours" in note for note in result.notes)


def test_scores_that_nobody_has_have_no_p():
    empty = dict.fromkeys(A, (0.5, NAN))
    result = compare([model("A", empty), model("B", empty)])
    tumour = row(result, "2")
    assert math.isnan(tumour.p)
    assert tumour.note == "no case has both scores"
    assert row(result, "1").tests == 1
    assert any("in both: 8." in note and "favours" not in note for note in result.notes)
    assert "NaN" not in json.dumps(nulled(result.to_json()))


@pytest.mark.parametrize(("cases", "words"), [(5, "can never give p ≤ 0.05"), (6, "corrected p ≤ 0.05"), (8, "")])
def test_too_few_cases_are_said_instead_of_a_p_alone(cases, words):
    one, other = ({f"c{n}": (base + 0.01 * n, base + 0.02 * n) for n in range(cases)} for base in (0.5, 0.3))
    other = {case: (first, second + 0.001 * n) for n, (case, (first, second)) in enumerate(other.items())}
    result = compare([model("A", one), model("B", other)])
    assert words in row(result, "2").note
    assert bool(words) == bool(row(result, "2").note)
    assert any("too few for a test" in note for note in result.notes) == (cases < 6)


def test_patients_count_once():
    patients = {f"c{n}": f"p{n // 4}" for n in range(8)}
    result = compare([model("A", A), model("B", B)], groups=patients)
    assert row(result, "1").pairs == 2
    assert row(result, "1").cases.wins == 8
    assert row(result, "1").interval.units == 2
    assert any("2 patients are too few" in note for note in result.notes)


def test_a_single_class_has_no_row_for_the_mean():
    result = compare([model("A", {"a": (0.5,)}), model("B", {"a": (0.4,)})])
    assert [each.label for each in result.differences] == ["1"]


def test_regions_take_no_part_in_the_mean():
    summaries = [content(scores) for scores in (A, B)]
    for one in summaries:
        for entry in one["metric_per_case"]:
            entry["metrics"]["(1, 2)"] = entry["metrics"].pop("2") | {"Dice": 0.1}
    result = compare([Model(name, name, Summary.of(one, name)) for name, one in zip("AB", summaries, strict=True)])
    assert [each.label for each in result.differences] == ["1", "(1, 2)"]


def test_nnunets_summary_against_ours():
    ours = model("ours", A)
    theirs = Model("nnU-Net", "x", Summary.of(content(B, nnunet=True), "x"))
    result = compare([ours, theirs])
    assert row(result, "1").interval.value == pytest.approx(0.0375)
    assert row(result, "1").name == "liver"


def test_the_seed_decides_the_interval():
    pair = [model("A", A), model("B", B)]
    one, again, other = (row(compare(pair, seed=seed), "1").interval for seed in (1, 1, 2))
    assert one == again
    assert one != other


# Bad input


def test_one_model_is_no_comparison():
    with pytest.raises(InputError, match="two models or more"):
        compare([model("A", A)])


def test_other_cases_are_refused_by_name_unless_common():
    fewer = {case: scores for case, scores in B.items() if case != "c3"}
    with pytest.raises(InputError, match=r"B lacks c3.*--common"):
        compare([model("A", A), model("B", fewer)])
    result = compare([model("A", A), model("B", fewer)], common=True)
    assert len(result.cases) == 7
    assert result.left_out == {"A": ("c3",)}
    assert any("Left out: c3" in note for note in result.notes)


def test_a_failed_case_is_refused_with_its_reason():
    fewer = {case: scores for case, scores in B.items() if case != "c3"}
    failed = model("B", fewer, failures=[{"case": "c3", "reason": "it lies elsewhere", "code": ""}])
    with pytest.raises(InputError, match="c3: it lies elsewhere"):
        compare([model("A", A), failed])


def test_no_case_in_common_is_refused_even_if_common():
    with pytest.raises(InputError, match="no case in common"):
        compare([model("A", A), model("B", {"x": (1, 1)})], common=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "one"}, "rule for absent structures: nan, and one"),
        ({"present": 21}, r"different references: case c0, label 1: 20 of 100 voxels, and 21"),
        ({"names": ("liver", "cyst")}, "the value 2 is tumour in A, cyst in B"),
        ({"definitions": DEFINITIONS | {"Dice": "of surfaces"}}, "definition of Dice"),
    ],
)
def test_scores_of_another_kind_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        compare([model("A", A), model("B", B, **options)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": "voxel"}, "units: mm, and voxel"),
        ({"empty": {"rule": "nan", "penalty": "diagonal"}}, "exactly one mask: none, and diagonal"),
        ({"preset": {"faces": "open"}}, "ends of the scan: not stated, and open"),
        ({"definitions": DEFINITIONS | {"HD95": "pooled"}}, "definition of HD95"),
    ],
)
def test_distances_of_another_kind_are_refused(options, words):
    pair = [model("A", A, metric="HD95"), model("B", B, metric="HD95", **options)]
    with pytest.raises(InputError, match=words):
        compare(pair, "HD95")


def test_other_choices_about_distances_do_not_matter_for_dice():
    assert compare([model("A", A), model("B", B, units="voxel")]).differences


def test_other_labels_are_refused():
    with pytest.raises(InputError, match="label tables differ: A has 1, 2, B has 1"):
        compare([model("A", A), model("B", {case: scores[:1] for case, scores in B.items()})])


def test_a_metric_that_a_summary_lacks_is_refused():
    theirs = Model("nnU-Net", "x", Summary.of(content(B, nnunet=True), "x"))
    ours = model("ours", A, metric="HD95")
    with pytest.raises(InputError, match=r"nnU-Net: x has no HD95, only Dice, IoU"):
        compare([ours, theirs], "HD95")


@pytest.mark.parametrize(("metric", "tie"), [("dice", 0.0), ("Speed", 0.0), ("Dice", -1.0), ("Dice", NAN)])
def test_nonsense_is_refused(metric, tie):
    with pytest.raises(ConfigError):
        compare([model("A", A), model("B", B)], metric, tie=tie)


# Files


@pytest.fixture
def folders(pairs, save, tmp_path):
    """Two folders of predictions and the references; the second model is worse in case a."""
    guess, truth = pairs
    worse = tmp_path / "worse"
    shutil.copytree(guess, worse)
    data = np.zeros((6, 5, 4), np.uint8)
    data[:3, :2] = 1
    save(worse / "a.nii.gz", data)
    return guess, worse, truth


def gathered(given, reference=None, **options):
    return gather([str(item) for item in given], reference, preset=DEFAULT, **options)


def test_folders_are_scored(folders):
    *models, truth = folders
    result = compare(gathered(models, truth))
    assert [each.name for each in result.models] == ["guess", "worse"]
    assert row(result, "1").interval.value == pytest.approx((1 - 6 / 7) / 2)
    assert row(result, "7").interval.value == 1
    assert row(result, "7").name == "7"


def test_a_summary_and_a_folder_agree(folders, labels):
    from voxelsam.evaluate.run import evaluate

    guess, worse, truth = folders
    evaluate(worse, truth, out=truth.parent / "second" / "summary.json", labels=labels, preset="nnunet")
    by_file = compare(gathered((guess, truth.parent / "second" / "summary.json"), truth), "Dice")
    by_folder = compare(gathered((guess, worse), truth))
    assert [each.interval for each in by_file.differences] == [each.interval for each in by_folder.differences]
    assert row(by_file, "1").name == "liver"


def test_distances_of_folders_are_measured(folders):
    *models, truth = folders
    result = compare(gathered(models, truth, metric="HD95"), "HD95")
    assert row(result, "1").interval.value < 0
    assert dict(row(result, "7").undefined) == {"first": 0, "second": 1, "both": 1}


def test_a_run_is_found_by_its_validation(folders, tmp_path):
    guess, worse, truth = folders
    run = tmp_path / "run"
    shutil.copytree(worse, run / "validation")
    (run / "progress.png").write_bytes(b"")
    result = compare(gathered((guess, run), truth))
    assert [each.name for each in result.models] == ["guess", "run"]
    (run / "validation" / "summary.json").write_text(json.dumps(content(A)))
    other = tmp_path / "other" / "summary.json"
    other.parent.mkdir()
    other.write_text(json.dumps(content(B)))
    result = compare(gathered((run, other)))
    assert [each.name for each in result.models] == ["run", "other"]


def test_names_are_chosen_or_made_unlike(folders, tmp_path):
    guess, worse, truth = folders
    for name in ("one", "two"):
        shutil.copytree(guess, tmp_path / name / "masks")
    found = gathered((tmp_path / "one/masks", tmp_path / "two/masks", f"mine={worse}"), truth)
    assert [each.name for each in found] == ["one/masks", "two/masks", "mine"]


def test_tables_made_from_values_are_the_same_for_all(folders, save):
    """The second model invents a value that neither the references nor the other model has."""
    guess, worse, truth = folders
    data = np.zeros((6, 5, 4), np.uint8)
    data[0, 0] = 9
    save(worse / "b.nii.gz", data, labels=type_with_nine())
    result = compare(gathered((guess, worse), truth))
    assert result.labels == ("1", "7", "9")
    assert dict(row(result, "9").undefined) == {"first": 1, "second": 0, "both": 1}


def type_with_nine():
    from voxelsam.volumes.labels import Labels

    return Labels({"background": 0, "odd": 9})


def test_references_without_any_prediction_are_said(folders):
    guess, worse, truth = folders
    shutil.copy(truth / "a.nii.gz", truth / "z.nii.gz")
    result = compare(gathered((guess, worse), truth))
    assert result.cases == ("a", "b")
    assert any("No model has a prediction for z" in note for note in result.notes)


def test_a_missing_prediction_is_refused(folders):
    guess, worse, truth = folders
    (worse / "b.nii.gz").unlink()
    with pytest.raises(InputError, match="worse lacks b"):
        compare(gathered((guess, worse), truth))


def test_references_are_compared_by_their_content(folders, tmp_path):
    """The same number of voxels, in other places."""
    from voxelsam.evaluate.run import evaluate

    guess, worse, truth = folders
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(truth, same)
    shutil.copytree(truth, other)
    for name, references in (("x", truth), ("y", same), ("z", other)):
        evaluate(guess if name == "x" else worse, references, out=tmp_path / name / "summary.json", preset="nnunet")
    assert compare(gathered((tmp_path / "x", tmp_path / "y"))).cases == ("a", "b")
    import nibabel

    image = nibabel.load(other / "b.nii.gz")
    turned = np.asarray(image.dataobj)[::-1].copy()
    nibabel.save(nibabel.Nifti1Image(turned, image.affine, image.header), other / "b.nii.gz")
    with pytest.raises(InputError, match=r"different references: case b, .* differ"):
        compare(gathered((tmp_path / "x", tmp_path / "z")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("guess",), "two models or more"),
        (("guess", "guess"), "is there twice"),
        (("one=guess", "two=guess"), "one and two are the same folder"),
        (("one=guess", "one=worse"), "two models are named one"),
        (("guess", "nowhere"), "nowhere is none"),
        (("guess", "empty"), "neither predictions nor a summary"),
        (("guess", "link"), "are the same folder"),
    ],
)
def test_models_that_make_no_comparison_are_refused(folders, tmp_path, monkeypatch, given, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "guess")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InputError, ConfigError), match=words):
        gathered(given, folders[2])


def test_predictions_need_references(folders):
    with pytest.raises(InputError, match="give the references with -r"):
        gathered(folders[:2])


# Pages


def test_everything_is_written(tmp_path):
    compare([model("A", A), model("B", B)]).write(tmp_path / "new")
    found = json.loads((tmp_path / "new" / "compare.json").read_text())
    assert found["differences"][0]["mean"] == pytest.approx(0.0375)
    assert found["empty"]["rule"] == "nan"
    assert found["method"]["seed"] == 1234
    rows = list(csv.DictReader(io.StringIO((tmp_path / "new" / "compare.csv").read_text())))
    assert len(rows) == 16
    assert rows[0] | {"A": float(rows[0]["A"])} == {
        "case": "c0", "patient": "c0", "class": "liver", "label": "1", "metric": "Dice", "A": 0.9, "B": "0.88",
    }  # fmt: skip
    page = (tmp_path / "new" / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "0.037 [0.0" in page or "0.038 [0.0" in page


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names():
    wild = {f"<script>alert({n})</script>": (0.5 + 0.01 * n, 0.5) for n in range(3)}
    names = {"names": ("<b>liver</b>", "$tumour_{$")}
    page = compare([model("<script>x</script>", wild, **names), model("B & C", wild, **names)]).to_html()
    assert "<script" not in page.lower()
    assert "<b>liver" not in page
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", page)
    assert not re.search(r"@import|url\(", page)


def test_a_page_without_any_score(tmp_path):
    nothing = {"a": (NAN,), "b": (NAN,)}
    page = compare([model("A", nothing), model("B", nothing)]).to_html()
    assert "no case has both scores" in page
    assert "data:image" not in page


def test_a_comparison_does_not_change_what_it_compares():
    summary = content(A)
    before = copy.deepcopy(summary)
    compare([Model("A", "a", Summary.of(summary, "a")), model("B", B)])
    assert summary == before
