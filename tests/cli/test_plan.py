"""``voxelsam plan``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from voxelsam.train.recipe import parse

Run = Callable[..., tuple[int, str, str]]
TINY = ("--device", "cpu", "--set", "stack.size=[32,32]", "--set", "adapt.width=16")


def test_a_plan_is_told_and_written(run: Run, phantom: Path, tmp_path: Path) -> None:
    code, out, _ = run("plan", phantom, "-o", tmp_path / "plan.yaml", *TINY)
    assert code == 0
    for part in ("plane axial", "stacks a step", "memory in training", "disk", "time: about", "voxelsam train"):
        assert part in out
    text = (tmp_path / "plan.yaml").read_text()
    assert parse(yaml.safe_load(text)).stack.size == (32, 32)
    assert "# estimates" in text
    noted = json.loads((tmp_path / "plan.run.json").read_text())["runs"][0]
    assert (noted["command"], noted["status"]) == ("plan", "done")
    assert str(phantom) not in json.dumps(noted)
    code, out, _ = run(
        "train", phantom, "--config", tmp_path / "plan.yaml", "-o", tmp_path / "run", "--dry-run", "--json"
    )
    assert code == 0
    assert json.loads(out)["recipe"] == json.loads(json.dumps(_plain(text)))
    assert not (tmp_path / "run").exists()


def _plain(text: str) -> object:
    from voxelsam import config

    return config.plain(parse(yaml.safe_load(text)))


def test_a_plan_as_json(run: Run, phantom: Path) -> None:
    code, out, _ = run("plan", phantom, "--json", "--memory", "16GB", *TINY)
    assert code == 0
    told = json.loads(out)
    assert told["memory_limit"] == int(0.9 * 16e9)
    assert told["estimate"]["seconds"] > 0
    assert told["reasons"]["train.keep"]


def test_a_backbone_without_its_checkpoint_can_be_planned(run: Run, phantom: Path, tmp_path: Path) -> None:
    small = ("--device", "cpu", "--set", "stack.size=[64,64]", "--set", "train.batch=1")
    code, out, _ = run("plan", phantom, "--backbone", "sam-vit-b", "--memory", "64GB", *small, "--json")
    assert code == 0
    assert json.loads(out)["estimate"]["parameters"] > 80e6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "8 bananas"), "8 bananas"),
        (("--backbone", "sam-vit-x"), "no backbone 'sam-vit-x'"),
        (("--weights", "nowhere.pth"), "nowhere.pth"),
        (("--set", "data.fold=7"), "fold 7"),
        (("--set", "data.fold=seven"), "data.fold"),
        (("--set", "train.keep=worst"), "train.keep"),
        (("--set", "stack.depth=1", "--set", "train.checkpointing=false", "--memory", "1MB"), "nothing fits into"),
        (("--device", "cuda"), "cuda"),
    ],
)
def test_what_cannot_be_planned(run: Run, phantom: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    if arguments[-1] == "cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    code, _, err = run("plan", phantom, "-o", tmp_path / "plan.yaml", "--set", "stack.size=[32,32]", *arguments)
    assert code == 2
    assert said in err
    assert not (tmp_path / "plan.yaml").exists()


def test_a_gpu_of_another_machine_needs_its_memory(run: Run, phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, out, _ = run("plan", phantom, "--device", "cuda", "--memory", "12GB", *TINY[2:], "--json")
    assert code == 0
    told = json.loads(out)
    assert told["estimate"]["seconds"] is None
    assert told["recipe"]["train"]["device"] == "cuda"
    code, _, err = run("plan", phantom, "--device", "cuda", "--memory", "12GB", "--minutes", "5", *TINY[2:])
    assert code == 2
    assert "plan on that machine" in err


def test_no_plan_is_written_over(run: Run, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("mine")
    code, _, err = run("plan", phantom, "-o", tmp_path / "plan.yaml", *TINY)
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "plan.yaml").read_text() == "mine"


def test_data_without_labels(run: Run, phantom: Path, tmp_path: Path) -> None:
    code, _, err = run("plan", phantom / "imagesTs", *TINY)
    assert code == 2
    assert err
