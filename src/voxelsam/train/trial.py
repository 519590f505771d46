"""A training run tried out: two steps and one of validation on real stacks, and what the whole run will take.

Only as many cases are prepared as the steps need, in a folder that is gone afterwards; nothing is written elsewhere.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from voxelsam import adapt, checks
from voxelsam.data.cache import Prepared, Store
from voxelsam.device import find
from voxelsam.errors import ConfigError
from voxelsam.layouts import Case
from voxelsam.train import run
from voxelsam.train.guard import Guard, explaining
from voxelsam.train.job import Job
from voxelsam.train.live import held
from voxelsam.train.recipe import method

STEPS = 2
"""Batches that are tried; the first one warms up and does not count."""


@dataclass(frozen=True)
class Trial:
    """What was measured, and what follows."""

    seconds_per_step: float
    """One batch of training: cut, augmented, forward and backward."""
    seconds_per_validation_step: float
    """One batch of validation."""
    memory_mb: int | None
    """Most memory that was held, in MB: of the GPU where there is one, else of the process; None where unknown."""
    device: str
    batch: int
    """Stacks of a batch."""
    epochs: int
    steps_per_epoch: int
    """Batches of an epoch."""
    validation_steps: int
    """Batches of a validation."""
    validations: int
    """Of the whole run."""
    disk_mb: float
    """Prepared cases, state and bundles of the run, in MB."""
    disk_free_mb: float
    """Free where the run folder would be, in MB."""

    @property
    def seconds_per_epoch(self) -> float:
        """Training and validation of one epoch."""
        share = self.validations / self.epochs
        return (
            self.steps_per_epoch * self.seconds_per_step
            + share * self.validation_steps * self.seconds_per_validation_step
        )

    @property
    def seconds(self) -> float:
        """The whole run, once the cases are prepared."""
        return self.epochs * self.seconds_per_epoch

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self) | {"seconds_per_epoch": self.seconds_per_epoch, "seconds": self.seconds}


class Clock(Callback):
    """When batches ended."""

    def __init__(self) -> None:
        self.training: list[float] = []
        """Seconds of the beginning, then of the end of each batch."""
        self.validation: list[float] = []
        """Seconds of each batch."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The beginning."""
        self.training.append(perf_counter())

    def on_train_batch_end(self, *arguments: Any) -> None:
        """The end of a batch."""
        self.training.append(perf_counter())

    def on_validation_batch_start(self, *arguments: Any) -> None:
        """The beginning of a batch."""
        self.validation.append(-perf_counter())

    def on_validation_batch_end(self, *arguments: Any) -> None:
        """Its end."""
        self.validation[-1] += perf_counter()


def rehearse(job: Job) -> Trial:
    """Runs two batches of training and one of validation, and estimates the run; the networks of the job change.

    Args:
        job: from ``start`` or ``go_on``; it cannot be trained afterwards.

    Raises:
        ConfigError: the device or the precision cannot be used here, or the method trains nothing.
        TrainingError: the loss is no number, or memory ran out.
    """
    name, _ = method(job.recipe)
    if not adapt.trains(name):
        raise ConfigError(f"{name} trains nothing, so there are no steps to try: leave out --dry-run")
    guard, clock = Guard(job), Clock()
    with TemporaryDirectory(prefix="voxelsam-") as work:
        store = Store(Path(work), job.labels, job.dataset.channels, job.recipe.stack, job.recipe.intensity)
        training = _prepared(job, store, job.train, STEPS * job.recipe.train.batch)
        validation = _prepared(job, store, job.validation, 1)
        once = replace(job.recipe.train, epochs=1, validate_every=1, accumulate=1)
        short = replace(job, recipe=replace(job.recipe, train=once))
        with explaining(guard), run.quiet():
            trainer = run.trainer(short, [guard, clock], logger=False, limit_train_batches=STEPS, limit_val_batches=1)
            trainer.fit(*run.parts(short, training, validation))
        sampled = sum(case.slices for case in (*training, *validation))
        per_slice = sum(file.stat().st_size for file in Path(work).rglob("*") if file.is_file()) / sampled
        return _estimate(job, clock, per_slice, [case.slices for case in training])


def _prepared(job: Job, store: Store, cases: Sequence[Case], stacks: int) -> list[Prepared]:
    """So many cases that they give that many stacks."""
    found: list[Prepared] = []
    for case in cases:
        with checks.watching(job.recipe.data.accept, where=case.id):
            found.append(store.open(case))
        if sum(one.slices for one in found) >= stacks:
            break
    return found


def _estimate(job: Job, clock: Clock, per_slice: float, sampled: Sequence[int]) -> Trial:
    train, stack = job.recipe.train, job.recipe.stack
    slices = _slices(job) or [round(sum(sampled) / len(sampled))] * len(job.train)
    each = sum(slices) / len(slices)
    stacks = min(sum(slices), train.stacks_per_epoch or sum(slices))
    held_out = len(job.validation) * -(-each // stack.depth)
    own = sum(tensor.numel() * tensor.element_size() for tensor in job.segmenter.adaptation.state_dict().values())
    copies = 3 if train.ema is None else 4
    cached = per_slice * each * (len(job.train) + len(job.validation))
    place = next(folder for folder in (job.folder.absolute(), *job.folder.absolute().parents) if folder.exists())
    return Trial(
        seconds_per_step=clock.training[-1] - clock.training[-2],
        seconds_per_validation_step=clock.validation[-1] if clock.validation else 0.0,
        memory_mb=held(),
        device=find(train.device).type,
        batch=train.batch,
        epochs=train.epochs,
        steps_per_epoch=-(-stacks // train.batch),
        validation_steps=int(-(-held_out // train.batch)),
        validations=train.epochs // train.validate_every,
        disk_mb=round((cached + (copies + 2) * own) / 1e6, 1),
        disk_free_mb=round(shutil.disk_usage(place).free / 1e6, 1),
    )


def _slices(job: Job) -> list[int]:
    """Slices of each training case under the plan, from the fingerprint; empty where that is not at hand."""
    path, plan = job.folder / run.FINGERPRINT, job.recipe.stack
    if job.fingerprint is not None:
        cases = job.fingerprint.to_json()["cases"]
    elif path.is_file():
        cases = json.loads(path.read_text("utf-8"))["cases"]
    else:
        return []
    between = None if plan.spacing is None else plan.spacing[2]
    found = []
    for case in cases:
        plane = case["plane"] if plan.plane == "auto" else plan.plane
        slices, apart = case["sizes"][plane][2], case["spacings"][plane][2]
        found.append(slices if between is None else max(round(slices * apart / between), 1))
    return found
