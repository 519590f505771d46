"""Everything before the first training step: data checked, recipe resolved, networks built. Nothing is written."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from voxelsam import adapt, backbones, bundle, checks, config, examine
from voxelsam.backbones import LoadReport
from voxelsam.data.fingerprint import Fingerprint, measure, suggest
from voxelsam.errors import ConfigError, InputError, InputWarning, OutputError
from voxelsam.layouts import Case, Dataset, default_split, kfold, open_dataset
from voxelsam.model import Segmenter
from voxelsam.nn.backbone import Variant
from voxelsam.train import distributed, loggers, optim, origin, whole
from voxelsam.train.origin import Origin
from voxelsam.train.plan import Facts, Limits, Plan, complete, folds
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
    origin: Origin | None = None
    """What a run that goes on was started with; None for a new one, and where an old version wrote the run folder."""

    @property
    def resumes(self) -> bool:
        """Whether an interrupted run goes on."""
        return self.fingerprint is None


def start(
    root: str | Path, folder: Path, settings: Mapping[str, Any] | None = None, progress: Progress | None = None
) -> Job:
    """A new run. In a group of processes the first one does this; the others join once the data is prepared.

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
    if not distributed.current().first:
        return join(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "; --continue goes on with the run in it" if (folder / RECIPE).is_file() else ""
        raise OutputError(f"{folder} is not empty: give a new folder for the run{hint}")
    _backbone(parse(config.merge(settings or {}, {"data": {"root": str(root)}})))
    found = resolve(root, settings, progress, limits=Limits(strict=False))
    for text in found.plan.notes:
        warnings.warn(text, InputWarning, stacklevel=2)
    if not found.validation:
        text = "nothing is validated (data.fold: none): nobody will know how good this model is"
        warnings.warn(text, InputWarning, stacklevel=2)
    recipe = found.plan.recipe
    _check_processes(recipe)
    segmenter, report = _networks(recipe, found.labels)
    kept = found.plan.open_reasons()
    cases = (found.training, found.validation)
    return Job(folder, recipe, found.dataset, found.labels, *cases, segmenter, report, found.fingerprint, kept)


@dataclass(frozen=True)
class Resolved:
    """A data set and the plan of a run on it."""

    plan: Plan
    facts: Facts
    dataset: Dataset
    labels: Labels
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    fingerprint: Fingerprint
    """Of the training cases."""


def resolve(
    root: str | Path,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    *,
    limits: Limits,
) -> Resolved:
    """Checks and measures the data, and completes the recipe; no network is made and nothing is written.

    Args:
        root: the data set's folder.
        settings: parts of a recipe as nested values; they go before what the data suggests.
        progress: told about the reading of the cases.
        limits: what the run may take.

    Raises:
        ConfigError: the recipe is wrong, or nothing fits into the limits.
        InputError: the data cannot be used; every case that cannot is listed.
        WeightsError: the checkpoint cannot be used.
    """
    given = config.merge(settings or {}, {"data": {"root": str(Path(root).absolute())}})
    asked = parse(given)
    variant = _variant(asked)
    with checks.watching(asked.data.accept):
        dataset = _opened(asked)
        count, why_folds = folds(dataset, asked)
        asked = replace(asked, data=replace(asked.data, folds=count))
        dataset, training, validation = _divided(dataset, asked)
        labels = _labels(dataset)
        cases, depth = (*training, *validation), asked.stack.depth
        measured = measure(cases, labels, dataset.channels, progress, kind=dataset.kind, depth=depth)
        learnt, held_out = ({case.id for case in side} for side in (training, validation))
        where = f"fold {asked.data.fold}"
        checks.settle(examine.dataset(measured.examined, labels, learnt, held_out, where=where))
    fingerprint = Fingerprint(measured.cases[: len(training)])
    facts = Facts(
        variant=variant,
        seeded=variant.name in backbones.SEEDED,
        classes=labels.count,
        channels=len(dataset.channels),
        training=fingerprint.cases,
        validation=measured.cases[len(training) :],
        patients=len({case.group for case in (*training, *validation)}),
        held=len({case.group for case in validation}),
    )
    suggestion, reasons = suggest(dataset, fingerprint, variant)
    implied, why = _implied(asked, variant.name in backbones.SEEDED)
    recipe = parse(config.merge(config.merge(suggestion, implied), given))
    reasons |= why
    if why_folds:
        reasons["data.fold" if count is None or asked.data.fold == "none" else "data.folds"] = why_folds
    recipe = replace(recipe, data=asked.data, backbone=replace(recipe.backbone, name=variant.name))
    recipe, why = whole.settled(recipe, fingerprint, given)
    plan = complete(recipe, given, reasons | why, facts, limits)
    return Resolved(plan, facts, dataset, labels, training, validation, fingerprint)


def go_on(folder: Path, settings: Mapping[str, Any] | None = None) -> Job:
    """An interrupted run, from its own recipe. In a group of processes the first one does this; the others join.

    Args:
        folder: of the run.
        settings: parts of a recipe that may change (``origin.FREE``), as nested values.

    Raises:
        OutputError: there is no run in the folder.
        InputError: the data is no longer that of the start, or as for ``start``.
        WeightsError: the backbone is another one, or as for ``start``.
        ConfigError: the recipe is no longer that of the start, or as for ``start``.
    """
    if not distributed.current().first:
        return join(folder, settings)
    recipe = _kept_recipe(folder, settings)
    _check_processes(recipe)
    with checks.watching(recipe.data.accept):
        dataset, training, validation = _cases(recipe)
    labels = _labels(dataset)
    if (started := origin.read(folder)) is not None:
        origin.compare(started, folder, training, validation, recipe, labels)
    else:
        text = f"{folder} does not say what its files were when the run began; only the split is compared"
        warnings.warn(text, InputWarning, stacklevel=2)
    if json.loads((folder / SPLIT).read_text("utf-8")) != split_of(training, validation):
        raise InputError(
            f"fold {recipe.data.fold} of {dataset.root} no longer has the cases of the run, see {folder / SPLIT}: "
            "going on would give another model; bring the data set back, or start a new run",
            code="SET-01",
        )
    segmenter, report = _networks(recipe, labels)
    if started is not None:
        origin.compare_backbone(started, folder, identity(report))
    for name in ("best", "last"):
        bundle.mend(folder / name)
    return Job(folder, recipe, dataset, labels, training, validation, segmenter, report, None, origin=started)


def join(folder: Path, settings: Mapping[str, Any] | None = None) -> Job:
    """The run that the first process of the group has made ready; waits for that.

    Args:
        folder: of the run.
        settings: as for ``go_on``.

    Raises:
        OutputError: this machine does not see the run folder.
        SystemExit: the first process stopped, and has said why.
    """
    distributed.wait_at_gate()
    if not (folder / RECIPE).is_file():
        raise OutputError(f"{distributed.place()} sees no {folder / RECIPE}: give a run folder that all machines share")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first process has said it
        recipe = _kept_recipe(folder, settings)
        with checks.watching(recipe.data.accept):
            dataset, training, validation = _cases(recipe)
        labels = _labels(dataset)
        segmenter, report = _networks(recipe, labels)
    return Job(folder, recipe, dataset, labels, training, validation, segmenter, report, fingerprint=None)


def processes(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> int:
    """How many processes must be started here for a run: those of its recipe, or 1 where they are there already.

    Args:
        folder: of the run.
        settings: parts of a recipe as nested values; what is wrong in them is said later.
        resume: whether the run goes on, with its own recipe below the settings.
    """
    if distributed.started_together():
        return 1
    own = config.read(folder / RECIPE) if resume and (folder / RECIPE).is_file() else {}
    section = config.merge(own, settings).get("train")
    devices, nodes = (section.get(key, 1) if isinstance(section, Mapping) else 1 for key in ("devices", "nodes"))
    return devices if isinstance(devices, int) and devices > 1 and nodes == 1 else 1


def _check_processes(recipe: Recipe) -> None:
    train = recipe.train
    distributed.check(train.devices, train.nodes, train.batch, shard=train.shard)


def _kept_recipe(folder: Path, settings: Mapping[str, Any] | None) -> Recipe:
    if not (folder / RECIPE).is_file():
        raise OutputError(f"there is no run to continue in {folder}: it holds no {RECIPE}")
    if strange := sorted(origin.flat(settings or {}).keys() - set(origin.FREE)):
        raise ConfigError(
            f"a run that goes on keeps its own recipe, so {', '.join(strange)} cannot be set; only these may change: "
            + ", ".join(origin.FREE)
        )
    return parse(config.merge(config.read(folder / RECIPE), settings or {}), where=str(folder / RECIPE))


@dataclass(frozen=True)
class Finished:
    """What a run folder says of its training."""

    recipe: Recipe
    dataset: Dataset
    labels: Labels
    train: tuple[Case, ...]
    validation: tuple[Case, ...]


def finished(folder: Path) -> Finished:
    """The recipe and the cases of a run, without its networks.

    Raises:
        OutputError: there is no run in the folder.
        ConfigError, InputError: as for ``start``.
    """
    recipe = _kept_recipe(folder, None)
    with checks.watching(recipe.data.accept):
        dataset, training, validation = _cases(recipe)
    return Finished(recipe, dataset, _labels(dataset), training, validation)


def split_of(training: Sequence[Case], validation: Sequence[Case]) -> dict[str, list[str]]:
    """The content of ``split.json``."""
    return {"train": [case.id for case in training], "val": [case.id for case in validation]}


def identity(report: LoadReport) -> dict[str, str]:
    """What tells a backbone from every other one, for records."""
    return {"name": report.variant, "sha256": report.sha256}


def _cases(recipe: Recipe) -> tuple[Dataset, tuple[Case, ...], tuple[Case, ...]]:
    return _divided(_opened(recipe), recipe)


def _opened(recipe: Recipe) -> Dataset:
    dataset = open_dataset(recipe.data.root, recipe.data.layout)
    if recipe.data.channels is not None:
        dataset = dataset.with_channels(recipe.data.channels)
    if recipe.data.structures is not None:
        dataset = dataset.with_structures(recipe.data.structures)
    return dataset


def _divided(dataset: Dataset, recipe: Recipe) -> tuple[Dataset, tuple[Case, ...], tuple[Case, ...]]:
    """The data set with the splits of the recipe, and both sides of the one that is asked for."""
    fold = recipe.data.fold
    if recipe.data.folds is not None:
        dataset = replace(dataset, splits=kfold(dataset.train, recipe.data.folds, recipe.train.seed))
    if fold == "none":
        return dataset, tuple(dataset.train), ()
    if not dataset.splits:
        dataset = replace(dataset, splits=(default_split(dataset.train, recipe.train.seed),))
    training, validation = dataset.split(fold)
    if not training or not validation:
        raise InputError(f"fold {fold} of {dataset.root} has no training or no validation cases")
    return dataset, training, validation


def _labels(dataset: Dataset) -> Labels:
    if dataset.labels is None:
        raise InputError(f"{dataset.root} says nowhere which label values mean what")
    return dataset.labels


def _backbone(recipe: Recipe) -> tuple[str | None, Path | None]:
    """Variant and checkpoint that a recipe asks for."""
    whole.check(recipe)
    if not adapt.needs_backbone(method(recipe)[0]):
        return backbones.NONE, None
    section = recipe.backbone
    weights = Path(section.weights) if section.weights else None
    if weights is None and section.name not in (None, TINY):
        raise ConfigError(f"backbone {section.name} needs its checkpoint: set backbone.weights to the file")
    return section.name or (None if weights else TINY), weights


def _variant(recipe: Recipe) -> Variant:
    """Sizes of the backbone that a recipe asks for; its checkpoint need not be there."""
    name = recipe.backbone.name
    if recipe.backbone.weights is None and name is not None and name not in (TINY, backbones.NONE):
        whole.check(recipe)
        if name not in backbones.VARIANTS:
            raise ConfigError(f"no backbone {name!r}; there are: {', '.join(backbones.VARIANTS)}")
        return backbones.VARIANTS[name]
    return backbones.variant_of(*_backbone(recipe))


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
    if seeded and "decoder" in options and not config.complaints(adapt.config_of(name), {"decoder": "full"}):
        chosen["adapt"]["decoder"] = "full"
        reasons["adapt.decoder"] = "decoder trained whole: a random one has nothing worth keeping"
    if not adapt.trains(name):
        chosen |= {"prompts": {"free": 0.0, "kinds": ["point", "box", "cuboid", "mask"]}, "stack": {"depth": 1}}
        reasons["prompts.free"] = "prompts only: a model that is not trained knows no classes"
        reasons["stack.depth"] = "depth 1: slices are seen one by one"
    elif seeded and asked.prompts.used:
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
    segmenter = Segmenter(backbone, adaptation, draws=recipe.prompts.used and recipe.prompts.draw)
    loggers.require(recipe.train.loggers)
    optim.groups(adaptation, recipe.train)
    if recipe.train.checkpointing == "auto":
        raise ConfigError(
            "train.checkpointing: auto is settled when a run is planned, by its memory; to change it in a run that "
            "goes on, give true, false or a number of blocks"
        )
    if recipe.train.recomputed != 0:
        segmenter.recompute(recipe.train.recomputed)
    return segmenter, report
