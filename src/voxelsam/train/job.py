"""Everything before the first training step: data checked, recipe resolved, networks built. Nothing is written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from voxelsam import adapt, backbones, checks, config, examine
from voxelsam.backbones import LoadReport
from voxelsam.data.fingerprint import Fingerprint, measure, suggest
from voxelsam.errors import ConfigError, InputError, OutputError
from voxelsam.layouts import Case, Dataset, default_split, kfold, open_dataset
from voxelsam.model import Segmenter
from voxelsam.train.recipe import Recipe, method, parse
from voxelsam.volumes.labels import Labels

RECIPE, SPLIT, STATE = "recipe.yaml", "split.json", "state.ckpt"

TINY = "sam-tiny"
"""The backbone of a recipe that names neither a variant nor a checkpoint."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Job:
    """A training run that is ready to start."""

    folder: Path
    recipe: Recipe
    dataset: Dataset
    labels: Labels
    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    segmenter: Segmenter
    report: LoadReport
    fingerprint: Fingerprint | None
    """Measured now; None for a run that goes on."""
    reasons: tuple[str, ...] = ()
    """Which choice the data led to, and why."""

    @property
    def resumes(self) -> bool:
        """Whether an interrupted run goes on."""
        return self.fingerprint is None


def start(
    root: str | Path, folder: Path, settings: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> Job:
    """A new run.

    Args:
        root: the data set's folder.
        folder: the run folder; must not exist yet, or be empty.
        settings: parts of a recipe as nested values; they go before what the data suggests.
        progress: told about the reading of the cases.

    Raises:
        ConfigError: the recipe is wrong; every problem is listed.
        InputError: the data cannot be used; every case that cannot is listed.
        WeightsError: the checkpoint cannot be used.
        OutputError: the run folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "; --continue goes on with the run in it" if (folder / RECIPE).is_file() else ""
        raise OutputError(f"{folder} is not empty: give a new folder for the run{hint}")
    given = config.merge(settings or {}, {"data": {"root": str(Path(root).absolute())}})
    asked = parse(given)
    name, weights = _backbone(asked)
    variant = backbones.variant_of(name, weights)
    with checks.watching(asked.data.accept):
        dataset, training, validation = _cases(asked)
        labels = _labels(dataset)
        cases, depth = (*training, *validation), asked.stack.depth
        measured = measure(cases, labels, dataset.channels, progress, kind=dataset.kind, depth=depth)
        learnt, held_out = ({case.id for case in side} for side in (training, validation))
        where = f"fold {asked.data.fold}"
        checks.settle(examine.dataset(measured.examined, labels, learnt, held_out, where=where))
    fingerprint = Fingerprint(measured.cases[: len(training)])
    suggestion, reasons = suggest(dataset, fingerprint, variant)
    implied, why = _implied(asked, variant.name in backbones.SEEDED)
    recipe = parse(config.merge(config.merge(suggestion, implied), given))
    reasons |= why
    recipe = replace(recipe, backbone=replace(recipe.backbone, name=variant.name))
    segmenter, report = _networks(recipe, labels)
    kept = tuple(reason for path, reason in reasons.items() if not config.has(given, path))
    return Job(folder, recipe, dataset, labels, training, validation, segmenter, report, fingerprint, kept)


def go_on(folder: Path) -> Job:
    """An interrupted run, from its own recipe.

    Raises:
        OutputError: there is no run in the folder.
        InputError: the data set's split is no longer the one of the run, or as for ``start``.
        ConfigError, WeightsError: as for ``start``.
    """
    if not (folder / RECIPE).is_file():
        raise OutputError(f"there is no run to continue in {folder}: it holds no {RECIPE}")
    recipe = parse(config.read(folder / RECIPE), where=str(folder / RECIPE))
    with checks.watching(recipe.data.accept):
        dataset, training, validation = _cases(recipe)
    if json.loads((folder / SPLIT).read_text("utf-8")) != split_of(training, validation):
        raise InputError(
            f"fold {recipe.data.fold} of {dataset.root} no longer has the cases of the run, see {folder / SPLIT}: "
            "going on would give another model; bring the data set back, or start a new run",
            code="SET-01",
        )
    labels = _labels(dataset)
    segmenter, report = _networks(recipe, labels)
    return Job(folder, recipe, dataset, labels, training, validation, segmenter, report, fingerprint=None)


def split_of(training: Sequence[Case], validation: Sequence[Case]) -> dict[str, list[str]]:
    """The content of ``split.json``."""
    return {"train": [case.id for case in training], "val": [case.id for case in validation]}


def _cases(recipe: Recipe) -> tuple[Dataset, tuple[Case, ...], tuple[Case, ...]]:
    dataset = open_dataset(recipe.data.root, recipe.data.layout)
    if recipe.data.channels is not None:
        dataset = dataset.with_channels(recipe.data.channels)
    if recipe.data.folds is not None:
        dataset = replace(dataset, splits=kfold(dataset.train, recipe.data.folds, recipe.train.seed))
    elif not dataset.splits:
        dataset = replace(dataset, splits=(default_split(dataset.train, recipe.train.seed),))
    training, validation = dataset.split(recipe.data.fold)
    if not training or not validation:
        raise InputError(f"fold {recipe.data.fold} of {dataset.root} has no training or no validation cases")
    return dataset, training, validation


def _labels(dataset: Dataset) -> Labels:
    if dataset.labels is None:
        raise InputError(f"{dataset.root} says nowhere which label values mean what")
    return dataset.labels


def _backbone(recipe: Recipe) -> tuple[str | None, Path | None]:
    """Variant and checkpoint that a recipe asks for."""
    section = recipe.backbone
    weights = Path(section.weights) if section.weights else None
    if weights is None and section.name not in (None, TINY):
        raise ConfigError(f"backbone {section.name} needs its checkpoint: set backbone.weights to the file")
    return section.name or (None if weights else TINY), weights


def _implied(asked: Recipe, seeded: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """What follows from prompts and from a random backbone for a method that leaves it open; and why."""
    name, _ = method(asked)
    options = {field.name for field in fields(adapt.config_of(name))}
    chosen: dict[str, Any] = {"adapt": {"name": name}}
    reasons = {}
    if asked.prompts.used and "prompts" in options:
        choice = "boxes" if set(asked.prompts.kinds) <= {"box", "cuboid"} else "all"
        chosen["adapt"]["prompts"] = choice
        reasons["adapt.prompts"] = f"prompt embeddings: {choice} trained, for {', '.join(asked.prompts.kinds)} prompts"
    if seeded and "decoder" in options:
        chosen["adapt"]["decoder"] = "full"
        reasons["adapt.decoder"] = "decoder trained whole: a random one has nothing worth keeping"
    if seeded and asked.prompts.used:
        chosen["prompts"] = {"draw": True}
        reasons["prompts.draw"] = "prompts are also drawn into the mask prompt: tokens alone mean nothing to it yet"
    return chosen, reasons


def _networks(recipe: Recipe, labels: Labels) -> tuple[Segmenter, LoadReport]:
    backbone, report = backbones.obtain(*_backbone(recipe), recipe.stack.size)
    torch.manual_seed(recipe.train.seed)
    name, options = method(recipe)
    adaptation = adapt.build(name, options, backbone, labels.count)
    if recipe.prompts.used and recipe.prompts.quality:
        adaptation.train_quality()
    return Segmenter(backbone, adaptation, draws=recipe.prompts.used and recipe.prompts.draw), report
