"""The file from which an interrupted run goes on, and where in its order of stacks it does.

The state is written after every epoch, and with ``train.save_every`` also inside of one. It holds weights, optimiser,
learning rate, random generators, the history, and the losses of the epoch so far; the order of the stacks is a function
of seed and epoch, so it is enough to know how many batches are done.
"""

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from voxelsam.errors import TrainingError
from voxelsam.train import distributed


def save(trainer: lightning.Trainer, path: Path) -> None:
    """Writes the state beside its place and moves it there; every process must call it, the first one writes."""
    beside = path.with_name(f".{path.name}")
    trainer.save_checkpoint(beside)
    if distributed.current().first:
        beside.replace(path)


def point(path: Path) -> tuple[int, int]:
    """The epoch in which the run of a state goes on, from 0, and how many batches of it are done.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        loops = torch.load(path, map_location="cpu", weights_only=True)["loops"]["fit_loop"]
    except (OSError, RuntimeError, KeyError, EOFError, ValueError) as error:
        raise TrainingError(
            f"{path} cannot be read as the state of a run ({str(error).splitlines()[0]}): take it away to begin the "
            "run again with the same recipe, or bring it back"
        ) from None
    epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]["current"]
    if epochs["processed"] == epochs["ready"]:
        return epochs["processed"], 0
    return epochs["processed"], batches["ready"]


class SaveOften(Callback):
    """Writes the state inside of an epoch too.

    Args:
        path: of the state.
        every: steps of the optimiser between two states.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path = path
        self.every = every
        self.saved = 0
        """Step of the last state."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """A run that goes on has just read its state."""
        self.saved = trainer.global_step

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The end of an epoch has its own state."""
        self.saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Writes after a step of the optimiser, but for the last of an epoch, after which validation follows."""
        if trainer.global_step - self.saved < self.every or index + 1 == trainer.num_training_batches:
            return
        self.saved = trainer.global_step
        save(trainer, self.path)
