"""Cross-validation: one training per fold, each judged on cases that it never saw, and all of them together.

``OUT/fold_0`` … are run folders as any other, so ``voxelsam predict -m OUT`` takes their bundles as one ensemble.
``OUT/validation`` pools their validations (``voxelsam.validation.pool``): every labelled case once, segmented by the
model that did not learn from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from voxelsam import config
from voxelsam.errors import ConfigError, OutputError
from voxelsam.files import write_text
from voxelsam.layouts import Dataset, open_dataset
from voxelsam.train.job import RECIPE
from voxelsam.train.recipe import parse

SETTINGS = "folds.yaml"
"""What the user asked for, the same for all folds."""

FOLDS = 5
"""Where neither the data set nor the recipe says how many."""


def settled(root: str | Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Parts of a recipe that say which folds there are, and how many.

    The recipe's ``data.folds`` go before what the data set declares; where neither says anything there are five, or as
    many as there are patients.

    Args:
        root: the data set's folder.
        settings: parts of a recipe as nested values.

    Raises:
        ConfigError: a single fold was asked for as well, or the declared folds are none of a cross-validation: a case
            is held out in two of them.
        InputError: the data set cannot be used, or has a single patient.
    """
    if config.has(settings, "data.fold"):
        raise ConfigError("either all folds or data.fold, not both: leave data.fold out")
    given = config.merge(settings, {"data": {"root": str(Path(root).absolute())}})
    asked = parse(given).data
    if asked.folds is not None:
        return given, asked.folds
    dataset = open_dataset(asked.root, asked.layout)
    if len(dataset.splits) > 1:
        _check(dataset)
        return given, len(dataset.splits)
    patients = len({case.group for case in dataset.train})
    folds = min(FOLDS, max(patients, 2))
    return config.merge(given, {"data": {"folds": folds}}), folds


@dataclass(frozen=True)
class Fold:
    """One training of a cross-validation."""

    folder: Path
    root: str
    """The data set's folder."""
    settings: Mapping[str, Any]
    """Parts of its recipe as nested values; nothing for a run that goes on."""
    resumes: bool
    """Whether the run in the folder goes on."""


def folds(root: str | Path, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> tuple[Fold, ...]:
    """The trainings of a cross-validation, to be run one after the other. Nothing is written; see ``keep``.

    Args:
        root: the data set's folder; one that goes on keeps its own.
        folder: where the run folders of the folds go.
        settings: parts of a recipe as nested values, the same for all folds.
        resume: go on where an interrupted cross-validation stopped.

    Raises:
        OutputError: the folder is in use; or there is nothing to go on with.
        ConfigError, InputError: as ``settled``.
    """
    kept = folder / SETTINGS
    if resume:
        if not kept.is_file():
            raise OutputError(f"there is no cross-validation to continue in {folder}: it holds no {SETTINGS}")
        given = config.read(kept)
        count = settled(given["data"]["root"], given)[1]
    else:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = "; --continue goes on with the folds in it" if kept.is_file() else ""
            raise OutputError(f"{folder} is not empty: give a new folder for the folds{hint}")
        given, count = settled(root, settings)
    places = [folder / f"fold_{number}" for number in range(count)]
    return tuple(
        Fold(place, given["data"]["root"], {}, resumes=True)
        if resume and (place / RECIPE).is_file()
        else Fold(place, given["data"]["root"], config.merge(given, {"data": {"fold": number}}), resumes=False)
        for number, place in enumerate(places)
    )


def keep(folds: Sequence[Fold]) -> None:
    """Writes down what a cross-validation was asked for, so that it can go on as it began.

    Args:
        folds: as planned.

    Raises:
        OutputError: the file cannot be written.
    """
    given = config.merge(folds[0].settings, {})
    given["data"].pop("fold")
    write_text(folds[0].folder.parent / SETTINGS, yaml.safe_dump(given, sort_keys=False))


def _check(dataset: Dataset) -> None:
    held = [name for split in dataset.splits for name in split.val]
    if twice := sorted({name for name in held if held.count(name) > 1}):
        raise ConfigError(
            f"the {len(dataset.splits)} splits that {dataset.root} declares are no folds of a cross-validation "
            f"({twice[0]} is held out in several): choose one with --fold N, or set data.folds to make new ones"
        )
