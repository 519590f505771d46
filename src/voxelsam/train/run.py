"""Recipe → run folder → bundle.

A run folder holds ``recipe.yaml`` (resolved), ``fingerprint.json``, ``split.json``, ``metrics.csv``, TensorBoard
events, the bundles ``best/`` and ``last/``, and ``state.ckpt`` to go on from. A run that was killed goes on from the
end of its last whole epoch, and ends with the weights of an uninterrupted one.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from voxelsam import bundle, checks, config
from voxelsam.data.augment import Augment
from voxelsam.data.cache import Prepared, Store
from voxelsam.data.loader import Order, Stacks, loader
from voxelsam.device import find
from voxelsam.errors import ConfigError
from voxelsam.files import write_text
from voxelsam.record import FILE, Run, digest
from voxelsam.train import history
from voxelsam.train.job import RECIPE, SPLIT, STATE, Job, Progress, go_on, split_of, start
from voxelsam.train.module import TrainingModule

FINGERPRINT, METRICS, REPORT = "fingerprint.json", "metrics.csv", "weights.json"

SETTLED = (
    ".*does not have many workers.*",  # cutting a stack is cheap; train.workers says how many
    ".*in eval mode at the start of training.*",  # the frozen backbone
    ".*`lr_scheduler.step\\(\\)`.*",  # fp16 may skip the first optimiser step
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of PyTorch
    ".*logging interval.*",  # short epochs
)
"""Warnings of Lightning that need no answer."""

Told = Callable[[Mapping[str, float], int], None]
"""Called with the row of a finished epoch, and the number of epochs."""

PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def train(
    root: str | Path,
    folder: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Trains an adaptation on a data set and gives the folder of its best bundle.

    Args:
        root: the data set's folder; a run that goes on takes the one of its recipe.
        folder: the run folder.
        settings: parts of a recipe as nested values.
        resume: go on with an interrupted run.
        progress: told about the reading of the cases.

    Raises:
        VoxelSamError: as ``voxelsam.train.job.start`` and ``go_on``.
    """
    folder = Path(folder)
    return fit(go_on(folder) if resume else start(root, folder, settings, progress))


def fit(job: Job, *, bar: bool = False, told: Told | None = None) -> Path:
    """Runs a job to its end and gives the folder of the best bundle.

    Args:
        job: from ``start`` or ``go_on``.
        bar: show a progress bar for every epoch.
        told: called with the row of each finished epoch, and the number of epochs.

    Raises:
        ConfigError: the device or the precision cannot be used here.
        KeyboardInterrupt: the run was interrupted; it can go on.
    """
    training, validation = prepare(job)
    settings, stack = job.recipe.train, job.recipe.stack
    prompts = job.recipe.prompts
    classes = job.labels.count if prompts.used and "cuboid" in prompts.kinds else None
    cases = Stacks(training, replace(stack, stride=1), Augment(job.recipe.augment), settings.seed, classes)
    order = Order(len(cases), settings.seed, settings.stacks_per_epoch)
    held_out = Stacks(validation, replace(stack, stride=stack.depth), classes=classes)
    steps = settings.epochs * -(-len(order) // (settings.batch * settings.accumulate))
    module = TrainingModule(job.segmenter, settings, job.labels, steps, prompts)
    state = job.folder / STATE
    with _quiet():
        try:
            _trainer(job, bar, told).fit(
                module,
                loader(cases, order, settings.batch, settings.workers),
                loader(held_out, Order(len(held_out)), settings.batch, settings.workers),
                ckpt_path=state if job.resumes and state.is_file() else None,
                weights_only=True,
            )
        except SystemExit:  # how Lightning ends after an interrupt
            raise KeyboardInterrupt from None
    return job.folder / "best"


def prepare(job: Job, progress: Progress | None = None) -> tuple[list[Prepared], list[Prepared]]:
    """Training and validation cases, ready to be cut; what the run stands on is written into its folder.

    Args:
        job: from ``start`` or ``go_on``.
        progress: told about the cases.
    """
    if not (job.folder / RECIPE).is_file():
        _write_facts(job)
    store = Store(job.folder / "cache", job.labels, job.dataset.channels, job.recipe.stack, job.recipe.intensity)
    cases = []
    for number, case in enumerate((*job.train, *job.validation)):
        with checks.watching(job.recipe.data.accept, where=case.id):
            cases.append(store.open(case))
        if progress:
            progress(number + 1, len(job.train) + len(job.validation))
    return cases[: len(job.train)], cases[len(job.train) :]


def note(job: Job, noted: Run, progress: Progress | None = None) -> None:
    """Begins the record of a run in its folder: recipe, backbone, and a hash of each case's files.

    Args:
        job: from ``start`` or ``go_on``.
        noted: the record.
        progress: told about the cases.
    """
    recipe = config.plain(job.recipe)
    recipe["data"].pop("root")
    recipe["backbone"].pop("weights")
    noted.watch.accepted |= frozenset(job.recipe.data.accept)
    noted.facts |= {
        "data_set": {"name": job.dataset.name, "layout": job.dataset.layout, "fold": job.recipe.data.fold},
        "recipe": recipe,
        "backbone": {"name": job.report.variant, "sha256": job.report.sha256},
    }
    cases = (*((case, "train") for case in job.train), *((case, "val") for case in job.validation))
    for number, (case, side) in enumerate(cases):
        found = [finding for finding in noted.watch.findings if finding.where == case.id]
        files = [path for path in (*case.images, case.label, case.instances) if path]
        noted.case(case.id, side, found, sha256=digest(files))
        if progress:
            progress(number + 1, len(cases))
    noted.path = job.folder / FILE
    noted.save()


class Keep(Callback):
    """After every epoch: history, best and last bundle, and the state to go on from, in this order."""

    def __init__(self, job: Job, told: Told | None) -> None:
        self.job = job
        self.told = told

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Writes what the epoch gave; every file is whole at any moment."""
        if not isinstance(module, TrainingModule):
            raise TypeError(f"Keep needs a TrainingModule, not {type(module).__name__}")
        folder, row = self.job.folder, module.close_epoch()
        history.write(module.history, folder / METRICS)
        trained = _bundle(self.job, row)
        if "val_dice" in row:
            best = max((past["val_dice"] for past in module.history[:-1] if "val_dice" in past), default=-1.0)
            if row["val_dice"] > best or not (folder / "best").is_dir():
                trained.save(folder / "best")
        trained.save(folder / "last")
        beside = folder / f".{STATE}"
        trainer.save_checkpoint(beside)
        beside.replace(folder / STATE)
        if self.told:
            self.told(row, self.job.recipe.train.epochs)


def _bundle(job: Job, row: Mapping[str, float]) -> bundle.Bundle:
    weights = job.recipe.backbone.weights
    return bundle.describe(
        job.segmenter,
        labels=job.labels.to_json(),
        codes=job.labels.codes_to_json(),
        channels=job.dataset.channels,
        kind=job.dataset.kind,
        stack=job.recipe.stack,
        intensity=job.recipe.intensity,
        adapt=job.recipe.adapt,
        prompts=job.recipe.prompts.learnt(),
        backbone=bundle.BackboneIdentity(
            name=job.report.variant,
            sha256=job.report.sha256,
            weights=None if weights is None else str(Path(weights).resolve()),
            report=job.report.to_json(),
        ),
        training={key: row[key] for key in ("epoch", "step", "val_dice") if key in row},
    )


def _write_facts(job: Job) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        FINGERPRINT: job.fingerprint and job.fingerprint.to_json(),
        SPLIT: split_of(job.train, job.validation),
    }
    for name, value in (facts | {REPORT: job.report.to_json()}).items():
        (job.folder / name).write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    write_text(job.folder / RECIPE, config.dump(job.recipe))


def _trainer(job: Job, bar: bool, told: Told | None) -> lightning.Trainer:
    settings = job.recipe.train
    device = find(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"train.precision: fp16 needs a CUDA device, but this is {device.type}; take bf16 or fp32")
    callbacks: list[Callback] = [Keep(job, told)]
    if bar:
        callbacks.append(TQDMProgressBar(leave=False))
    return lightning.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=1 if device.index is None else [device.index],
        precision=PRECISION[settings.precision],
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        check_val_every_n_epoch=settings.validate_every,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(job.folder, name="tensorboard", version=""),
        callbacks=callbacks,
        enable_progress_bar=bar,
        enable_checkpointing=False,
        enable_model_summary=False,
        deterministic="warn",
        log_every_n_steps=10,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what Lightning says about choices that are made on purpose here, and what it does inside that will end."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in SETTLED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
