"""Training refuses splits whose validation would promise too much, before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]

SETTINGS = ["--set", "stack.size=[32, 32]", "--set", "stack.depth=3", "--set", "train.device=cpu"]


@pytest.fixture
def data(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom data set that may be changed."""
    return Path(shutil.copytree(phantom, tmp_path / "data"))


def split(data: Path) -> dict[str, list[str]]:
    return dict(json.loads((data / "splits.json").read_text())[0])


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def one_case_on_both_sides(data: Path) -> str:
    sides = split(data)
    edit(
        data / "splits.json", lambda folds: [{"train": sides["train"] + sides["val"], "val": sides["val"]}, *folds[1:]]
    )
    return sides["val"][0]


def one_scan_under_two_names(data: Path) -> str:
    sides = split(data)
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(data / folder / (sides["train"][0] + ending), data / folder / (sides["val"][0] + ending))
    return sides["val"][0]


def one_patient_on_both_sides(data: Path) -> str:
    sides = split(data)
    groups = {sides["train"][0]: "anna", sides["val"][0]: "anna", sides["train"][1]: "ben"}
    edit(data / "dataset.json", lambda record: record | {"groups": groups})
    return "anna"


@pytest.mark.parametrize("leak", [one_case_on_both_sides, one_scan_under_two_names, one_patient_on_both_sides])
def test_a_leak_between_training_and_validation_stops_the_run(
    run: Run, data: Path, tmp_path: Path, leak: Callable[[Path], str]
) -> None:
    named = leak(data)
    code, _, said = run("train", data, "-o", tmp_path / "run", *SETTINGS)
    assert code == 2
    assert "SET-02" in said
    assert named in said
    assert not (tmp_path / "run").exists()


def without(data: Path, cases: list[str], value: int) -> None:
    """Takes a structure out of the labels of some cases."""
    for case in cases:
        path = data / "labelsTr" / f"{case}.nii.gz"
        image = nib.load(path)
        values = np.asarray(image.dataobj).copy()
        values[values == value] = 0
        nib.save(nib.Nifti1Image(values, image.affine, image.header), path)


@pytest.mark.parametrize(("side", "stops"), [("train", True), ("val", False)])
def test_a_fold_without_a_structure_stops_or_warns_by_its_side(
    run: Run, data: Path, tmp_path: Path, side: str, stops: bool
) -> None:
    liver = json.loads((data / "dataset.json").read_text())["labels"]["liver"]
    without(data, split(data)[side], liver)
    last = ["--set", "train.epochs=1", "--set", "train.stacks_per_epoch=2"]
    code, _, said = run("train", data, "-o", tmp_path / "run", *SETTINGS, *last)
    words = "training" if side == "train" else "validation"
    assert f"LAB-03: {'' if stops else 'fold 0'}" in said
    assert f"no case of {words} shows liver" in said
    assert code == (2 if stops else 0)
    assert (tmp_path / "run").exists() != stops
