"""``voxelsam evaluate --interactive``, in process: which cases it takes, and what it leaves beside the scores."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from voxelsam.bundle import Bundle
from voxelsam.cli.evaluate import evaluate
from voxelsam.data.phantom import ORGANS
from voxelsam.errors import ConfigError, OutputError, VoxelSamError
from voxelsam.layouts import open_dataset
from voxelsam.record import digest

LABELS = {"background": 0} | {name: value for value, name in enumerate(ORGANS, 1)}


@pytest.fixture(scope="module")
def model(learnt: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "prompted"
    learnt(("point", "box"), labels=LABELS).save(folder)
    return folder


def run(*words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and the study as JSON."""
    app = typer.Typer()
    app.command()(evaluate)
    result = CliRunner().invoke(app, ["--interactive", "--way", "none", "--json", "--device", "cpu", *map(str, words)])
    if isinstance(result.exception, VoxelSamError):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def test_the_study_leaves_a_record_of_model_plan_and_cases(model: Path, phantom: Path, tmp_path: Path) -> None:
    source = shutil.copytree(phantom, tmp_path / "data")
    dataset = open_dataset(source)
    (held_out,) = dataset.split(1)[1]
    code, shown = run("-m", model, "-r", source, "--fold", 1, "-o", tmp_path / "study")
    assert code == 0
    assert {score["case"] for score in shown["scores"]} == {held_out.id}
    written = (tmp_path / "study" / "run.json").read_text()
    (entry,) = json.loads(written)["runs"]
    assert (entry["command"], entry["status"]) == ("evaluate", "done")
    assert entry["settings"]["fold"] == 1
    assert entry["plan"]["ways"] == ["none"]
    assert entry["bundle"]["weights_sha256"] == json.loads((model / "bundle.json").read_text())["weights_sha256"]
    assert list(entry["cases"]) == [held_out.id]
    assert entry["cases"][held_out.id]["status"] == "scored"
    assert entry["cases"][held_out.id]["sha256"] == digest([*held_out.images, held_out.label or Path()])
    assert str(tmp_path) not in written


def test_a_case_that_cannot_be_used_stands_in_the_record(model: Path, phantom: Path, tmp_path: Path) -> None:
    source = shutil.copytree(phantom, tmp_path / "data")
    (source / "splits.json").unlink()
    broken = open_dataset(source).train[1]
    (broken.label or Path()).write_bytes(b"no label map")
    code, shown = run("-m", model, "-r", source, "-o", tmp_path / "study")
    assert code == 1
    assert list(shown["failures"]) == [broken.id]
    cases = json.loads((tmp_path / "study" / "run.json").read_text())["runs"][0]["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        case.id: "failed" if case.id == broken.id else "scored" for case in open_dataset(source).train
    }


def test_without_declared_folds_every_labelled_case_is_taken(model: Path, phantom: Path, tmp_path: Path) -> None:
    source = shutil.copytree(phantom, tmp_path / "data")
    assert len({score["case"] for score in run("-m", model, "-r", source)[1]["scores"]}) == 1
    (source / "splits.json").unlink()
    every = {case.id for case in open_dataset(source).train}
    assert len(every) == 3
    assert {score["case"] for score in run("-m", model, "-r", source)[1]["scores"]} == every


def test_a_study_replaces_nothing_and_takes_no_masks(model: Path, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="is not empty"):
        run("-m", model, "-r", phantom, "-o", tmp_path)
    with pytest.raises(ConfigError, match="takes no predictions"):
        run("-m", model, "-r", phantom, "-i", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
