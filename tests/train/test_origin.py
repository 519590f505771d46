"""A run does not go on with other data or another recipe, and says what changed; what does not matter may change."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from voxelsam.errors import ConfigError, InputError, InputWarning, OutputError, WeightsError
from voxelsam.train.job import go_on
from voxelsam.train.origin import FILE, FREE


@pytest.fixture
def data(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom data set that may be changed."""
    return Path(shutil.copytree(phantom, tmp_path / "data"))


@pytest.fixture
def folder(trained: Path, data: Path, tmp_path: Path) -> Path:
    """A copy of a run, on the copy of its data."""
    copy = Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "tensorboard")))
    edit(copy, data={"root": str(data)})
    return copy


def edit(folder: Path, **sections: dict[str, Any]) -> None:
    """Changes keys of a run's recipe by hand."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for name, values in sections.items():
        recipe[name] |= values
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def split(data: Path) -> dict[str, list[str]]:
    return dict(json.loads((data / "splits.json").read_text())[0])


def redrawn(data: Path) -> str:
    """Changes one voxel of a training label; gives the case."""
    name = split(data)["train"][0]
    path = data / "labelsTr" / f"{name}.nii.gz"
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[0, 0, 0] = 1 - min(values[0, 0, 0], 1)
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    return f"case {name}: {name}.nii.gz changed"


def swapped(data: Path) -> str:
    record = json.loads((data / "splits.json").read_text())
    record[0]["train"][0], record[0]["val"][0] = record[0]["val"][0], record[0]["train"][0]
    (data / "splits.json").write_text(json.dumps(record))
    return f"case {record[0]['val'][0]}: train → val"


def left_out(data: Path) -> str:
    record = json.loads((data / "splits.json").read_text())
    gone = record[0]["train"].pop()
    (data / "splits.json").write_text(json.dumps(record))
    return f"case {gone} (train) is gone"


def renamed(data: Path) -> str:
    record = json.loads((data / "dataset.json").read_text())
    record["labels"]["hepar"] = record["labels"].pop("liver")
    (data / "dataset.json").write_text(json.dumps(record))
    return "label hepar: nothing →"


@pytest.mark.parametrize("change", [redrawn, swapped, left_out, renamed])
def test_changed_data_is_refused_and_named(folder: Path, data: Path, change: Callable[[Path], str]) -> None:
    named = change(data)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as stop:
        go_on(folder)
    assert stop.value.code == "SET-01"
    assert named in str(stop.value)
    assert "Bring it back, or start a new run" in str(stop.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_all_changes_come_at_once(folder: Path, data: Path) -> None:
    expected = [redrawn(data), renamed(data), "train.seed: 5 → 6"]
    edit(folder, train={"seed": 6})
    with pytest.raises(InputError) as stop:
        go_on(folder)
    assert all(line in str(stop.value) for line in expected)


def test_the_same_bytes_with_another_date_are_the_same_data(folder: Path, data: Path) -> None:
    for path in data.rglob("*.nii.gz"):
        os.utime(path, ns=(1, 1))
    assert go_on(folder).resumes


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("train", {"lr": 0.002}, "train.lr: 0.001 → 0.002"),
        ("train", {"epochs": 3}, "train.epochs: 2 → 3"),
        ("train", {"batch": 1}, "train.batch: 2 → 1"),
        ("train", {"precision": "bf16"}, "train.precision: fp32 → bf16"),
        ("stack", {"size": [64, 64]}, "stack.size: [32, 32] → [64, 64]"),
        ("adapt", {"rank": 8}, "adapt.rank: 4 → 8"),
    ],
)
def test_an_edited_recipe_is_refused_and_the_key_named(
    folder: Path, section: str, values: dict[str, Any], named: str
) -> None:
    edit(folder, **{section: values})
    with pytest.raises(ConfigError) as stop:
        go_on(folder)
    assert named in str(stop.value)


def test_how_the_work_is_done_may_change(folder: Path) -> None:
    edit(folder, train={"workers": 1, "device": "auto", "save_every": 3})
    assert go_on(folder).recipe.train.workers == 1
    assert go_on(folder, {"train": {"workers": 2}}).recipe.train.workers == 2


def test_only_what_may_change_can_be_set(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.lr cannot be set; only these may change: .*train\.devices"):
        go_on(folder, {"train": {"lr": 1.0, "workers": 2}})


def test_every_key_that_may_change_is_a_key(folder: Path) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    for key in FREE:
        section, name = key.split(".")
        assert name in recipe[section], key


def test_a_backbone_with_other_weights_is_refused(folder: Path) -> None:
    record = json.loads((folder / FILE).read_text())
    record["backbone"]["sha256"] = "0" * 64
    (folder / FILE).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"backbone: sam-tiny 0000000000000000… → sam-tiny") as stop:
        go_on(folder)
    assert stop.value.code == "WEI-01"


def test_another_version_is_worth_a_warning(folder: Path) -> None:
    record = json.loads((folder / FILE).read_text())
    record["versions"]["torch"] = "1.0"
    (folder / FILE).write_text(json.dumps(record))
    with pytest.warns(InputWarning, match=r"other versions .*torch 1\.0 → "):
        assert go_on(folder).resumes


def test_a_run_of_an_older_version_goes_on_with_a_warning(folder: Path) -> None:
    (folder / FILE).unlink()
    with pytest.warns(InputWarning, match="does not say what its files were"):
        assert go_on(folder).resumes


def test_a_damaged_account_of_the_start_is_an_error(folder: Path) -> None:
    (folder / FILE).write_text("{")
    with pytest.raises(OutputError, match=r"origin\.json does not say"):
        go_on(folder)


def test_the_command_says_it_with_its_code(folder: Path, data: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    named = redrawn(data)
    code, _, said = run("train", "-o", folder, "--continue")
    assert code == 2
    assert "SET-01" in said
    assert named in said
