"""Recipe → run folder → bundle.

A run folder holds ``recipe.yaml`` (resolved), ``fingerprint.json``, ``split.json``, ``metrics.csv``, ``timing.csv``,
``progress.png``, TensorBoard events, the bundles ``best/`` and ``last/``, and ``state.ckpt`` to go on from. A run that
was killed goes on from its last state, and ends with the weights of an uninterrupted one. In a group of processes
(``voxelsam.train.distributed``) the first one writes all of it.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback

from voxelsam import adapt, bundle, checks, config
from voxelsam.data.augment import Augment
from voxelsam.data.cache import Prepared, Store
from voxelsam.data.loader import Order, Shares, Stacks, loader
from voxelsam.device import find
from voxelsam.errors import ConfigError, TrainingError
from voxelsam.files import write_text
from voxelsam.record import FILE, Run, digest
from voxelsam.stacks.cut import StackBatch
from voxelsam.train import distributed, history, loggers, origin, patience, ranges, state, strategy
from voxelsam.train.ema import Averaged
from voxelsam.train.guard import Guard, explaining
from voxelsam.train.job import RECIPE, SPLIT, STATE, Job, Progress, go_on, identity, processes, split_of, start
from voxelsam.train.kept import Kept, leaves_encoder
from voxelsam.train.live import Live, Told, Watch
from voxelsam.train.module import TrainingModule
from voxelsam.train.recipe import Recipe, method

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

FINGERPRINT, METRICS, REPORT = "fingerprint.json", "metrics.csv", "weights.json"

SETTLED = (
    ".*does not have many workers.*",  # cutting a stack is cheap; train.workers says how many
    ".*in eval mode at the start of training.*",  # the frozen backbone
    ".*`lr_scheduler.step\\(\\)`.*",  # fp16 may skip the first optimiser step
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of PyTorch
    ".*logging interval.*",  # short epochs
    ".*have no `val_dataloader`.*",  # data.fold: none, which is said elsewhere
    ".*your dataloader is not resumable.*",  # ours leaves out the batches that are done
    ".*sync_dist=True.*",  # what is logged is already that of all processes
    ".*FSDP2-wrapped module.*returned a view.*",  # nothing changes features in place
)
"""Warnings of Lightning that need no answer."""

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

    With ``train.devices`` above 1 that many processes are started, so that a script which calls this needs the usual
    ``if __name__ == "__main__":``. Under torchrun every process calls it.

    Args:
        root: the data set's folder; a run that goes on takes the one of its recipe.
        folder: the run folder.
        settings: parts of a recipe as nested values; for a run that goes on, of those that may change.
        resume: go on with an interrupted run.
        progress: told about the reading of the cases.

    Raises:
        VoxelSamError: as ``voxelsam.train.job.start`` and ``go_on``.
    """
    folder, settings = Path(folder), settings or {}
    if (count := processes(folder, settings, resume=resume)) > 1:
        return distributed.launch(count, _train, root, folder, settings, resume, None)
    return _train(root, folder, settings, resume, progress)


def _train(
    root: str | Path, folder: Path, settings: Mapping[str, Any], resume: bool, progress: Progress | None
) -> Path:
    with distributed.group():
        return fit(go_on(folder, settings) if resume else start(root, folder, settings, progress))


def fit(job: Job, *, told: Told | None = None, live: Live | None = None, noted: Run | None = None) -> Path:
    """Runs a job to its end and gives the folder of the best bundle.

    Args:
        job: from ``start`` or ``go_on``.
        told: called with the row of each finished epoch, and the number of epochs.
        live: called after each batch.
        noted: the record, from ``note``; it is told how the run ended.

    Raises:
        ConfigError: the device or the precision cannot be used here.
        TrainingError: the loss is no number, memory ran out, or a loader process was lost; the last state is kept.
        KeyboardInterrupt: the run was interrupted; it can go on.
    """
    distributed.check_started(job.recipe.train.devices)
    guard = Guard(job)
    try:
        with distributed.naming_losses(), explaining(guard):
            _fit(job, guard, Watch(job.folder, live, told))
    except TrainingError as error:
        if noted:
            noted.facts["ended"] = error.facts
            noted.save("failed")
        raise
    distributed.close_gate()
    if noted and distributed.current().first:
        noted.facts["ended"] = ending(job)
    return job.folder / "best"


def ending(job: Job) -> dict[str, float | bool]:
    """How many epochs a run had, which was the best, and whether it stopped early; for its record."""
    train = job.recipe.train
    return patience.ending(history.read(job.folder / METRICS), train.patience, train.epochs)


def _fit(job: Job, guard: Guard, watch: Watch) -> None:
    prepared = prepare(job)
    if not adapt.trains(method(job.recipe)[0]):
        _keep_untrained(job)
        return
    module, stacks, held_out = parts(job, *prepared)
    settings, file = job.recipe.train, job.folder / STATE
    resumed = file if job.resumes and file.is_file() else None
    if resumed and isinstance(stacks.batch_sampler, Shares):
        stacks.batch_sampler.go_on(*state.point(file))
    averaged = None if settings.ema is None else Averaged(job.segmenter.adaptation, settings.ema)
    often = [] if settings.save_every is None else [state.SaveOften(file, settings.save_every)]
    callbacks: list[Callback] = [guard, *([averaged] if averaged else []), Keep(job, averaged), *often]
    if distributed.current().first:
        callbacks.append(watch)
    reporting = loggers.build(job.folder, settings.loggers, _without_paths(job.recipe))
    with quiet():
        try:
            trainer(job, callbacks, logger=reporting).fit(
                module,
                stacks,
                held_out,
                ckpt_path=resumed,
                weights_only=True,
            )
        except SystemExit:  # how Lightning ends after an interrupt
            raise KeyboardInterrupt from None


def _keep_untrained(job: Job) -> None:
    """The bundle of a method that trains nothing, and a history of one row."""
    row = {"epoch": 0.0, "step": 0.0}
    if distributed.current().first:
        history.write([row], job.folder / METRICS)
        for name in ("best", "last"):
            _bundle(job, row).save(job.folder / name)


def parts(
    job: Job, training: Sequence[Prepared], validation: Sequence[Prepared]
) -> "tuple[TrainingModule, DataLoader[StackBatch], DataLoader[StackBatch] | None]":
    """The networks under training, and the batches of training and of validation (None without validation cases).

    Args:
        job: from ``start`` or ``go_on``.
        training: prepared cases.
        validation: likewise.
    """
    settings, stack, prompts = job.recipe.train, job.recipe.stack, job.recipe.prompts
    classes = job.labels.count if prompts.used and "cuboid" in prompts.kinds else None
    cases = Stacks(training, replace(stack, stride=1), Augment(job.recipe.augment), settings.seed, classes)
    order = Order.of(cases, job.recipe.sampling, settings.seed, settings.stacks_per_epoch)
    held_out = Stacks(validation, replace(stack, stride=stack.depth), classes=classes)
    steps = settings.epochs * -(-len(order) // (settings.batch * settings.accumulate))
    group = distributed.current()
    return (
        TrainingModule(job.segmenter, settings, job.labels, steps, prompts, _kept(job, training, validation)),
        loader(cases, order, settings.batch, settings.workers, group.rank, group.size),
        loader(held_out, Order(len(held_out)), settings.batch, settings.workers, group.rank, group.size)
        if validation
        else None,
    )


def _kept(job: Job, training: Sequence[Prepared], validation: Sequence[Prepared]) -> Kept | None:
    """What remembers features, where they never change.

    None with ``train.shard`` too: there every process has to take part each time another one encodes.
    """
    if not leaves_encoder(job.segmenter) or job.recipe.train.shard:
        return None
    same = (*training, *validation) if job.recipe.augment.preset == "none" else validation
    return Kept(job.segmenter, job.recipe.stack, {case.id: case.slices for case in same}, job.folder / "cache")


def prepare(job: Job, progress: Progress | None = None) -> tuple[list[Prepared], list[Prepared]]:
    """Training and validation cases, ready to be cut; what the run stands on is written into its folder.

    Args:
        job: from ``start`` or ``go_on``.
        progress: told about the cases.
    """
    if not (job.folder / RECIPE).is_file():
        _write_facts(job, progress)
    store = Store(job.folder / "cache", job.labels, job.dataset.channels, job.recipe.stack, job.recipe.intensity)
    cases = []
    for number, case in enumerate((*job.train, *job.validation)):
        with checks.watching(job.recipe.data.accept, where=case.id):
            cases.append(store.open(case))
        if progress:
            progress(number + 1, len(job.train) + len(job.validation))
    distributed.open_gate()
    return cases[: len(job.train)], cases[len(job.train) :]


def note(job: Job, noted: Run, progress: Progress | None = None) -> None:
    """Begins the record of a run in its folder: recipe, backbone, and a hash of each case's files.

    Args:
        job: from ``start`` or ``go_on``.
        noted: the record.
        progress: told about the cases.
    """
    if not distributed.current().first:
        return
    started = origin.read(job.folder)
    noted.watch.accepted |= frozenset(job.recipe.data.accept)
    noted.facts |= {
        "data_set": {"name": job.dataset.name, "layout": job.dataset.layout, "fold": job.recipe.data.fold},
        "recipe": _without_paths(job.recipe),
        "backbone": {"name": job.report.variant, "sha256": job.report.sha256},
    }
    cases = (*((case, "train") for case in job.train), *((case, "val") for case in job.validation))
    for number, (case, side) in enumerate(cases):
        found = [finding for finding in noted.watch.findings if finding.where == case.id]
        files = [path for path in (*case.images, case.label, case.instances) if path]
        noted.case(case.id, side, found, sha256=started.cases[case.id].sha256 if started else digest(files))
        if progress:
            progress(number + 1, len(cases))
    noted.path = job.folder / FILE
    noted.save()


class Keep(Callback):
    """After every epoch: history, best and last bundle, and the state to go on from, in this order.

    With ``train.keep: last``, and without validation cases, the best bundle is the last one.
    Bundles hold the running average of the weights where there is one. A run whose patience is over stops.
    """

    def __init__(self, job: Job, averaged: Averaged | None) -> None:
        self.job = job
        self.averaged = averaged

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Trains no further if an earlier part of the run ended because its patience was over."""
        if isinstance(module, TrainingModule):
            trainer.should_stop = patience.is_over(module.history, self.job.recipe.train.patience)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Writes what the epoch gave; every file is whole at any moment."""
        if not isinstance(module, TrainingModule):
            raise TypeError(f"Keep needs a TrainingModule, not {type(module).__name__}")
        row = module.close_epoch()
        if self.job.recipe.train.patience is not None:
            row["since_best"] = patience.since_best(module.history)
        if distributed.current().first:
            self._write(module, row)
        state.save(trainer, self.job.folder / STATE)
        if patience.is_over(module.history, self.job.recipe.train.patience):
            trainer.should_stop = True

    def _write(self, module: TrainingModule, row: Mapping[str, float]) -> None:
        folder = self.job.folder
        history.write(module.history, folder / METRICS)
        with nullcontext() if self.averaged is None else self.averaged.applied():
            trained = _bundle(self.job, row)
        if self.job.recipe.train.keep == "last" or not self.job.validation:
            trained.save(folder / "best")
        elif "val_dice" in row:
            best = max((past["val_dice"] for past in module.history[:-1] if "val_dice" in past), default=-1.0)
            if row["val_dice"] > best or not (folder / "best").is_dir():
                trained.save(folder / "best")
        trained.save(folder / "last")


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
        training_augment=ranges.augment(job.recipe.augment),
        ranges=ranges.ranges(job.folder / FINGERPRINT, job.recipe.stack, job.recipe.intensity),
    )


def _without_paths(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested plain values for records and loggers."""
    values = config.plain(recipe)
    values["data"].pop("root")
    values["backbone"].pop("weights")
    return values


def _write_facts(job: Job, progress: Progress | None) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        FINGERPRINT: job.fingerprint and job.fingerprint.to_json(),
        SPLIT: split_of(job.train, job.validation),
    }
    for name, value in (facts | {REPORT: job.report.to_json()}).items():
        (job.folder / name).write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    backbone = identity(job.report)
    origin.taken(job.train, job.validation, job.recipe, job.labels, backbone, progress).save(job.folder)
    write_text(job.folder / RECIPE, config.dump(job.recipe))


def trainer(job: Job, callbacks: Sequence[Callback], **more: Any) -> lightning.Trainer:
    """Lightning's trainer as a recipe wants it.

    Args:
        job: whose recipe it is.
        callbacks: what happens between the steps.
        **more: arguments of the trainer that are not the recipe's.

    Raises:
        ConfigError: the device or the precision cannot be used here.
    """
    settings = job.recipe.train
    device = find(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"train.precision: fp16 needs a CUDA device, but this is {device.type}; take bf16 or fp32")
    return lightning.Trainer(
        max_epochs=settings.epochs,
        precision=PRECISION[settings.precision],
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        check_val_every_n_epoch=settings.validate_every,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        deterministic="warn",
        log_every_n_steps=10,
        **strategy.options(job.segmenter, device, shard=settings.shard),
        **more,
    )


@contextmanager
def quiet() -> Iterator[None]:
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
