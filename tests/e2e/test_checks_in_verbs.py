"""Training, prediction, prompts and evaluation run the same checks by default, and say in their record what was passed.

Each verb is run by its command line on two or three cases of which one is odd.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import pytest

from voxelsam.bundle import Bundle
from voxelsam.catalogue import CATALOGUE

Run = Callable[..., tuple[int, str, str]]
Trouble = Literal["nothing", "warning", "error"]

QUICK = [
    part
    for setting in (
        "stack.size=[32,32]", "stack.depth=3", "adapt.name=ma_sam", "adapt.rank=4", "adapt.width=16", "train.epochs=1",
        "train.stacks_per_epoch=2", "train.device=cpu",
    )
    for part in ("--set", setting)
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What the verbs work with."""

    data: Path
    """The phantom."""
    model: Path
    """A bundle that answers with and without prompts."""
    folder: Path

    @property
    def output(self) -> Path:
        """Where results go."""
        return self.folder / "out"


@pytest.fixture(scope="module")
def model(learnt: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    learnt().save(folder)
    return folder


@pytest.fixture
def setting(phantom: Path, model: Path, tmp_path: Path) -> Setting:
    return Setting(phantom, model, tmp_path)


def edited(path: Path, change: Callable[[np.ndarray, np.ndarray, Any], np.ndarray]) -> None:
    """Writes a NIfTI file again; ``change`` sees voxels, affine and header, and gives the voxels."""
    image = nibabel.load(path)
    affine, header = image.affine.copy(), image.header.copy()
    data = change(np.asarray(image.dataobj).copy(), affine, header)
    header.set_data_dtype(data.dtype)
    new = nibabel.Nifti1Image(data, affine, header)
    new.set_sform(affine, 1)
    new.set_qform(affine, 1)
    new.header["xyzt_units"] = header["xyzt_units"]
    nibabel.save(new, path)


def moved(path: Path, trouble: Trouble) -> None:
    """A label map 0.2 or 3 mm from where it belongs: GEO-02."""

    def change(data: np.ndarray, affine: np.ndarray, header: Any) -> np.ndarray:
        affine[0, 3] += {"nothing": 0, "warning": 0.2, "error": 3}[trouble]
        return data

    edited(path, change)


def spoilt(path: Path, trouble: Trouble) -> None:
    """A scan whose header counts in metres (GEO-08), or that holds voxels that are no numbers (VAL-01)."""

    def change(data: np.ndarray, affine: np.ndarray, header: Any) -> np.ndarray:
        header.set_xyzt_units("meter" if trouble == "warning" else "mm")
        data = data.astype(np.float32)
        data[3, 3, 3] = np.nan if trouble == "error" else 0
        return data

    edited(path, change)


def train(setting: Setting, trouble: Trouble) -> list[object]:
    data = Path(shutil.copytree(setting.data, setting.folder / "data"))
    moved(data / "labelsTr" / f"{odd_case(setting)}.nii.gz", trouble)
    return ["train", data, "-o", setting.output, *QUICK]


def scans(setting: Setting, trouble: Trouble) -> Path:
    """Two scans, of which the first is odd."""
    folder = setting.folder / "scans"
    folder.mkdir()
    for path in sorted((setting.data / "imagesTr").iterdir())[:2]:
        shutil.copy(path, folder / path.name.replace("_0000", ""))
    spoilt(folder / f"{odd_case(setting)}.nii.gz", trouble)
    return folder


def predict(setting: Setting, trouble: Trouble) -> list[object]:
    source = scans(setting, trouble)
    return ["predict", "-m", setting.model, "-i", source, "-o", setting.output, "--overlap", 0, "--device", "cpu"]


def prompt(setting: Setting, trouble: Trouble) -> list[object]:
    source = scans(setting, trouble) / f"{odd_case(setting)}.nii.gz"
    click = ["--point", "9,3,9,spleen"]
    return ["prompt", "-m", setting.model, "-i", source, "-o", setting.output, *click, "--device", "cpu"]


def evaluate(setting: Setting, trouble: Trouble) -> list[object]:
    predictions = setting.folder / "masks"
    shutil.copytree(setting.data / "labelsTr", predictions)
    moved(predictions / f"{odd_case(setting)}.nii.gz", trouble)
    return ["evaluate", "-i", predictions, "-r", setting.data / "labelsTr", "-o", setting.output / "summary.json"]


def odd_case(setting: Setting) -> str:
    return sorted(path.name.removesuffix("_0000.nii.gz") for path in (setting.data / "imagesTr").iterdir())[0]


@dataclass(frozen=True)
class Verb:
    """One command, and what its odd case gives."""

    arguments: Callable[[Setting, Trouble], list[object]]
    warning: str
    error: str
    exit: int
    """Exit code if the odd case has an error."""
    others: int
    """Cases that get results in spite of it."""


VERBS = {
    "train": Verb(train, "GEO-02", "GEO-02", 2, 0),
    "predict": Verb(predict, "GEO-08", "VAL-01", 1, 1),
    "prompt": Verb(prompt, "GEO-08", "VAL-01", 2, 0),
    "evaluate": Verb(evaluate, "GEO-02", "GEO-02", 1, 2),
}

verbs = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


def last_run(setting: Setting) -> dict[str, Any]:
    """The latest entry of the record; it holds no paths."""
    text = (setting.output / "run.json").read_text("utf-8")
    for path in (setting.folder, setting.data, setting.model):
        assert str(path) not in text
    assert ".nii" not in text
    entry: dict[str, Any] = json.loads(text)["runs"][-1]
    assert entry["status"] == "done"
    return entry


@verbs
def test_nothing_wrong_is_nothing_found(run: Run, setting: Setting, verb: Verb) -> None:
    code, out, err = run(*verb.arguments(setting, "nothing"))
    assert code == 0, out + err
    entry = last_run(setting)
    assert entry["checks"]["accepted"] == []
    assert not {verb.warning, verb.error} & set(entry["checks"]["found"])
    assert verb.error not in err


@verbs
def test_a_warning_is_shown_and_stands_in_the_record_with_its_case(run: Run, setting: Setting, verb: Verb) -> None:
    code, _, err = run(*verb.arguments(setting, "warning"))
    assert code == 0, err
    assert f"warning: {verb.warning}: " in err
    entry = last_run(setting)
    found = entry["checks"]["found"][verb.warning]
    assert (found["severity"], found["cases"]) == ("warning", [odd_case(setting)])
    assert found["title"] == CATALOGUE[verb.warning].title
    assert {"code": verb.warning, "severity": "warning"} in entry["cases"][odd_case(setting)]["findings"]
    assert entry["checks"]["accepted"] == []


@verbs
def test_an_error_stops_its_case_with_its_code(run: Run, setting: Setting, verb: Verb) -> None:
    code, out, err = run(*verb.arguments(setting, "error"))
    assert code == verb.exit
    assert verb.error in out + err
    assert odd_case(setting) in out + err
    results = setting.output / "run.json"
    assert results.exists() is bool(verb.others)
    if verb.others:
        cases = last_run(setting)["cases"]
        assert cases[odd_case(setting)]["status"] == "failed"
        assert sum(case["status"] != "failed" for case in cases.values()) == verb.others
    else:
        assert not setting.output.exists()


@verbs
def test_an_accepted_error_is_passed_and_recorded(run: Run, setting: Setting, verb: Verb) -> None:
    code, _, err = run(*verb.arguments(setting, "error"), "--accept", verb.error)
    assert code == 0, err
    entry = last_run(setting)
    assert entry["checks"]["accepted"] == [verb.error]
    found = entry["checks"]["found"][verb.error]
    assert (found["severity"], found["cases"]) == ("warning", [odd_case(setting)])
    assert entry["cases"][odd_case(setting)]["status"] != "failed"


@verbs
def test_accepting_another_check_changes_nothing(run: Run, setting: Setting, verb: Verb) -> None:
    code, out, err = run(*verb.arguments(setting, "error"), "--accept", "SET-02")
    assert code == verb.exit
    assert verb.error in out + err


@verbs
@pytest.mark.parametrize(("bad", "complaint"), [("GEO-99", "no check GEO-99"), ("SET-03", "cannot be accepted")])
def test_codes_that_cannot_be_accepted_stop_before_anything_is_written(
    run: Run, setting: Setting, verb: Verb, bad: str, complaint: str
) -> None:
    code, _, err = run(*verb.arguments(setting, "nothing"), "--accept", bad)
    assert code == 2
    assert complaint in err
    assert not setting.output.exists()


def test_what_a_recipe_accepts_is_passed_and_recorded(run: Run, setting: Setting) -> None:
    arguments = train(setting, "error")
    recipe = setting.folder / "recipe.yaml"
    recipe.write_text("data: {accept: [GEO-02]}\n")
    code, _, err = run(*arguments, "--config", recipe)
    assert code == 0, err
    entry = last_run(setting)
    assert entry["checks"]["accepted"] == ["GEO-02"]
    assert entry["checks"]["found"]["GEO-02"]["cases"] == [odd_case(setting)]
    assert entry["recipe"]["data"]["accept"] == ["GEO-02"]


@pytest.mark.parametrize("bad", ["GEO-99", "SET-03"])
def test_a_recipe_that_accepts_what_cannot_be_is_refused(run: Run, setting: Setting, bad: str) -> None:
    code, _, err = run(*train(setting, "nothing"), "--set", f"data.accept=[{bad}]")
    assert code == 2
    assert bad in err
    assert not setting.output.exists()


def test_what_was_accepted_stays_so_when_a_run_goes_on(
    run: Run, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxelsam.train.module import TrainingModule

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", interrupted)
        code, _, err = run(*train(setting, "error"), "--accept", "GEO-02")
    assert code == 130, err
    shutil.rmtree(setting.output / "cache")
    code, _, err = run("train", "-o", setting.output, "--continue")
    assert code == 0, err
    entry = last_run(setting)
    assert entry["checks"]["accepted"] == ["GEO-02"]
    assert entry["checks"]["found"]["GEO-02"]["cases"] == [odd_case(setting)]
    runs = json.loads((setting.output / "run.json").read_text())["runs"]
    assert [one["status"] for one in runs] == ["interrupted", "done"]


def test_training_lists_every_case_that_stops_it_with_its_code(run: Run, setting: Setting) -> None:
    arguments = train(setting, "error")
    name = odd_case(setting)
    image = next(path for path in (setting.folder / "data" / "imagesTr").iterdir() if name not in path.name)
    spoilt(image, "error")
    code, _, err = run(*arguments)
    assert code == 2
    assert "error VAL-01: 2 of 3 cases cannot be used" in err
    assert f"{name}: GEO-02: " in err
    assert f"{image.name.removesuffix('_0000.nii.gz')}: VAL-01: " in err


def test_references_are_checked_as_labels_are_before_training(run: Run, setting: Setting) -> None:
    references = Path(shutil.copytree(setting.data / "labelsTr", setting.folder / "references"))
    edited(references / f"{odd_case(setting)}.nii.gz", lambda data, affine, header: np.zeros_like(data))
    code, _, err = run(
        "evaluate", "-i", setting.data / "labelsTr", "-r", references, "-o", setting.output / "summary.json"
    )
    assert code == 0, err
    assert "warning: LAB-03: " in err
    assert last_run(setting)["checks"]["found"]["LAB-03"]["cases"] == [odd_case(setting)]


def test_two_references_of_one_content_are_told(run: Run, setting: Setting) -> None:
    references = Path(shutil.copytree(setting.data / "labelsTr", setting.folder / "references"))
    first, second, _ = sorted(references.iterdir())
    shutil.copy(first, second)
    _, _, err = run("evaluate", "-i", setting.data / "labelsTr", "-r", references, "-o", setting.output)
    assert "warning: SET-01: " in err
    assert "have the same voxels" in err
    assert "images differ" not in err
