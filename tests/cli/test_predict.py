"""``voxelsam predict``: several models, augmented views, and flags."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxelsam import bundle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folds(trained: Path, tmp_path: Path) -> Path:
    """Two folds: the best and a changed copy of it."""
    folder = tmp_path / "cv"
    shutil.copytree(trained / "best", folder / "fold_0" / "best")
    one = bundle.load(trained / "best")
    bundle.Bundle(one.description, {name: tensor * 1.01 for name, tensor in one.tensors.items()}).save(
        folder / "fold_1" / "best"
    )
    return folder


def entry(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


def test_folds_and_their_bundles_are_one_ensemble(run: Run, folds: Path, phantom: Path, tmp_path: Path) -> None:
    scans, out = phantom / "imagesTs", tmp_path / "out"
    code, said, err = run(
        "predict", "-m", folds, "-i", scans, "-o", out, "--overlap", 0, "--json", "--save-probabilities"
    )
    assert code == 0, err
    (case,) = json.loads(said)
    assert case["quality"]["views"] == 2
    record = entry(out)
    hashes = [bundle.load(folds / f"fold_{n}" / "best").description.weights_sha256 for n in (0, 1)]
    assert record["made_by"]["bundle"] == sorted(hashes)  # type: ignore[index]
    assert {one["weights_sha256"] for one in record["runs"][0]["bundle"]["members"]} == set(hashes)  # type: ignore[index]
    both = ("-m", folds / "fold_1" / "best", "-m", folds / "fold_0" / "best")
    code, said, err = run("predict", *both, "-i", scans, "-o", out, "--overlap", 0, "--continue", "--json")
    assert (code, [one["status"] for one in json.loads(said)]) == (0, ["kept"]), err
    alone = ("predict", "-m", folds / "fold_0" / "best", "-i", scans, "-o", out, "--overlap", 0, "--continue")
    code, _, err = run(*alone)
    assert code == 2
    assert "another model" in err


def test_an_ensemble_of_one_has_the_mask_of_the_model(run: Run, trained: Path, phantom: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "best", tmp_path / "cv" / "fold_0" / "best")
    masks = []
    for model, name in ((trained / "best", "a"), (tmp_path / "cv", "b")):
        arguments = ("predict", "-m", model, "-i", phantom / "imagesTs", "-o", tmp_path / name, "--overlap", 0)
        assert run(*arguments)[0] == 0
        (mask,) = (tmp_path / name).glob("*.nii.gz")
        masks.append(np.asarray(nib.load(mask).dataobj))
    assert np.array_equal(*masks)
    assert entry(tmp_path / "a")["made_by"] == entry(tmp_path / "b")["made_by"]


def test_views_are_recorded_and_never_mixed(run: Run, trained: Path, phantom: Path, tmp_path: Path) -> None:
    arguments = ("predict", "-m", trained / "best", "-i", phantom / "imagesTs", "-o", tmp_path / "out", "--overlap", 0)
    code, said, _ = run(*arguments, "--tta", "--json")
    assert code == 0
    assert json.loads(said)[0]["quality"]["views"] == 3
    views = entry(tmp_path / "out")["runs"][0]["settings"]["tta"]  # type: ignore[index]
    assert views == [["plain", "95 %, up left", "95 %, down right"]]
    assert run(*arguments, "--tta", "--continue")[0] == 0
    code, _, err = run(*arguments, "--no-tta", "--continue")
    assert code == 2
    assert "another model or setting" in err


def test_a_doubtful_mask_is_warned_of_unless_accepted(
    run: Run, learnt: Callable[..., bundle.Bundle], phantom: Path, tmp_path: Path
) -> None:
    learnt(labels={"background": 0, "spleen": 1, "liver": 2}).save(tmp_path / "model")
    names = ("spleen", "liver")
    bundle.judge(
        tmp_path / "model", {"confidence": dict.fromkeys(names, 2.0), "expected_dice": dict.fromkeys(names, 2)}
    )
    arguments = ("predict", "-m", tmp_path / "model", "-i", phantom / "imagesTs", "--overlap", 0)
    code, _, err = run(*arguments, "-o", tmp_path / "a")
    assert code == 0
    assert "warning: QUA-01: " in err
    assert "below 2.00 (from validation)" in err
    rows = list(csv.DictReader((tmp_path / "a" / "quality.csv").read_text("utf-8").splitlines()))
    assert any("QUA-01 confidence" in row["flags"] for row in rows)
    assert "QUA-01" in entry(tmp_path / "a")["runs"][0]["checks"]["found"]  # type: ignore[index]
    code, _, err = run(*arguments, "-o", tmp_path / "b", "--accept", "QUA-01")
    assert code == 0
    assert "QUA-01" not in err
    assert (tmp_path / "b" / "quality.csv").read_text() == (tmp_path / "a" / "quality.csv").read_text()


def wrong(folds: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    one = folds / "fold_0" / "best"
    return {
        "twice": ((one, one), "given twice"),
        "other labels": ((one, folds / "other"), "cannot be averaged"),
        "nothing there": ((one, folds / "nowhere"), "not a bundle"),
        "unfinished": ((folds / "open",), "fold_3 has no best"),
    }


@pytest.mark.parametrize("name", ["twice", "other labels", "nothing there", "unfinished"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
def test_models_that_do_not_go_together_are_refused(
    run: Run, folds: Path, phantom: Path, tmp_path: Path, name: str, dry: tuple[str, ...]
) -> None:
    shutil.copytree(folds / "fold_0" / "best", folds / "other")
    path = folds / "other" / bundle.DESCRIPTION
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"labels": {**record["labels"], "spleen": 99}}))
    (folds / "open" / "fold_3").mkdir(parents=True)
    models, complaint = wrong(folds)[name]
    options = [word for model in models for word in ("-m", model)]
    code, _, err = run("predict", *options, "-i", phantom / "imagesTs", "-o", tmp_path / "out", *dry)
    assert code == 2
    assert complaint in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_record_names_the_arithmetic(
    run: Run, trained: Path, phantom: Path, tmp_path: Path, precision: str
) -> None:
    masks = {}
    for kind in ("fp32", precision):
        out = tmp_path / kind
        arguments = ("-m", trained / "best", "-i", phantom / "imagesTs", "-o", out, "--overlap", 0, "--precision", kind)
        code, _, err = run("predict", *arguments)
        assert code == 0, err
        assert entry(out)["runs"][0]["arithmetic"].split()[0] == kind  # type: ignore[index]
        (mask,) = out.glob("*.nii.gz")
        masks[kind] = np.asarray(nib.load(mask).dataobj)
    assert (masks["fp32"] == masks[precision]).mean() > 0.95
    code, _, err = run("predict", *arguments[:-1], "fp32", "--continue")
    assert (code, "were made by another model or setting" in err) == (2, True), err


def test_half_precision_that_a_processor_computes_slowly_is_refused(
    run: Run, trained: Path, phantom: Path, tmp_path: Path
) -> None:
    arguments = ("-m", trained / "best", "-i", phantom / "imagesTs", "-o", tmp_path / "out")
    code, _, err = run("predict", *arguments, "--precision", "fp16", "--device", "cpu")
    assert (code, "processors compute fp16 slower than fp32" in err) == (2, True), err
    assert not (tmp_path / "out").exists()
