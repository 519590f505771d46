"""A cross-validation through the command: every case is judged by the model that never saw it."""

import json
import shutil
from pathlib import Path

import pytest

from voxelsam import crossval
from voxelsam.errors import ConfigError, InputError
from voxelsam.validation import Validation, pool

SHORT = ("--set", "train.epochs=1", "--set", "train.stacks_per_epoch=2", "--set", "stack.size=[64,64]")


@pytest.fixture(scope="module")
def three(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of a cross-validation over three folds, and what the command printed."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("folds") / "run"
    command = [sys.executable, "-m", "voxelsam", "train", str(phantom), "-o", str(folder), "--fold", "all", *SHORT]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def cases(folder: Path) -> dict[str, dict]:
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    return {Path(case["reference_file"]).name: case["metrics"] for case in summary["metric_per_case"]}


def test_each_case_is_scored_once_by_the_model_that_did_not_learn_from_it(three) -> None:
    folder, printed = three
    pooled = cases(folder)
    assert len(pooled) == 3
    for fold in range(3):
        split = json.loads((folder / f"fold_{fold}" / "split.json").read_text())
        own = cases(folder / f"fold_{fold}")
        assert [name.partition(".")[0] for name in own] == split["val"]
        assert not set(split["val"]) & set(split["train"])
        assert all(pooled[name] == metrics for name, metrics in own.items())
    assert len(printed["folds"]) == 3
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert printed["validation"] == summary["mean"]
    for name in ("report.html", "trust.csv", "summary.csv"):
        assert (folder / "validation" / name).stat().st_size > 100


def test_the_masks_lie_beside_the_scores(three) -> None:
    folder, _ = three
    masks = {path.name: path.read_bytes() for path in (folder / "validation").glob("*.nii.gz")}
    parts = {path.name: path.read_bytes() for path in folder.glob("fold_*/validation/*.nii.gz")}
    assert masks == parts
    assert len(masks) == 3


def test_going_on_trains_only_what_is_missing(three, run, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(three[0], folder)
    trained = (folder / "fold_2" / "best" / "adaptation.safetensors").read_bytes()
    shutil.rmtree(folder / "fold_2")
    shutil.rmtree(folder / "validation")
    kept = (folder / "fold_1" / "best" / "adaptation.safetensors").read_bytes()
    assert run("train", "-o", folder, "--continue")[0] == 0
    assert (folder / "fold_1" / "best" / "adaptation.safetensors").read_bytes() == kept
    assert (folder / "fold_2" / "best" / "adaptation.safetensors").read_bytes() == trained
    assert cases(folder) == cases(three[0])


def test_the_folds_together_are_an_ensemble(three, run, phantom, tmp_path) -> None:
    code, _, _ = run("predict", "-m", three[0], "-i", phantom / "imagesTs", "-o", tmp_path / "masks")
    assert code == 0
    record = json.loads((tmp_path / "masks" / "run.json").read_text())
    assert len(record["made_by"]["bundle"]) == 3


def test_without_validation_there_is_none(run, phantom, tmp_path) -> None:
    assert run("train", phantom, "-o", tmp_path / "run", "--no-validate", "--fold", 1, *SHORT)[0] == 0
    assert not (tmp_path / "run" / "validation").exists()
    assert "fold: 1" in (tmp_path / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fold", "all", "--set", "data.fold=1"), "either all folds or data.fold"),
        (("--fold", "every"), "data.fold"),
        (("--fold", "7"), "fold 7 was asked for"),
    ],
)
def test_folds_that_cannot_be_are_refused(run, phantom, tmp_path, arguments, message) -> None:
    code, _, said = run("train", phantom, "-o", tmp_path / "run", *arguments, *SHORT)
    assert code == 2
    assert message in said
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_left_alone(run, phantom, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    code, _, said = run("train", phantom, "-o", tmp_path / "run", "--fold", "all", *SHORT)
    assert code == 2
    assert "is not empty" in said
    code, _, said = run("train", "-o", tmp_path / "run", "--fold", "all", "--continue")
    assert code == 2
    assert "no cross-validation to continue" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["note.txt"]


def test_declared_splits_that_overlap_are_no_cross_validation(phantom, tmp_path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    splits = json.loads((data / "splits.json").read_text())
    (data / "splits.json").write_text(json.dumps([splits[0], splits[0]]))
    with pytest.raises(ConfigError, match="is held out in several"):
        crossval.settled(data, {})
    assert crossval.settled(data, {"data": {"folds": 3}})[1] == 3


def test_without_declared_splits_there_are_five_or_as_many_as_patients(phantom, tmp_path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    (data / "splits.json").unlink()
    given, count = crossval.settled(data, {})
    assert count == 3
    assert given["data"]["folds"] == 3


def test_a_case_of_two_folds_is_refused(three) -> None:
    from voxelsam.evaluate.run import evaluate

    report = evaluate(three[0] / "fold_0" / "validation", _references(three[0]))
    part = Validation(three[0], report, {}, (), (), {})
    with pytest.raises(InputError, match="validated in two folds"):
        pool([part, part], three[0] / "twice")
    assert not (three[0] / "twice").exists()


def _references(folder: Path) -> dict[str, Path]:
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    places = [Path(case["reference_file"]) for case in summary["metric_per_case"]]
    return {place.name.partition(".")[0]: place for place in places}
