"""Training as a whole: run folder, resume, refusal."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from voxelsam import bundle
from voxelsam.errors import ConfigError, InputError, InputWarning, OutputError, WeightsError
from voxelsam.train import history
from voxelsam.train.job import go_on, start
from voxelsam.train.run import train

Settings = dict[str, dict[str, Any]]


def weights(run: Path, name: str = "last") -> dict[str, Any]:
    return {key: tensor.tolist() for key, tensor in load_file(run / name / bundle.WEIGHTS).items()}


def test_a_run_folder_holds_what_is_needed_to_repeat_and_to_predict(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"best", "last", "recipe.yaml", "fingerprint.json", "split.json", "metrics.csv", "state.ckpt"}
    rows = history.read(trained / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all({"loss", "val_dice", "dice/liver"} <= row.keys() for row in rows)
    split = json.loads((trained / "split.json").read_text())
    assert not set(split["train"]) & set(split["val"])


def test_the_recipe_is_resolved(trained: Path) -> None:
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    assert recipe["stack"]["plane"] == "axial"
    assert recipe["intensity"]["kind"] == "window"
    assert recipe["backbone"]["name"] == "sam-tiny"


def test_training_changes_the_weights_and_lowers_the_loss(phantom: Path, small: Settings, tmp_path: Path) -> None:
    settings = small | {"train": small["train"] | {"epochs": 6, "lr": 3e-3}}
    train(phantom, tmp_path / "run", settings=settings)
    losses = [row["loss"] for row in history.read(tmp_path / "run" / "metrics.csv")]
    assert losses[-1] < 0.9 * losses[0]


def test_the_same_seed_gives_the_same_weights(phantom: Path, small: Settings, trained: Path, tmp_path: Path) -> None:
    train(phantom, tmp_path / "again", settings=small)
    assert weights(tmp_path / "again") == weights(trained)
    other = small | {"train": small["train"] | {"seed": 6}}
    train(phantom, tmp_path / "other", settings=other)
    assert weights(tmp_path / "other") != weights(trained)


KILLED = """
import os, signal, sys, json
from pathlib import Path
from voxelsam.train import run
from voxelsam.train.module import TrainingModule
step = TrainingModule.training_step
def dying(self, batch, index):
    if self.current_epoch == 1 and index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
TrainingModule.training_step = dying
run.train(sys.argv[1], Path(sys.argv[2]), settings=json.loads(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_killed_run_with_prompts_and_a_method_that_remembers_goes_on(
    phantom: Path, small: Settings, tmp_path: Path
) -> None:
    asked = {"free": 0.5, "kinds": ["point", "cuboid"], "quality": 0.1}
    settings = small | {"adapt": {"name": "adalora"}, "prompts": asked}
    train(phantom, tmp_path / "whole", settings=settings)
    folder = tmp_path / "run"
    arguments = [sys.executable, "-c", KILLED, str(phantom), str(folder), json.dumps(settings)]
    killed = subprocess.run(arguments, capture_output=True, check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    assert killed.returncode == -signal.SIGKILL
    train(phantom, folder, resume=True)
    assert weights(folder) == weights(tmp_path / "whole")


def test_a_finished_run_goes_on_without_doing_anything(phantom: Path, small: Settings, tmp_path: Path) -> None:
    train(phantom, tmp_path / "run", settings=small)
    before = weights(tmp_path / "run")
    train(phantom, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == before


def test_a_run_never_writes_into_a_folder_that_is_not_empty(phantom: Path, small: Settings, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        start(phantom, tmp_path, small)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_folder_with_a_run_points_to_continue(phantom: Path, small: Settings, trained: Path) -> None:
    with pytest.raises(OutputError, match="--continue"):
        start(phantom, trained, small)


def test_a_run_does_not_go_on_with_another_split(trained: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    split = json.loads((copy / "split.json").read_text())
    (copy / "split.json").write_text(json.dumps({"train": split["val"], "val": split["train"]}))
    with pytest.raises(InputError, match="no longer has the cases of the run"):
        go_on(copy)


def test_half_precision_needs_a_gpu(phantom: Path, small: Settings, tmp_path: Path) -> None:
    settings = small | {"train": small["train"] | {"precision": "fp16"}}
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        train(phantom, tmp_path / "run", settings=settings)


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"accumulate": 2, "clip": 1.0}, {"validate_every": 2}])
def test_other_ways_to_train(phantom: Path, small: Settings, tmp_path: Path, change: dict[str, Any]) -> None:
    train(phantom, tmp_path / "run", settings=small | {"train": small["train"] | change})
    rows = history.read(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 2
    assert (tmp_path / "run" / "best").is_dir()


@pytest.mark.parametrize("method", ["adalora", "decoder_only", "full", "lora", "med_sa"])
def test_every_method_trains_and_predicts(phantom: Path, small: Settings, tmp_path: Path, method: str) -> None:
    from voxelsam import formats
    from voxelsam.infer.predictor import load

    best = train(phantom, tmp_path / "run", settings=small | {"adapt": {"name": method}})
    scan = formats.read(next((phantom / "imagesTs").iterdir()))
    assert load(best, device="cpu")(scan).labels.data.shape == scan.grid.shape


def test_on_a_random_backbone_med_sa_trains_its_whole_decoder(phantom: Path, small: Settings, tmp_path: Path) -> None:
    free = start(phantom, tmp_path / "run", small | {"adapt": {"name": "med_sa"}})
    assert free.recipe.adapt["decoder"] == "full"
    assert any("decoder trained whole" in reason for reason in free.reasons)
    asked = start(phantom, tmp_path / "run", small | {"adapt": {"name": "med_sa", "decoder": "adapters"}})
    assert asked.recipe.adapt["decoder"] == "adapters"
    assert not any("decoder" in reason for reason in asked.reasons)


def test_a_model_input_that_does_not_divide_into_patches(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="100"):
        start(phantom, tmp_path / "run", {"stack": {"size": [100, 100]}})


def test_nothing_to_continue(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"recipe\.yaml"):
        go_on(tmp_path)


def test_all_mistakes_of_a_recipe_come_at_once(phantom: Path, tmp_path: Path) -> None:
    wrong = {"stak": {}, "stack": {"depht": 3}, "adapt": {"name": "ma_sam", "rnak": 2}, "train": {"epochs": 0}}
    with pytest.raises(ConfigError) as caught:
        start(phantom, tmp_path / "run", wrong)
    for part in (
        "stak: unknown key",
        "stack.depht: unknown key",
        "adapt.rnak: unknown key",
        "epochs must be at least 1",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_reason_is_given_for_what_the_user_left_open(phantom: Path, tmp_path: Path) -> None:
    left_open = start(phantom, tmp_path / "run", {}).reasons
    chosen = start(phantom, tmp_path / "run", {"stack": {"size": [32, 32]}}).reasons
    assert [reason for reason in left_open if reason not in chosen] == [
        reason for reason in left_open if "size" in reason
    ]


def test_an_unknown_method_is_named(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapt\.name: no method 'masam'"):
        start(phantom, tmp_path / "run", {"adapt": {"name": "masam"}})


def test_a_pretrained_backbone_needs_its_checkpoint(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.weights"):
        start(phantom, tmp_path / "run", {"backbone": {"name": "sam-vit-b"}})


def test_a_fold_that_does_not_exist(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fold 7"):
        start(phantom, tmp_path / "run", {"data": {"fold": 7}})


def test_a_structure_that_no_training_case_shows(phantom: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(phantom, copy)
    record = json.loads((copy / "dataset.json").read_text())
    record["labels"]["pancreas"] = 99
    (copy / "dataset.json").write_text(json.dumps(record))
    with (
        pytest.warns(InputWarning, match=r"LAB-03: .*no case of validation shows pancreas"),
        pytest.raises(InputError, match="no case of training shows pancreas") as stop,
    ):
        start(copy, tmp_path / "run", {})
    assert stop.value.code == "LAB-03"
    accepted = start(copy, tmp_path / "run", {"data": {"accept": ["LAB-03"]}})
    assert "pancreas" in accepted.labels.names


def test_every_unusable_case_is_named(phantom: Path, tmp_path: Path) -> None:
    import shutil

    import nibabel as nib
    import numpy as np

    copy = tmp_path / "data"
    shutil.copytree(phantom, copy)
    split = json.loads((copy / "splits.json").read_text())[0]
    first, second = split["train"]
    label = copy / "labelsTr" / f"{first}.nii.gz"
    image = nib.load(label)
    moved = image.affine.copy()
    moved[:3, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), label)
    (copy / "imagesTr" / f"{second}_0000.nii.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError) as caught:
        start(copy, tmp_path / "run", {})
    assert first in str(caught.value)
    assert second in str(caught.value)
