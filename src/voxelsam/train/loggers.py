"""Where the numbers of a run go beside ``metrics.csv``: TensorBoard always, MLflow and Weights & Biases if asked for.

Nothing leaves the machine unless the tool's own environment says so: MLflow writes into ``mlflow.db`` of the run folder
unless ``MLFLOW_TRACKING_URI`` is set, W&B writes into ``wandb/`` of the run folder unless ``WANDB_MODE`` is ``online``,
and reports of usage and errors to their makers are off unless the user set them otherwise. What is logged is the
recipe without paths and the numbers of the epochs; no ids of cases.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxelsam.errors import MissingExtra

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

PROJECT = "voxelsam"
"""Name of the experiment (MLflow) or project (W&B)."""

NEEDED = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
"""Modules that a logger imports."""

SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""Environment of the tools under which they send nothing to their makers; what the user set stays."""


TALKERS = {"mlflow": logging.WARNING, "lightning.pytorch.loggers.mlflow": logging.ERROR}
"""Who tells that a data base is new, and from which level on they may speak."""


def require(names: Sequence[str]) -> None:
    """Whether the loggers of a recipe are installed.

    Raises:
        MissingExtra: one is not.
    """
    for name in names:
        missing = [module for module in NEEDED[name] if not _there(module)]
        if missing:
            raise MissingExtra(
                f"train.loggers: {name} needs {', '.join(missing)}, not installed here: "
                "pip install 'voxelsam[track]', or leave the logger out"
            )


def build(folder: Path, names: Sequence[str], recipe: Mapping[str, Any]) -> "list[Logger]":
    """The loggers of a run.

    Args:
        folder: the run folder; its name is the name of the run.
        names: beside TensorBoard.
        recipe: nested plain values without paths.

    Raises:
        MissingExtra: one is not installed.
    """
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    require(names)
    loggers: list[Logger] = [TensorBoardLogger(folder, name="tensorboard", version="")]
    for key, value in SILENT.items() if names else ():
        os.environ.setdefault(key, value)
    if "mlflow" in names:
        for talker, level in TALKERS.items():
            logging.getLogger(talker).setLevel(level)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        loggers.append(MLFlowLogger(PROJECT, run_name=folder.absolute().name, tracking_uri=place))
    if "wandb" in names:
        loggers.append(_wandb(folder))
    for logger in loggers[1:]:
        logger.log_hyperparams(dict(recipe))
    return loggers


def _wandb(folder: Path) -> "Logger":
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE") != "online"
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    quiet = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
    name = folder.absolute().name
    return WandbLogger(name=name, project=project, save_dir=folder, offline=offline, settings=quiet)


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # what stands in ``sys.modules`` without a specification
        return False
