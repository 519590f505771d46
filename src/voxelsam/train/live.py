"""What a run is doing now, in numbers: where it is, how good, how fast, how much memory, how long still.

``timing.csv`` holds seconds, speed and memory of every epoch. They lie apart from ``metrics.csv``, which is the same
to the last digit for two runs of one recipe.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from voxelsam.record import peak_memory
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import history, patience
from voxelsam.train.module import TrainingModule
from voxelsam.train.progress import Picture

TIMING, PICTURE = "timing.csv", "progress.png"

LOSSES = ("loss", "train/ce", "train/dice_loss")
"""Names under which a step logs the loss and its two terms."""


@dataclass(frozen=True)
class Moment:
    """A run in the middle of an epoch."""

    epoch: int
    """From 0."""
    epochs: int
    """Of the whole run."""
    batch: int
    """Batches of the epoch that are done."""
    batches: int
    """Of the epoch."""
    losses: Mapping[str, float]
    """Of the last batch: ``loss``, ``ce``, ``dice_loss``."""
    validated: Mapping[str, float]
    """Row of the last validation; empty before the first one."""
    best: Mapping[str, float]
    """Row of the best validation; empty before the first one."""
    speed: float
    """Training stacks per second in this epoch."""
    memory: int | None
    """Most memory that was held so far, in MB: of the GPU where there is one, else of the process."""
    left: float | None
    """Seconds that the run will still take; None in the first epoch, before it is known what validation takes."""


Live = Callable[[Moment], None]
"""Called after each batch."""

Told = Callable[[Mapping[str, float], int], None]
"""Called with the row of a finished epoch and the number of epochs. The row also has ``seconds``, ``speed`` (stacks per
second), ``memory`` (MB), ``left`` (seconds), ``best`` (Dice) and ``best_epoch`` (from 0), those that are known."""


@dataclass
class Watch(Callback):
    """Measures a run, tells whoever wants to know, and draws ``progress.png``.

    Args:
        folder: the run folder.
        live: told after each batch.
        told: told after each epoch.
    """

    folder: Path
    live: Live | None = None
    told: Told | None = None
    timing: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``timing.csv``."""
    _begun: float = 0.0
    _stacks: int = 0
    _trained: float = 0.0

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Reads what earlier parts of the run took, up to the epoch where it goes on."""
        self._picture = Picture(self.folder / PICTURE)
        if (self.folder / TIMING).is_file():
            rows = history.read(self.folder / TIMING)
            self.timing = [row for row in rows if row["epoch"] < len(_history(module))]

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Starts the clock."""
        self._begun, self._stacks = perf_counter(), 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: StackBatch,
        index: int,
    ) -> None:
        """Counts the stacks of the batch, and tells."""
        self._stacks += len(batch) * trainer.world_size
        self._trained = perf_counter() - self._begun
        if self.live is None:
            return
        rows, batches = _history(module), int(trainer.num_training_batches)
        self.live(
            Moment(
                epoch=trainer.current_epoch,
                epochs=int(trainer.max_epochs or 0),
                batch=index + 1,
                batches=batches,
                losses={key.removeprefix("train/"): float(trainer.callback_metrics[key]) for key in LOSSES},
                validated=next((row for row in reversed(rows) if "val_dice" in row), {}),
                best=patience.best(rows) or {},
                speed=self._stacks / self._trained,
                memory=held(),
                left=self._left(trainer, (index + 1) / batches),
            )
        )

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Adds a row to ``timing.csv``, draws, and tells; comes after the epoch's row is in the history."""
        rows = _history(module)
        row = {"epoch": trainer.current_epoch, "seconds": perf_counter() - self._begun}
        row |= {"speed": self._stacks / self._trained}
        if (memory := held()) is not None:
            row["memory"] = memory
        self.timing.append(row)
        if not trainer.is_global_zero:
            return
        history.write(self.timing, self.folder / TIMING)
        self._picture.draw(rows, self.timing)
        if self.told:
            best = patience.best(rows) or {}
            known = {"best": best.get("val_dice"), "best_epoch": best.get("epoch"), "left": self._left(trainer, 1.0)}
            self.told(
                {**rows[-1], **row, **{key: value for key, value in known.items() if value is not None}},
                int(trainer.max_epochs or 0),
            )

    def _left(self, trainer: lightning.Trainer, done: float) -> float | None:
        """Seconds still to come, when that share of the present epoch is done: as many as the epochs so far took."""
        if not self.timing:
            return None
        each = sum(row["seconds"] for row in self.timing) / len(self.timing)
        return each * (int(trainer.max_epochs or 0) - trainer.current_epoch - done)


def held() -> int | None:
    """Most memory that was held so far, in MB: of the GPU where there is one, else of the process."""
    on_gpu = torch.cuda.max_memory_allocated() // 1_000_000 if torch.cuda.is_available() else 0
    return on_gpu or peak_memory()


def _history(module: lightning.LightningModule) -> list[dict[str, float]]:
    if not isinstance(module, TrainingModule):
        raise TypeError(f"Watch needs a TrainingModule, not {type(module).__name__}")
    return module.history
