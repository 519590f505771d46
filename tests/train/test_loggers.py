"""Loggers beside the files: asked for without the extra, and what they are told."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from voxelsam.errors import MissingExtra
from voxelsam.train import loggers
from voxelsam.train.job import start
from voxelsam.train.run import train

Settings = dict[str, dict[str, Any]]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_without_the_extra_the_run_does_not_begin(
    phantom: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    settings = small | {"train": small["train"] | {"loggers": [name]}}
    with pytest.raises(MissingExtra, match=rf"{name}.*voxelsam\[track\]"):
        start(phantom, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_tensorboard_and_the_table_are_always_there(trained: Path) -> None:
    assert (trained / "metrics.csv").is_file()
    assert list((trained / "tensorboard").glob("events.*"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Takes the place of both tools; gives what they were told."""
    import lightning.pytorch.loggers as theirs
    from lightning.pytorch.loggers import Logger

    seen: dict[str, Any] = {}

    def stand_in(tool: str) -> type[Logger]:
        class StandIn(Logger):
            name, version = tool, "0"

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__()
                seen[tool] = {"arguments": arguments, **options}

            def log_hyperparams(self, params: Any) -> None:
                seen[tool]["recipe"] = params

            def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
                seen[tool].setdefault("metrics", {}).update(metrics)

        return StandIn

    monkeypatch.setattr(theirs, "MLFlowLogger", stand_in("mlflow"))
    monkeypatch.setattr(theirs, "WandbLogger", stand_in("wandb"))
    wandb = ModuleType("wandb")
    wandb.Settings = lambda **options: SimpleNamespace(**options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(loggers, "require", lambda names: None)
    for name in (*loggers.SILENT, "MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    return seen


def test_they_stay_on_this_machine_and_are_told_no_paths_and_no_cases(
    phantom: Path, small: Settings, tmp_path: Path, told: dict[str, Any]
) -> None:
    settings = small | {"train": small["train"] | {"loggers": ["mlflow", "wandb"]}}
    train(phantom, tmp_path / "run", settings=settings)
    assert told["mlflow"]["tracking_uri"] == f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}"
    assert told["wandb"]["offline"] is True
    assert told["wandb"]["save_dir"] == tmp_path / "run"
    assert {name: os.environ[name] for name in loggers.SILENT} == loggers.SILENT
    cases = {file.name.removesuffix(".nii.gz") for file in (phantom / "labelsTr").iterdir()}
    for name in ("mlflow", "wandb"):
        said = repr((told[name]["recipe"], told[name]["metrics"]))
        assert "'rank': 4" in said
        assert "val/val_dice" in said
        assert str(tmp_path) not in said
        assert str(phantom) not in said
        assert not any(case in said for case in cases)


def test_the_tools_own_environment_goes_before(
    tmp_path: Path, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "livers")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    loggers.build(tmp_path / "run", ("mlflow", "wandb"), {})
    assert told["mlflow"]["tracking_uri"] == "https://tracking.example"
    assert told["wandb"]["offline"] is False
    assert told["wandb"]["project"] == "livers"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
